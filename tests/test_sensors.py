"""SMARTIES and ChA-MAEViT: swapped sensors, hidden channels, and what their papers promise."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from multimask.masking.context import Context
from multimask.methods.cha_maevit import cha_maevit
from multimask.methods.recipe import Recipe
from multimask.methods.smarties import smarties
from multimask.modalities.image import ImagePatches
from multimask.modalities.spectral import SpectralPatches
from multimask.modality import collate
from multimask.model import MaskedModel
from multimask.objectives import Reconstruction
from multimask.objectives.fourier import FourierReconstruction
from multimask.objectives.mixup import CrossSensorMixup
from multimask.tokens import Batch, Masking, Step, slots_of

NM = (490.0, 560.0, 665.0, 842.0)
SMALL: Any = {"width": 24, "depth": 2, "heads": 2, "decoder_depth": 1, "decoder_heads": 2}


def shaken(recipe: Recipe) -> Recipe:
    for parameter in recipe.model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return recipe


# --- SMARTIES -------------------------------------------------------------------------------------


def two_sensors(**how: Any) -> Recipe:
    torch.manual_seed(0)
    tokenizers: Any = {
        "optical": SpectralPatches(16, 4, bands=4, group=4, wavelengths=NM),
        "radar": SpectralPatches(16, 4, bands=2, group=2, names=("VV", "VH")),
    }
    return shaken(smarties(tokenizers, decoder_width=16, **SMALL, **how))


def scenes(recipe: Recipe, *rows: tuple[str, ...]) -> Batch:
    samples = []
    for row, names in enumerate(rows):
        torch.manual_seed(row)
        made = {"optical": torch.rand(4, 16, 16), "radar": torch.rand(2, 16, 16)}
        samples.append({"id": str(row), **{name: made[name] for name in names}})
    return collate(samples, recipe.model.tokenizers)


BOTH = ("optical", "radar")


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_two_views_hold_the_tokens_of_the_two_sensors(symmetric: bool) -> None:
    objective = CrossSensorMixup(BOTH, symmetric=symmetric)
    slots = slots_of({"optical": 16, "radar": 16})
    exists = torch.ones(5, 32, dtype=torch.bool)
    generators = Step().generators(map(str, range(5)), "masking")
    views = objective.views(exists, generators, Context(slots, complete=True))
    held = [torch.cat((m.ids, m.decoded_ids), dim=1) for m in (views.one, views.two)]
    places = [each % 16 for each in held]
    assert torch.equal(places[0], places[1])  # the same locations are hidden from both
    assert views.one.ids.shape == (5, 4)
    assert places[0].sort(dim=1).values.eq(torch.arange(16)).all()
    if symmetric:  # at each location one view has the one sensor, the other the other
        assert (held[0] - held[1]).abs().eq(16).all()
        assert (held[0] >= 16).sum(dim=1).eq(8).all()  # exactly half are not the own sensor's
    else:
        assert (held[1] >= 16).all()
        assert (held[0] >= 16).sum(dim=1).eq(8).all()
    moved = [view.target.nonzero() for view in (views.one, views.two)]
    assert all(len(each) == 5 * 12 for each in moved)  # targets moved with the tokens


def test_a_head_without_a_hidden_location_has_no_gradient() -> None:
    recipe = two_sensors(swap=0.0)
    objective = cast(Any, recipe.objective)
    whole = objective.views

    def first_twice(*given: Any) -> Any:
        made = whole(*given)
        return made._replace(two=made.one)

    objective.views = first_twice
    terms = recipe.objective(recipe.model, scenes(recipe, BOTH, BOTH), Step())
    torch.stack([term.value() for term in terms.values()]).sum().backward()
    heads = {n: cast(Any, recipe.model.adapters[n]).projection.leave.weight.grad for n in BOTH}
    assert heads["optical"].abs().max() > 0
    assert heads["radar"].abs().max() == 0


def test_a_zero_answer_costs_one_less_of_all_bands_and_pixels() -> None:
    """64 of 16 pixels x 4 bands, 32 of radar's 16 x 2; 3071/3072 at the paper's size."""
    recipe = two_sensors(swap=0.0)
    for name in BOTH:
        nn.init.zeros_(cast(Any, recipe.model.adapters[name]).projection.leave.weight)
        nn.init.zeros_(cast(Any, recipe.model.adapters[name]).projection.leave.bias)
    terms = recipe.objective(recipe.model, scenes(recipe, BOTH, BOTH), Step())
    assert terms["first"].value().item() == pytest.approx(0.5 * 63 / 64, abs=1e-4)
    assert terms["second"].value().item() == pytest.approx(0.5 * 31 / 32, abs=1e-4)


def test_a_scene_with_one_sensor_shows_it_in_both_views() -> None:
    recipe = two_sensors()
    objective = cast(CrossSensorMixup, recipe.objective)
    batch = scenes(recipe, BOTH, ("optical",), ("radar",))
    tokens = recipe.model.tokenize(batch)
    generators = Step().generators(batch.sample_ids, "masking")
    views = objective.views(tokens.exists, generators, recipe.model.context(tokens))
    for view in (views.one, views.two):
        assert (view.ids[1] < 16).all()
        assert (view.ids[2] >= 16).all()
        assert view.target.sum(dim=1).eq(12).all()
    alone = scenes(recipe, BOTH)
    whole = objective(recipe.model, batch, Step())
    assert all(term.count == 36 for term in whole.values())
    assert all(term.value() > 0 for term in objective(recipe.model, alone, Step()).values())


def test_sensors_on_different_lattices_are_refused() -> None:
    objective = CrossSensorMixup(BOTH)
    exists = torch.ones(1, 20, dtype=torch.bool)
    context = Context(slots_of({"optical": 16, "radar": 4}), complete=True)
    with pytest.raises(ValueError, match="on one lattice"):
        objective.views(exists, Step().generators("a", "masking"), context)
    with pytest.raises(ValueError, match="expected two sensors"):
        smarties({"optical": ImagePatches(8, 4)})


# --- ChA-MAEViT -----------------------------------------------------------------------------------

STAINS = ("DNA", "ER", "RNA", "AGP")


def channels(bands: int = 4, **how: Any) -> Recipe:
    torch.manual_seed(0)
    tokenizer = SpectralPatches(16, 4, bands=bands, names=STAINS)
    sizes: Any = {"width": 32, "depth": 2, "heads": 2, "decoder_depth": 1, "decoder_heads": 2}
    return shaken(cha_maevit({"cells": tokenizer}, **sizes, **how))


def cells(recipe: Recipe, order: tuple[int, ...] = (0, 1, 2, 3)) -> Batch:
    samples = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        pixels = torch.rand(4, 16, 16)
        names = [STAINS[channel] for channel in order]
        cube: Any = {"pixels": pixels[list(order)], "names": names}
        cube["wavelengths"] = [float("nan")] * len(order)
        samples.append({"id": str(seed), "cells": cube})
    return collate(samples, recipe.model.tokenizers)


def test_dummy_channels_change_neither_answers_nor_loss() -> None:
    narrow, wide = channels(4), channels(7)
    wide.model.load_state_dict(narrow.model.state_dict())
    found = [r.model.encode(cells(r)).globals for r in (narrow, wide)]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-5)
    losses = []
    for recipe in (narrow, wide):  # two channels are shown, the others and dummies are asked for
        slots = recipe.model.num_tokens["cells"]
        ids = torch.arange(slots).expand(2, -1)
        exists = ids < 64
        masking = Masking(ids[:, :32], ids[:, 32:], exists, decoded_padded=slots > 64)
        batch = replace(cells(recipe), masking=masking)
        losses.append(recipe.objective(recipe.model, batch, Step())["cells"])
    assert losses[0].count == losses[1].count
    torch.testing.assert_close(losses[0].total, losses[1].total, rtol=0, atol=1e-5)


def test_the_order_of_channels_is_of_no_account() -> None:
    recipe = channels()
    straight = recipe.model.encode(cells(recipe))
    turned = recipe.model.encode(cells(recipe, (2, 0, 3, 1)))
    torch.testing.assert_close(straight.globals, turned.globals, rtol=0, atol=1e-5)
    blocks = straight.tokens.unflatten(1, (4, 16))[:, [2, 0, 3, 1]].flatten(1, 2)
    torch.testing.assert_close(blocks, turned.tokens, rtol=0, atol=1e-5)
    # the first two are shown, the others answered for, wherever they stand
    one = answers_for(recipe, cells(recipe), shown=(0, 1), asked=(2, 3))
    two = answers_for(recipe, cells(recipe, (2, 0, 3, 1)), shown=(1, 3), asked=(0, 2))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def answers_for(
    recipe: Recipe, batch: Batch, shown: tuple[int, ...], asked: tuple[int, ...]
) -> Tensor:
    """Answers for the channels that stand at some places, `(2, channels, patches, numbers)`."""
    ids, decoded = (
        torch.cat([torch.arange(16 * place, 16 * place + 16) for place in places]).expand(2, -1)
        for places in (shown, asked)
    )
    model, tokens = recipe.model, recipe.model.tokenize(batch)
    masking = model.picked(tokens, Masking(ids, decoded, tokens.exists))
    features = model.decode(tokens, model.encode_visible(tokens, masking), masking)
    return model.predict(tokens, features, masking)["cells"][0].unflatten(0, (2, len(asked), 16))


def test_hidden_channels_are_told_apart_by_their_vectors_alone() -> None:
    """With the vectors of two hidden channels swapped, their answers swap."""
    recipe = channels()
    batch = cells(recipe)

    def answers() -> Tensor:
        return answers_for(recipe, batch, shown=(0, 1), asked=(2, 3))

    before = answers()
    vectors = cast(Any, recipe.model.adapters["cells"]).decoder_position.channel
    with torch.no_grad():
        vectors[[2, 3]] = vectors[[3, 2]].clone()
    after = answers()
    torch.testing.assert_close(after, before.flip(1), rtol=0, atol=1e-5)
    assert (before[:, 0] - before[:, 1]).abs().max() > 1e-3


def test_the_spectrum_is_an_addition_that_weight_zero_takes_away() -> None:
    recipe = channels(fourier=0.0)
    batch, model = cells(recipe), recipe.model
    plain = Reconstruction(recipe.objective.masker)(model, batch, Step())
    none = recipe.objective(model, batch, Step())
    assert set(none) == {"cells"}
    assert torch.equal(none["cells"].total, plain["cells"].total)
    some = FourierReconstruction(recipe.objective.masker, 0.01)(model, batch, Step())
    assert some["cells"].value().item() == pytest.approx(0.99 * plain["cells"].value().item())
    assert some["cells_spectrum"].value() > 0


def test_a_true_answer_has_the_true_spectrum() -> None:
    recipe = channels(fourier=0.5)
    objective, model = cast(FourierReconstruction, recipe.objective), recipe.model
    made = Reconstruction(objective.masker).answered(model, cells(recipe), Step())
    _, values, at = made.answers["cells"]
    truth = objective.wanted(model, "cells", values)
    perfect = type(made)(made.tokens, made.masking, {"cells": (truth, values, at)}, made.scorers)
    assert objective.spectrum(model, perfect, "cells").value().item() == pytest.approx(0, abs=1e-6)


def test_missing_pixels_leave_both_terms_finite_and_their_answers_count_for_nothing() -> None:
    recipe = channels(fourier=0.5)
    objective, model = cast(FourierReconstruction, recipe.objective), recipe.model
    batch = cells(recipe)
    gone = batch.parts["cells"].data["pixels"]
    gone[0, 0, 0] = gone[:, 1, 5, 6] = torch.nan
    batch.parts["cells"].data["whole"] = False
    made = Reconstruction(objective.masker).answered(model, batch, Step())
    prediction, values, at = made.answers["cells"]
    assert values.isnan().any()
    other = torch.where(values.isnan(), prediction + 9, prediction)
    noisy = type(made)(made.tokens, made.masking, {"cells": (other, values, at)}, made.scorers)
    plain, changed = (objective.spectrum(model, one, "cells").value() for one in (made, noisy))
    assert plain > 0
    assert torch.equal(plain, changed)
    terms = objective(model, batch, Step())
    sum(term.value() for term in terms.values()).backward()  # type: ignore[union-attr]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in gradients)


def test_memory_tokens_are_never_counted_and_stay_at_inference() -> None:
    recipe = channels()
    latents = recipe.model.encode(cells(recipe))
    assert latents.globals.shape == (2, 5, 32)
    assert latents.tokens.shape[1] == 64


def test_the_papers_numbers_are_the_defaults() -> None:
    with torch.device("meta"):
        recipe = cha_maevit({"cells": SpectralPatches(224, 16, bands=8, names=STAINS)})
    encoder = cast(Any, recipe.model).encoder
    assert (encoder.width, encoder.depth, encoder.heads, len(encoder.globals)) == (384, 11, 6, 5)
    assert cast(Any, recipe.objective).weight == 0.01
    assert isinstance(recipe.model, MaskedModel)
    rule = cast(Any, recipe.objective.masker.rule)
    assert (rule.patch, rule.channel, rule.ratio) == (0.0, 0.0, 0.25)
