"""Any subset in, any modality out: what is asked for is never read, lacking it changes nothing."""

from typing import Any

import pytest
import torch
from torch import nn

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
from multimask.tokens import Batch, Part, Sample, Step

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
