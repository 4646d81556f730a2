"""The convolutional back end of PHG-MAE: shapes, blanks, and that it learns."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from multimask import MaskedModel, collate, fit, load
from multimask.ensembles import ensemble
from multimask.methods.phg_mae import phg_mae_conv
from multimask.methods.recipe import Recipe
from multimask.modalities.depth_maps import DepthMaps
from multimask.modalities.image import ImagePatches
from multimask.modalities.label_maps import LabelMaps
from multimask.nn.convolutions import SafeUAV
from multimask.tokens import Batch, Sample, Step

TARGET = "semantic"
HEIGHT, WIDTH = 9, 12


def built(patch: int = 1, **how: Any) -> Recipe:
    torch.manual_seed(0)
    size = HEIGHT, WIDTH
    tokenizers: Any = {
        "rgb": ImagePatches(size, patch),
        "depth": DepthMaps(size, patch, scale="fixed"),
        TARGET: LabelMaps(3, size, patch),
    }
    return phg_mae_conv(tokenizers, targets=(TARGET,), width=4, features=8, **how)


def sample(seed: int, *without: str) -> Sample:
    """Bright pixels are far, and a class of their own."""
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.rand(3, HEIGHT, WIDTH, generator=generator)
    grey = rgb.mean(dim=0)
    made = {"rgb": rgb, "depth": grey + 0.5, TARGET: (grey > 0.4).long() + (grey > 0.6)}
    return {"id": str(seed), **{n: value for n, value in made.items() if n not in without}}


def put(recipe: Recipe, *samples: Sample) -> Batch:
    return collate(samples, recipe.model.tokenizers)


@pytest.mark.parametrize("shape", [(16, 24), (9, 13), (7, 1), (1, 1)])
def test_channels_out_are_channels_in_also_of_odd_sizes(shape: tuple[int, int]) -> None:
    """Depth, normals, colours and eight classes: the published 15."""
    net = SafeUAV(15, features=8)
    assert net(torch.randn(2, 15, *shape)).shape == (2, 15, *shape)


def test_parameters_are_those_of_the_published_layers() -> None:
    f, channels = 8, 15
    down = 9 * (channels * f + 2 * f * f)
    down += 9 * (f * 2 * f + 2 * (2 * f) ** 2) + 9 * (2 * f * 4 * f + 2 * (4 * f) ** 2)
    middle = 9 * (4 * f * 8 * f + 5 * (8 * f) ** 2)
    up = sum(4 * 2 * w * w + w + 9 * 2 * w * w for w in (4 * f, 2 * f, f))
    norms = 2 * (3 * (f + 2 * f + 4 * f) + 6 * 8 * f + (4 * f + 2 * f + f))
    out = f * channels + channels
    net = SafeUAV(channels, f)
    assert sum(p.numel() for p in net.parameters()) == down + middle + up + norms + out


def test_a_sample_is_answered_alike_whoever_is_beside_it() -> None:
    net = SafeUAV(4, features=8).train()
    maps = torch.randn(3, 4, 10, 11)
    torch.testing.assert_close(net(maps)[:1], net(maps[:1]), atol=1e-5, rtol=1e-4)


def test_what_is_hidden_and_the_target_do_not_leak() -> None:
    recipe = built(always=("rgb",))
    model, batch = recipe.model, put(recipe, *(sample(seed) for seed in range(6)))
    tokens = model.tokenize(batch)
    masking = model.picked(tokens, recipe.objective.masking(model, tokens, batch, Step()))
    before = model.decode(tokens, model.encode_visible(tokens, masking), masking)
    for name, where in tokens.slots.items():
        hidden = ~masking.visible[:, where.start : where.stop]
        values = tokens.modalities[name].values
        other = torch.randn(values.shape) if values.is_floating_point() else 2 - values
        values[hidden] = other[hidden]
    after = model.decode(tokens, model.encode_visible(tokens, masking), masking)
    assert torch.equal(after, before)


def test_a_subset_padded_beside_larger_ones_is_answered_as_alone() -> None:
    recipe = built()
    together = recipe.objective(recipe.model, put(recipe, *(sample(s) for s in range(6))), Step())
    alone = [recipe.objective(recipe.model, put(recipe, sample(s)), Step()) for s in range(6)]
    total = sum(terms[TARGET].total.item() for terms in alone)
    assert together[TARGET].total.item() == pytest.approx(total, rel=1e-5)


def test_padding_of_a_subset_is_blank_whatever_an_encoder_made_of_it() -> None:
    recipe = built()
    model, batch = recipe.model, put(recipe, *(sample(seed) for seed in range(6)))
    tokens = model.tokenize(batch)
    masking = model.picked(tokens, recipe.objective.masking(model, tokens, batch, Step()))
    latents = model.encode_visible(tokens, masking)
    assert latents.valid is not None
    spoilt = latents.tokens + 5.0 * ~latents.valid[..., None]
    wanted = model.decode(tokens, latents, masking)
    assert torch.equal(model.decode(tokens, replace(latents, tokens=spoilt), masking), wanted)


@pytest.mark.parametrize(("patch", "share"), [(1, 0.7), (3, 0.9)])
def test_it_learns_to_answer_for_maps_that_a_sample_lacks(
    patch: int, share: float, tmp_path: Path
) -> None:
    recipe = built(patch)
    rows = [sample(seed, *(["depth"] if seed % 3 == 0 else [])) for seed in range(32)]
    settings: Any = {**recipe.training, "lr": 5e-3, "batch_size": 16, "progress": False}
    fitted = fit(recipe.model, recipe.objective, rows, epochs=16, **settings)
    assert fitted.loss_last < share * fitted.loss_first
    model = recipe.model.eval()
    batch = put(recipe, *(sample(seed, TARGET, "depth") for seed in range(4)))
    filled = model.reconstruct(batch, targets=["depth"]).restored["depth"].values
    assert filled.shape == (4, HEIGHT * WIDTH // patch**2, patch**2)
    batch = put(recipe, *(sample(seed) for seed in range(4)))
    answer = ensemble(model, batch, TARGET, [("rgb",), ("rgb", "depth")]).answer
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert isinstance(again, MaskedModel)
    same = ensemble(again.eval(), batch, TARGET, [("rgb",), ("rgb", "depth")]).answer
    assert torch.equal(same, answer)


def test_mistakes_are_said() -> None:
    with pytest.raises(ValueError, match="features=12 divisible"):
        SafeUAV(3, features=12)
    tokenizers: Any = {"rgb": ImagePatches(8, 1), "depth": DepthMaps(8, 2)}
    recipe = phg_mae_conv(tokenizers, width=4, features=8)
    rows: list[Sample] = [{"id": "a", "rgb": torch.rand(3, 8, 8), "depth": torch.rand(8, 8)}]
    with pytest.raises(ValueError, match=r"one lattice of rows and columns: depth \(4, 4\), rgb"):
        recipe.objective(recipe.model, collate(rows, recipe.model.tokenizers), Step())
    with pytest.raises(ValueError, match="no layers to tap"):
        recipe.model.encode(collate(rows, recipe.model.tokenizers), taps=(0,))
