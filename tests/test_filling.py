"""Any subset in, any modality out: what is asked for is never read, lacking it changes nothing."""

from typing import Any

import pytest
import torch
from torch import nn

from multimask.masking import Count, Dirichlet, Masker
from multimask.modalities.depth_maps import DepthMaps
from multimask.modalities.image import ImagePatches
from multimask.modalities.skeleton import SkeletonJoints
from multimask.modalities.spectral import SpectralPatches
from multimask.modalities.video import Tubelets
from multimask.modalities.volume import VolumePatches
from multimask.modality import KnowsPlaces, Tokenizer, collate
from multimask.model import MaskedModel
from multimask.nn.adapters import Target
from multimask.nn.decoders import HiddenDecoder, JointDecoder
from multimask.nn.encoders import Encoder
from multimask.nn.task_decoders import TaskDecoders
from multimask.objectives import Reconstruction
from multimask.tokens import Batch, Masking, Part, Sample, Step

MAPS: dict[str, Tokenizer] = {
    "colour": ImagePatches((8, 12), 4),
    "edges": ImagePatches((8, 12), 4, channels=1),
    "heat": ImagePatches(8, 4, channels=2),
}


def build(
    decoder: type[nn.Module] = JointDecoder, unit: Any = "none", **encoder: Any
) -> MaskedModel:
    torch.manual_seed(0)
    model = MaskedModel(
        MAPS, Encoder(24, 2, 2, **encoder), decoder(24, 16, 2, 2), target=Target(unit)
    ).eval()
    for parameter in model.parameters():  # zeros at the start would hide what is wrong
        nn.init.normal_(parameter, std=0.1)
    return model


def sample(seed: int, *names: str) -> Sample:
    torch.manual_seed(seed)
    made = {
        "colour": torch.rand(3, 8, 12),
        "edges": torch.rand(1, 8, 12),
        "heat": torch.rand(2, 8, 8),
    }
    return {"id": str(seed), **{name: value for name, value in made.items() if name in names}}


def put(*samples: Sample) -> Batch:
    return collate(samples, MAPS)


# --- encode ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [["edges"], ["heat", "colour"], ["colour", "edges", "heat"]])
def test_encoding_a_subset_is_encoding_samples_that_have_nothing_else(names: list[str]) -> None:
    model = build()
    whole = put(*(sample(seed, *MAPS) for seed in (1, 2)))
    bare = put(*(sample(seed, *names) for seed in (1, 2)))
    found, wanted = model.encode(whole, modalities=names), model.encode(bare)
    assert torch.equal(found.tokens, wanted.tokens)
    assert torch.equal(found.globals, wanted.globals)
    assert torch.equal(found.ids, wanted.ids)


def test_what_is_left_out_of_an_encoding_may_be_anything() -> None:
    model, batch = build(), put(sample(1, *MAPS))
    before = model.encode(batch, modalities=["colour"]).tokens
    batch.parts["heat"].data.normal_()
    assert torch.equal(model.encode(batch, modalities=["colour"]).tokens, before)


def test_a_sample_without_any_of_the_modalities_is_named() -> None:
    batch = put(sample(1, "colour"), sample(2, "edges"))
    with pytest.raises(ValueError, match="sample '2' has none of the modalities colour"):
        build().encode(batch, modalities=["colour"])
    with pytest.raises(ValueError, match="found sound"):
        build().encode(batch, modalities=["sound"])
    with pytest.raises(ValueError, match="at least one of colour, edges, heat"):
        build().encode(batch, modalities=[])


# --- reconstruct ----------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", [JointDecoder, HiddenDecoder])
def test_a_target_is_answered_alike_whether_a_sample_has_it_or_not(decoder: Any) -> None:
    model = build(decoder)
    with_it = model.reconstruct(put(sample(1, *MAPS), sample(2, *MAPS)), targets=["edges"])
    without = model.reconstruct(
        put(sample(1, "colour", "heat"), sample(2, "colour", "heat")), targets=["edges"]
    )
    mixed = model.reconstruct(put(sample(1, *MAPS), sample(2, "colour", "heat")), targets=["edges"])
    wanted = with_it.restored["edges"].values
    assert wanted.shape == (2, 6, 16)
    assert wanted.std() > 0
    assert torch.equal(without.restored["edges"].values, wanted)
    assert torch.equal(mixed.restored["edges"].values, wanted)
    assert "edges" not in without.tokens
    assert mixed.tokens["edges"].rows.tolist() == [0]
    picture = model.untokenize("edges", without.restored["edges"])
    assert isinstance(picture, torch.Tensor)
    assert picture.shape == (2, 1, 8, 12)


