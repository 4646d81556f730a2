"""Tubelets: the inverse, the contract's errors, times, pictures, mixed sizes, rules on lattices."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image

from multimask.masking import (
    Block,
    Context,
    Count,
    Masker,
    Ratio,
    RunningCell,
    Slab,
    Tube,
    Uniform,
)
from multimask.modalities.video import Tubelets
from multimask.modalities.video_pictures import beside, save_gif
from multimask.modality import collate
from multimask.model import MaskedModel
from multimask.tokens import BadSample, Masking, Part, Step, Tokens, slots_of

TUBELETS = Tubelets(frames=6, size=(8, 12), patch=4, tubelet=2)


def tokens_of(clips: torch.Tensor, tubelets: Tubelets = TUBELETS) -> Tokens:
    return tubelets(Part(clips, torch.arange(len(clips))))


@pytest.mark.parametrize("box", [(1, 4, 4), (2, 4, 4), (3, 2, 6), (6, 8, 12)])
def test_untokenize_is_the_inverse(box: tuple[int, int, int]) -> None:
    tubelets = Tubelets(6, (8, 12), patch=box[1:], tubelet=box[0])
    clips = torch.rand(2, 6, 3, 8, 12)
    tokens = tokens_of(clips, tubelets)
    assert tokens.values.shape == (2, tubelets.num_tokens, tubelets.token_dim)
    torch.testing.assert_close(tubelets.untokenize(tokens), clips)


def test_values_are_the_standardised_pixels_of_one_box() -> None:
    clips = torch.randint(0, 256, (1, 6, 3, 8, 12), dtype=torch.uint8)
    tokens = tokens_of(clips)
    box = clips[0, 2:4, :, 4:8, 8:12].float() / 255  # time 1, row 1, column 2
    mean, std = (torch.tensor(x)[:, None, None] for x in (TUBELETS.mean, TUBELETS.std))
    wanted = rearrange((box - mean) / std, "t c y x -> (t y x c)")
    torch.testing.assert_close(tokens.values[0, 1 * 6 + 1 * 3 + 2], wanted)


def test_places_are_seconds_and_pixels() -> None:
    clip = {"frames": torch.rand(6, 3, 8, 12), "seconds": torch.tensor([0, 1, 2, 4, 6, 10.0])}
    batch = collate([{"id": "a", "clip": clip}], {"clip": TUBELETS})
    tokens = TUBELETS(batch.parts["clip"])
    coords = tokens.coords.view(3, 2, 3, 3)
    assert coords[:, 0, 0, 0].tolist() == [0.5, 3.0, 8.0]
    assert coords[0, 1, 2].tolist() == [0.5, 6.0, 10.0]
    untimed = tokens_of(torch.rand(1, 6, 3, 8, 12)).coords.view(3, 2, 3, 3)
    assert untimed[:, 0, 0, 0].tolist() == [1.0, 3.0, 5.0]


def test_what_does_not_fit_is_said_cut_or_repeated() -> None:
    clips = torch.rand(1, 5, 3, 9, 13)
    with pytest.raises(ValueError, match=r"5 frames of 9x13 pixels are not divisible into 2x4x4"):
        tokens_of(clips)
    cut = Tubelets(6, (8, 12), 4, fit="crop")
    assert tokens_of(clips, cut).grid == (2, 2, 3)
    torch.testing.assert_close(cut.untokenize(tokens_of(clips, cut)), clips[:, :4, :, :8, :12])
    padded = Tubelets(6, (8, 12), 4, fit="pad")
    whole = padded.untokenize(tokens_of(clips, padded))
    assert whole.shape == (1, 6, 3, 12, 16)
    torch.testing.assert_close(whole[:, :5, :, :9, :13], clips)
    torch.testing.assert_close(whole[:, 5], whole[:, 4])
    torch.testing.assert_close(whole[..., 15], whole[..., 12])


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (torch.rand(6, 4, 8, 12), "expected a clip of shape"),
        (torch.rand(3, 8, 12), "expected a clip of shape"),
        (torch.zeros(6, 3, 8, 12, dtype=torch.int64), "expected uint8 in 0..255 or float"),
        (torch.full((6, 3, 8, 12), torch.nan), "1728 pixels are NaN or infinite"),
        ({"pixels": torch.rand(6, 3, 8, 12)}, "expected a clip's 'frames'"),
        ({"frames": torch.rand(6, 3, 8, 12), "seconds": torch.arange(5.0)}, "expected 6 seconds"),
        ({"frames": torch.rand(6, 3, 8, 12), "seconds": -torch.arange(6.0)}, "never fall"),
    ],
)
def test_clips_that_break_the_contract_are_refused(item: Any, message: str) -> None:
    with pytest.raises(BadSample, match=message):
        collate([{"id": "a", "clip": item}], {"clip": TUBELETS})


def test_times_are_given_for_all_clips_or_none() -> None:
    frames = torch.rand(6, 3, 8, 12)
    timed = {"frames": frames, "seconds": torch.arange(6.0)}
    with pytest.raises(BadSample, match="1 of 2 clips of one batch come with seconds"):
        collate([{"id": "a", "clip": timed}, {"id": "b", "clip": frames}], {"clip": TUBELETS})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": 0}, "at least 1"),
        ({"std": 0.0}, "must be positive"),
        ({"mean": (0.5, 0.5)}, "one number or 3"),
        ({"size": 30}, "not divisible"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tubelets(**arguments)


def test_clips_of_mixed_sizes_are_encoded_as_if_alone() -> None:
    torch.manual_seed(0)
    model = MaskedModel({"clip": TUBELETS}, width=24, depth=1, heads=2).eval()
    clips: list[dict[str, Any]] = [
        {"frames": torch.rand(t, 3, h, 12), "seconds": torch.arange(float(t))}
        for t, h in ((6, 8), (4, 8), (6, 8), (6, 16))
    ]
    samples: list[dict[str, Any]] = [{"id": str(i), "clip": clip} for i, clip in enumerate(clips)]
    together = model.encode(collate(samples, model.tokenizers)).mean()
    for row, sample in enumerate(samples):
        alone = model.encode(collate([sample], model.tokenizers)).mean()
        torch.testing.assert_close(together[row : row + 1], alone)


def test_pictures_show_true_pixels_and_blank_the_rest(tmp_path: Path) -> None:
    clips = torch.randint(0, 256, (1, 6, 3, 8, 12), dtype=torch.uint8)
    tokens = tokens_of(clips)
    frames = TUBELETS.animation(tokens)
    assert np.array_equal(frames, rearrange(clips[0], "t c h w -> t h w c").numpy())
    assert TUBELETS.picture(tokens).shape == (8, 48, 3)  # four of six frames, side by side
    assert np.array_equal(TUBELETS.picture(tokens)[:, 36:], frames[5])
    twelve = tokens_of(torch.randint(0, 256, (1, 12, 3, 8, 12), dtype=torch.uint8))
    strip = TUBELETS.picture(twelve)  # eight of twelve, in two rows
    assert strip.shape == (16, 48, 3)
    assert np.array_equal(strip[8:, 36:], TUBELETS.animation(twelve)[11])
    shown = torch.zeros(18, dtype=torch.bool)
    shown[6] = True  # time 1, first place
    hidden = TUBELETS.animation(tokens, shown)
    assert (hidden[2:4, :4, :4] == frames[2:4, :4, :4]).all()
    assert (hidden[:2] == 128).all()
    assert (hidden[2:4, 4:] == 128).all()
    save_gif(tmp_path / "a.gif", beside([frames, hidden]), seconds=0.6)
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.size) == (6, (26, 8))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="agree in frames and height"):
        beside([frames, frames[:3]])


# --- rules ----------------------------------------------------------------------------------------

GRID = (4, 4, 6)
CONTEXT = Context(slots_of({"clip": 96}), {"clip": GRID}, complete=True)


def masking(
    masker: Masker, ids: tuple[str, ...] = ("a", "b"), context: Context = CONTEXT
) -> Masking:
    exists = torch.ones(len(ids), 96, dtype=torch.bool)
    return masker(exists, Step().generators(ids, "masking"), context)


@pytest.mark.parametrize("rule", [Uniform(), Block(), Tube(), Slab(), RunningCell()])
def test_a_sample_is_masked_alike_in_any_company(rule: Any) -> None:
    masker = Masker(rule, Ratio(0.5))
    together, alone = masking(masker), masking(masker, ("b",))
    assert torch.equal(together.visible[1:], alone.visible)
    assert together.visible.sum(dim=1).tolist() == [48, 48]


def test_slabs_hide_whole_slices() -> None:
    hidden = ~masking(Masker(Slab(), Ratio(0.75)), tuple("abcdefgh")).visible
    share = rearrange(hidden, "b (t p) -> b t p", t=4).float().mean(dim=2)
    assert set(share.flatten().tolist()) == {0.0, 1.0}
    assert (share.sum(dim=1) == 3).all()
    assert len({tuple(row) for row in share.tolist()}) > 1


def test_a_running_cell_may_choose_what_is_visible() -> None:
    visible = masking(Masker(RunningCell(), Count(24))).visible
    cells = rearrange(visible, "b (t y p x q) -> b t (y x) (p q)", t=4, y=2, p=2, x=3, q=2)
    assert (cells.sum(dim=3) == 1).all()  # one of each 2 x 2
    assert (cells.sum(dim=1) == 1).all()  # each of them in one slice of four


def test_rules_say_which_lattices_they_cannot_take() -> None:
    pair = Context(slots_of({"a": 72, "b": 24}), {"a": (3, 4, 6), "b": (2, 3, 4)}, complete=True)
    with pytest.raises(
        ValueError, match=r"equally long in all modalities, found \{'a': 3, 'b': 2\}"
    ):
        masking(Masker(Tube(), Ratio(0.5)), context=pair)
    with pytest.raises(ValueError, match="slices must hold equally many tokens"):
        masking(Masker(Slab(), Ratio(0.5)), context=pair)
    sets = Context(slots_of({"a": 96}), {"a": None}, complete=True)
    with pytest.raises(ValueError, match="has no lattice"):
        masking(Masker(Tube(), Ratio(0.5)), context=sets)
    flat = Context(slots_of({"a": 96}), {"a": (8, 12)}, complete=True)
    with pytest.raises(ValueError, match="has a lattice of 2 axes; it needs three"):
        masking(Masker(RunningCell(), Ratio(0.5)), context=flat)


def test_tubes_of_two_modalities_are_ranked_together() -> None:
    pair = Context(slots_of({"a": 72, "b": 24}), {"a": (4, 3, 6), "b": (4, 2, 3)}, complete=True)
    visible = masking(Masker(Tube(), Ratio(0.75)), context=pair).visible
    for block, places in ((visible[:, :72], 18), (visible[:, 72:], 6)):
        slices = rearrange(block, "b (t p) -> b t p", p=places)
        assert torch.equal(slices, slices[:, :1].expand_as(slices))
    assert visible.sum(dim=1).tolist() == [24, 24]
