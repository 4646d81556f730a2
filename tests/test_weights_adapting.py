"""Weights for other data: adapted to its sizes, channels and patches, and told in a report."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

import multimask
from multimask.checkpoints import adapt, initialise
from multimask.methods.mae import mae
from multimask.modalities.image import ImagePatches
from multimask.modalities.points import PointGroups
from multimask.tokens import Batch, Part
from small_weights import HEADS, SIZES, batch, model_of, state_in, write_theirs


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_theirs(tmp_path_factory.mktemp("weights"))


# --- other sizes, channels, patches ---------------------------------------------------------------


def test_a_square_model_at_another_size_interpolates_its_tables(theirs: Path) -> None:
    said: list[str] = []
    wide = ImagePatches((40, 24), 4, mean=0.5, std=0.5)
    model = multimask.load(theirs, modalities={"image": wide}, tell=said.append, **HEADS)
    assert cast(ImagePatches, model.tokenizers["image"]).grid == (10, 6)
    table = cast(Any, model.adapters["image"]).position.table
    old = state_in(theirs)["pos_embed"][0, 1:].T.reshape(1, 24, 14, 14)
    wanted = nn.functional.interpolate(old, (10, 6), mode="bicubic", align_corners=False)
    torch.testing.assert_close(table, wanted[0].flatten(1).T, atol=1e-6, rtol=0)
    assert "48 weights matched, 2 adapted, 0 new, 0 left aside" in said[0]
    assert "14x14 places interpolated to 10x6" in said[0]
    assert "mean is 0.5 here and (0.485, 0.456, 0.406) there" in said[0]
    assert model.encode(batch(3, 40, 24)).tokens.shape == (2, 60, 24)


def test_grids_of_as_many_places_are_still_told_apart(theirs: Path) -> None:
    flat = multimask.load(
        theirs, modalities={"image": ImagePatches((28, 112), 4)}, tell=None, **HEADS
    )
    assert flat.num_tokens["image"] == 196
    table = cast(Any, flat.adapters["image"]).position.table
    assert not torch.equal(table, state_in(theirs)["pos_embed"][0, 1:])


def test_more_channels_repeat_the_old_ones_and_keep_their_sum(theirs: Path) -> None:
    said: list[str] = []
    five = ImagePatches(56, 4, channels=5)
    model = multimask.load(theirs, modalities={"image": five}, tell=said.append, **HEADS)
    assert "3 channels to 5" in said[0]
    kernel = model.state_dict()["adapters.image.proj.weight"].view(24, 16, 5)
    old = state_in(theirs)["patch_embed.proj.weight"].flatten(2).transpose(1, 2)
    torch.testing.assert_close(kernel[..., 3], old[..., 0] * 3 / 5)
    rows = model.state_dict()["adapters.image.pred.weight"].view(16, 5, 16)
    torch.testing.assert_close(
        rows[:, 4], state_in(theirs)["decoder_pred.weight"].view(16, 3, 16)[:, 1]
    )


def test_a_single_channel_sees_a_grey_picture_as_it_was_seen(theirs: Path) -> None:
    alike: dict[str, Any] = {"mean": 0.5, "std": 0.5}
    colour, grey = (
        multimask.load(
            theirs,
            modalities={"image": ImagePatches(56, 4, channels=count, **alike)},
            tell=None,
            **HEADS,
        )
        for count in (3, 1)
    )
    one = batch(1, 56, 56)
    three = Batch(
        2,
        one.sample_ids,
        {},
        {"image": Part(one.parts["image"].data.expand(2, 3, 56, 56), torch.arange(2))},
    )
    with torch.no_grad():
        torch.testing.assert_close(
            grey.encode(one).tokens, colour.encode(three).tokens, atol=1e-5, rtol=0
        )


def test_a_larger_patch_says_of_an_enlarged_picture_what_was_said(theirs: Path) -> None:
    same: dict[str, Any] = {"mean": 0.5, "std": 0.5}
    said: list[str] = []
    small, large = (
        multimask.load(
            theirs,
            modalities={"image": ImagePatches(14 * side, side, **same)},
            tell=said.append,
            **HEADS,
        )
        for side in (4, 8)
    )
    assert "patch 4x4 resized to 8x8" in said[1]
    pictures = batch(3, 56, 56).parts["image"].data
    matrix = adapt.resizing(4, 8)
    patches = pictures.unflatten(2, (14, 4)).unflatten(4, (14, 4))  # b c y 4 x 4
    grown = torch.einsum("bcyrxs,tr,us->bcytxu", patches, matrix, matrix).reshape(2, 3, 112, 112)
    both = [
        Batch(2, ("a", "b"), {}, {"image": Part(x, torch.arange(2))}) for x in (pictures, grown)
    ]
    with torch.no_grad():
        torch.testing.assert_close(
            large.encode(both[1]).tokens, small.encode(both[0]).tokens, atol=2e-4, rtol=0
        )


def test_a_vit_at_224_pixels_reads_other_sizes_and_channels(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(
        image_size=224, patch_size=16, hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=96, decoder_hidden_size=16, decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2, decoder_intermediate_size=64,
    )  # fmt: skip
    transformers.ViTMAEForPreTraining(config).save_pretrained(tmp_path)
    said: list[str] = []
    tall = ImagePatches((160, 96), 16, channels=5)
    model = multimask.load(tmp_path, modalities={"image": tall}, tell=said.append)
    assert "adapters.image.proj.weight: 3 channels to 5" in said[0]
    assert "adapters.image.position.table: 14x14 places interpolated to 10x6" in said[0]
    assert "0 new, 0 left aside" in said[0]
    made = batch(5, 160, 96)
    assert model.encode(made).tokens.shape == (2, 60, 24)
    answer = model.reconstruct(made)
    assert answer.restored["image"].values.shape == (2, 60, 16 * 16 * 5)


def test_our_own_folder_is_adapted_the_same_way(tmp_path: Path) -> None:
    model_of(ImagePatches(16, 4)).save(tmp_path / "ours")
    said: list[str] = []
    other = multimask.load(
        tmp_path / "ours", modalities={"image": ImagePatches(32, 8, channels=1)}, tell=said.append
    )
    assert "patch 4x4 resized to 8x8, 3 channels to 1" in said[0]
    assert other.encode(batch(1, 32, 32)).tokens.shape == (2, 16, 24)


# --- into a model that is there -------------------------------------------------------------------


def test_a_model_is_begun_with_their_weights(theirs: Path) -> None:
    model = model_of(ImagePatches(56, 4), name="photo", seed=5)
    report = initialise(model, theirs, **HEADS)
    assert torch.equal(
        model.state_dict()["encoder.blocks.1.mlp.fc1.weight"],
        state_in(theirs)["blocks.1.mlp.fc1.weight"],
    )
    # positions are computed here, the modality's name in the decoder begins new
    assert report.fresh == ("adapters.photo.decoder_name",)
    assert set(report.skipped) == {
        "adapters.image.position.table",
        "adapters.image.decoder_position.table",
    }


def test_modalities_that_are_not_there_stay_as_they_began(tmp_path: Path) -> None:
    torch.manual_seed(0)
    both = mae({"a": ImagePatches(16, 4), "b": ImagePatches(16, 4)}, **SIZES).model
    both.save(tmp_path / "both")
    torch.manual_seed(1)
    other = mae({"a": ImagePatches(16, 4), "c": PointGroups(4, 2)}, **SIZES).model
    before = {k: v.clone() for k, v in other.state_dict().items() if k.startswith("adapters.c.")}
    report = initialise(other, tmp_path / "both")
    assert all(torch.equal(other.state_dict()[k], v) for k, v in before.items())
    assert torch.equal(
        other.state_dict()["adapters.a.proj.weight"], both.state_dict()["adapters.a.proj.weight"]
    )
    assert all(key.startswith("adapters.c.") for key in report.fresh)
    assert all(key.startswith("adapters.b.") for key in report.skipped)
    assert "left aside  adapters.b." in str(report)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"width": 48}, "width 24.*width 48"),
        ({"depth": 3}, "depth 2.*depth 3"),
        ({"heads": 3}, "heads 2.*heads 3"),
    ],
)
def test_an_encoder_of_another_size_is_refused(
    theirs: Path, sizes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        initialise(model_of(**sizes), theirs, **HEADS)


def test_weights_do_not_tell_their_heads(theirs: Path) -> None:
    with pytest.raises(ValueError, match=r"width 24 is no published size; say heads="):
        multimask.load(theirs, tell=None)
    with pytest.raises(ValueError, match="takes no hats; it takes size, heads"):
        multimask.load(theirs, tell=None, hats=2)