@pytest.mark.parametrize("decoder", ["joint", "task"])
def test_holes_in_a_target_do_not_show_in_its_answer(decoder: str) -> None:
    maps: dict[str, Tokenizer] = {"colour": ImagePatches(8, 4), "depth": DepthMaps(8, 4)}
    torch.manual_seed(0)
    task = TaskDecoders(24, tuple(maps), 16, 1, 2) if decoder == "task" else None
    model = MaskedModel(maps, Encoder(24, 1, 2), task, decoder_width=16, decoder_depth=2)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    whole = {"colour": torch.rand(3, 8, 8), "depth": 1 + torch.rand(8, 8)}
    holes = whole | {"depth": whole["depth"].clone()}
    holes["depth"][:4, :5] = 0
    rows = [{"id": "a", **whole}, {"id": "b", **holes}, {"id": "c", "colour": whole["colour"]}]
    found = model.reconstruct(collate(rows, maps), targets=["depth"])
    alone = model.reconstruct(collate([rows[1]], maps), targets=["depth"])
    wanted = found.restored["depth"].values[0]
    for other in (*found.restored["depth"].values[1:], alone.restored["depth"].values[0]):
        torch.testing.assert_close(other, wanted)
    assert found.target["depth"].tolist() == [[True] * 4, [False, True, True, True], [True] * 4]


def test_noise_in_a_target_changes_no_bit() -> None:
    model, batch = build(), put(sample(1, *MAPS), sample(2, *MAPS))
    before = model.reconstruct(batch, targets=["edges", "heat"])
    for name in ("edges", "heat"):
        batch.parts[name].data.normal_()
    after = model.reconstruct(batch, targets=["edges", "heat"])
    for name in ("edges", "heat"):
        assert torch.equal(after.restored[name].values, before.restored[name].values)
    assert not before.visible["edges"].any()
    assert before.target["edges"].all()
    assert before.visible["colour"].all()


def test_batch_mates_do_not_show_in_an_answer() -> None:
    model = build()
    alone = model.reconstruct(put(sample(1, "colour")), targets=["heat"])
    among = model.reconstruct(
        put(sample(3, "edges"), sample(1, "colour"), sample(2, *MAPS)), targets=["heat"]
    )
    torch.testing.assert_close(
        among.restored["heat"].values[1:2], alone.restored["heat"].values, rtol=0, atol=1e-6
    )


def test_a_share_of_what_is_there_is_another_one_each_step() -> None:
    model, batch = build(), put(sample(1, "colour", "edges"), sample(2, "colour"))
    found = [model.reconstruct(batch, step=Step(i), targets=["heat"], share=0.5) for i in (0, 0, 1)]
    for made in found:
        counts = sum(made.visible[name].sum(dim=1) for name in MAPS)
        assert torch.as_tensor(counts).tolist() == [6, 3]
    values = [made.restored["heat"].values for made in found]
    assert torch.equal(values[0], values[1])
    assert not torch.isclose(values[0], values[2]).all(dim=(1, 2)).any()


def test_what_cannot_be_filled_is_said() -> None:
    batch = put(sample(1, "colour"), sample(2, "edges"))
    with pytest.raises(ValueError, match="'2' has nothing beside the targets edges"):
        build().reconstruct(batch, targets=["edges"])
    with pytest.raises(ValueError, match="only the hidden truth tells"):
        build(unit="patch").reconstruct(batch, targets=["heat"])
    with pytest.raises(ValueError, match="share=0"):
        build().reconstruct(batch, targets=["heat"], share=0.0)


@pytest.mark.parametrize(
    "tokenizer",
    [
        ImagePatches((8, 12), 4),
        Tubelets(4, (8, 12), 4),
        VolumePatches(8, 4, channels=2, spacing=(1.0, 2.0, 3.0)),
        SkeletonJoints(frames=4),
        SpectralPatches(8, 4, bands=3, wavelengths=(490.0, 560.0, 665.0)),
    ],
)
def test_blank_samples_have_every_token_in_its_place(tokenizer: Any) -> None:
    assert issubclass(type(tokenizer), KnowsPlaces)
    tokens = tokenizer(Part(tokenizer.blank(3), torch.arange(3)))
    assert tokens.values.shape == (3, tokenizer.num_tokens, tokenizer.token_dim)
    assert tokens.valid is None or tokens.valid.all()
    assert tokens.grid == tokenizer.grid
    assert tokens.coords.isfinite().all()
    model = MaskedModel({"it": tokenizer, "cue": ImagePatches(8, 4)}, width=24, depth=1, heads=2)
    batch = collate([{"id": "x", "cue": torch.rand(3, 8, 8)}], model.tokenizers)
    filled = model.reconstruct(batch, targets=["it"]).restored["it"]
    assert filled.values.shape == (1, tokenizer.num_tokens, tokenizer.token_dim)


# --- absent is hidden completely, and order is of no account --------------------------------------


@pytest.mark.parametrize("names", [["edges"], ["colour", "heat"]])
def test_absent_is_hidden_completely(names: list[str]) -> None:
    """Encoding samples that have a subset equals encoding all with the rest hidden; noise in the
    hidden rest changes no bit (BM-MAE's subset equivalence)."""
    model, batch = build(), put(sample(1, *MAPS), sample(2, *MAPS))
    wanted = model.encode(batch, modalities=names)
    tokens = model.tokenize(batch)
    ids = torch.cat([torch.arange(w.start, w.stop) for n, w in model.slots.items() if n in names])
    rest = torch.tensor([slot for slot in range(tokens.num_slots) if slot not in ids.tolist()])
    masking = Masking(ids.expand(2, -1), rest.expand(2, -1), tokens.exists)
    found = model.encode_visible(tokens, masking)
    torch.testing.assert_close(found.tokens, wanted.tokens, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.globals, wanted.globals, rtol=0, atol=1e-6)
    for name in set(MAPS) - set(names):
        tokens.modalities[name].values.normal_()
    assert torch.equal(model.encode_visible(tokens, masking).tokens, found.tokens)


def test_the_order_of_modalities_changes_no_bit() -> None:
    torch.manual_seed(0)
    turned = MaskedModel(
        dict(reversed(MAPS.items())), Encoder(24, 2, 2), JointDecoder(24, 16, 2, 2)
    ).eval()
    model = build()
    turned.load_state_dict(model.state_dict())
    samples = [sample(1, *MAPS), sample(2, "heat", "edges")]
    backwards = [dict(reversed(each.items())) for each in samples]
    batches = [collate(samples, MAPS), collate(backwards, turned.tokenizers)]
    assert torch.equal(model.encode(batches[0]).tokens, turned.encode(batches[1]).tokens)
    made = [
        m.reconstruct(b, targets=["colour"]) for m, b in zip((model, turned), batches, strict=True)
    ]
    assert torch.equal(made[0].restored["colour"].values, made[1].restored["colour"].values)
    masker = Masker(budget=Dirichlet(Count(5)))
    losses = [
        Reconstruction(masker)(m, b, Step()) for m, b in zip((model, turned), batches, strict=True)
    ]
    assert list(losses[0]) == list(losses[1])
    assert all(torch.equal(losses[0][n].total, losses[1][n].total) for n in losses[0])


def test_batch_mates_do_not_show_in_what_is_encoded() -> None:
    model = build()
    mates = [sample(1, "colour"), sample(2, *MAPS), sample(3, "edges", "heat")]
    among = model.encode(put(*mates))
    for row, mate in enumerate(mates):
        alone = model.encode(put(mate))
        torch.testing.assert_close(among.mean()[row], alone.mean()[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(among.globals[row], alone.globals[0], rtol=0, atol=1e-6)
