"""Skeletons as tokens: the contract, missing joints, inverse, leaks, pictures, saving."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import multimask
from multimask.masking import Context, Masker, Ratio
from multimask.methods.mae import mae
from multimask.methods.skeletonmae import skeletonmae
from multimask.modalities.skeleton import SkeletonJoints
from multimask.modalities.skeleton_encodings import (
    JointPlaces,
    LaplacianPlaces,
    NoPlaces,
    WalkPlaces,
)
from multimask.modalities.skeleton_topologies import (
    COCO17,
    NTU25,
)
from multimask.modality import collate
from multimask.model import MaskedModel
from multimask.nn.adapters import LinearAdapter
from multimask.tokens import BadSample, Batch, Part, Step


def clips(
    count: int = 2, frames: int = 8, joints: int = 17, dims: int = 2, seed: int = 0
) -> Tensor:
    return torch.randn(
        count, 1, frames, joints, dims, generator=torch.Generator().manual_seed(seed)
    )


def batch_of(data: Tensor | list[Tensor], tokenizer: SkeletonJoints) -> Batch:
    samples = [{"id": str(row), "pose": clip} for row, clip in enumerate(data)]
    return collate(samples, {"pose": tokenizer})


def small_mae(tokenizer: SkeletonJoints, **more: object) -> MaskedModel:
    torch.manual_seed(0)
    recipe = mae(
        {"pose": tokenizer},
        width=32,
        depth=2,
        heads=2,
        decoder_width=32,
        decoder_depth=1,
        decoder_heads=2,
        normalise=False,
        **more,  # type: ignore[arg-type]
    )
    return recipe.model


# --- the tokenizer --------------------------------------------------------------------------------


def test_a_token_is_a_joint_in_a_stretch_of_time() -> None:
    data = clips(1, frames=6)
    tokens = SkeletonJoints(COCO17, frames=6, segment=3, dims=2, unit=10.0)(
        Part(data, torch.arange(1))
    )
    assert tokens.grid == (1, 2, 17)
    joint, segment = 5, 1
    wanted = data[0, 0, 3:6, joint].flatten() / 10
    torch.testing.assert_close(tokens.values[0, segment * 17 + joint], wanted)
    assert tokens.coords[0, segment * 17 + joint].tolist() == [0, 4, joint]
    assert tokens.valid is None


@pytest.mark.parametrize("segment", [1, 2, 4])
def test_untokenize_inverts_exactly(segment: int) -> None:
    tokenizer = SkeletonJoints(NTU25, frames=8, segment=segment, bodies=2)
    data = torch.randn(3, 2, 8, 25, 3)
    back = tokenizer.untokenize(tokenizer(Part(data, torch.arange(3))))
    assert torch.equal(back, data)


def test_unknown_joints_are_tokens_that_do_not_exist_and_come_back_as_nan() -> None:
    data = clips(2)
    data[0, 0, 2, 5] = torch.nan
    data[1, 0, 4:] = torch.nan
    tokenizer = SkeletonJoints(COCO17, frames=8, dims=2)
    part = Part(data, torch.arange(2))
    tokens = tokenizer(part)
    assert tokens.valid is not None
    assert (~tokens.valid).nonzero()[0].tolist() == [0, 2 * 17 + 5]
    assert (~tokens.valid).sum() == 1 + 4 * 17
    known = tokenizer.valid(part)
    assert known is not None
    assert torch.equal(known, tokens.valid)
    assert tokens.values.isfinite().all()
    torch.testing.assert_close(tokenizer.untokenize(tokens), data, equal_nan=True)


def test_shorter_clips_and_fewer_bodies_are_padded_with_what_does_not_exist() -> None:
    tokenizer = SkeletonJoints(COCO17, frames=8, segment=2, dims=2, bodies=2)
    batch = batch_of([clips(1, 8)[0], clips(1, 3)[0]], tokenizer)
    tokens = tokenizer(batch.parts["pose"])
    assert tokens.valid is not None
    there = tokens.valid.view(2, 2, 4, 17).all(dim=-1)
    assert there[0].tolist() == [[True] * 4, [False] * 4]
    # three frames are one whole segment and half of another, of which nothing is known throughout
    assert there[1].tolist() == [[True, False, False, False], [False] * 4]


def test_edges_are_the_bones_of_every_frame_and_body() -> None:
    tokenizer = SkeletonJoints(COCO17, frames=3, dims=2, bodies=2)
    edges = tokenizer(Part(torch.rand(1, 2, 3, 17, 2), torch.arange(1))).edges
    assert edges is not None
    assert edges.shape == (2, 2 * 19 * 6)
    assert torch.equal(edges[0] // 17, edges[1] // 17)  # none leads to another frame
    adjacency = torch.zeros(102, 102)
    adjacency[edges[0], edges[1]] = 1
    assert torch.equal(adjacency, torch.block_diag(*[COCO17.adjacency()] * 6))
    linked = replace(tokenizer, time_edges=True)
    more = linked(Part(torch.rand(1, 2, 3, 17, 2), torch.arange(1))).edges
    assert more is not None
    across = more[:, more[0] // 17 != more[1] // 17]
    assert across.shape[1] == 2 * 2 * 2 * 17
    assert ((across[0] - across[1]).abs() == 17).all()
    assert torch.equal(across[0] // 51, across[1] // 51)  # and none to another body


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (torch.zeros(1, 8, 25, 2), r"17 joints, 2\), found \(1, 8, 25, 2\)"),
        (torch.zeros(1, 8, 17, 3), r"found \(1, 8, 17, 3\)"),
        (torch.zeros(8, 17, 2), r"found \(8, 17, 2\)"),
        (torch.zeros(1, 0, 17, 2), r"found \(1, 0, 17, 2\)"),
        (torch.zeros(3, 8, 17, 2), "at most 1 bodies, found 3"),
        (torch.full((1, 8, 17, 2), torch.inf), "272 coordinates are infinite"),
        (torch.full((1, 8, 17, 2), torch.nan), "no joint is known"),
    ],
)
def test_what_breaks_the_contract_is_said_in_one_sentence(clip: Tensor, message: str) -> None:
    with pytest.raises(BadSample, match=message):
        batch_of([clip], SkeletonJoints(COCO17, frames=8, dims=2))


def test_integer_millimetres_become_metres() -> None:
    tokenizer = SkeletonJoints(COCO17, frames=1, dims=2, unit=1000.0)
    data = torch.full((1, 1, 17, 2), 1500, dtype=torch.int16)
    tokens = tokenizer(batch_of([data], tokenizer).parts["pose"])
    assert (tokens.values == 1.5).all()


def test_longer_clips_are_encoded_and_refused_in_training() -> None:
    tokenizer = SkeletonJoints(COCO17, frames=4, segment=2, dims=2)
    model = small_mae(tokenizer).eval()
    long, short = clips(1, 8)[0], clips(1, 4, seed=1)[0]
    together = batch_of([long, short], tokenizer)
    vectors = model.encode(together).mean()
    torch.testing.assert_close(vectors[:1], model.encode(batch_of([long], tokenizer)).mean())
    torch.testing.assert_close(vectors[1:], model.encode(batch_of([short], tokenizer)).mean())
    with pytest.raises(ValueError, match="clips of \\[4, 8\\] frames"):
        model.tokenize(together)


@pytest.mark.parametrize(
    "wrong",
    [{"frames": 7, "segment": 2}, {"dims": 4}, {"unit": 0.0}, {"bodies": 0}],
)
def test_sizes_that_do_not_fit_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="SkeletonJoints"):
        SkeletonJoints(COCO17, **wrong)


# --- in a model -----------------------------------------------------------------------------------


def build(name: str, tokenizer: SkeletonJoints) -> tuple[MaskedModel, Masker]:
    torch.manual_seed(0)
    if name == "graph":
        recipe = skeletonmae({"pose": tokenizer}, width=16)
        return recipe.model, recipe.objective.masker
    return small_mae(tokenizer), Masker(budget=Ratio(0.5), ragged=True)


@pytest.mark.parametrize("name", ["graph", "transformer"])
def test_hidden_joints_do_not_leak(name: str) -> None:
    tokenizer = SkeletonJoints(COCO17, frames=4, dims=2)
    model, masker = build(name, tokenizer)
    model.eval()
    data = clips(2, 4)
    tokens = model.tokenize(batch_of(data, tokenizer))
    masking = masker(tokens.exists, Step().generators(["0", "1"], "masking"), model.context(tokens))
    other = clips(2, 4, seed=9).flatten(1).view(2, -1, 2)
    changed = torch.where(masking.visible[..., None], data.view(2, -1, 2), other)
    again = model.tokenize(batch_of(changed.view_as(data), tokenizer))
    first = model.decode(tokens, model.encode_visible(tokens, masking), masking)
    second = model.decode(again, model.encode_visible(again, masking), masking)
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["graph", "transformer"])
def test_a_clip_does_not_notice_its_mates_nor_what_they_lack(name: str) -> None:
    tokenizer = SkeletonJoints(COCO17, frames=4, dims=2)
    model, _ = build(name, tokenizer)
    model.eval()
    data = clips(3, 4)
    data[1, 0, 2:] = torch.nan
    data[1, 0, 0, 9] = torch.nan
    data[2, 0, 1, 3] = torch.nan
    together = model.encode(batch_of(data, tokenizer)).mean()
    for row in range(3):
        alone = model.encode(batch_of(data[row : row + 1], tokenizer)).mean()
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)
    swapped = model.encode(batch_of(data.flip(0), tokenizer)).mean()
    torch.testing.assert_close(swapped.flip(0), together, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["graph", "transformer"])
def test_missing_joints_are_never_scored_and_their_numbers_never_read(name: str) -> None:
    tokenizer = SkeletonJoints(COCO17, frames=4, dims=2)
    model, masker = build(name, tokenizer)
    data = clips(2, 4)
    data[0, 0, 1, [4, 10, 16]] = torch.nan
    batch = batch_of(data, tokenizer)
    made = model.reconstruct(batch, masker)
    valid = made.tokens["pose"].valid
    assert valid is not None
    lost = ~valid
    assert not (made.target["pose"] & lost).any()
    assert not (made.visible["pose"] & lost).any()
    assert made.restored["pose"].values.isfinite().all()


@pytest.mark.parametrize("position", [JointPlaces, LaplacianPlaces, WalkPlaces, NoPlaces])
@pytest.mark.parametrize("name", ["graph", "transformer"])
def test_a_saved_model_comes_back(name: str, position: type, tmp_path: Path) -> None:
    tokenizer = SkeletonJoints(COCO17, frames=4, dims=2)
    torch.manual_seed(0)
    if name == "graph":
        model = skeletonmae({"pose": tokenizer}, width=16, position=position).model
    else:
        adapter = LinearAdapter(tokenizer, 32, 32, position=position)
        model = MaskedModel(
            {"pose": tokenizer}, adapters={"pose": adapter}, width=32, depth=1, heads=2,
            decoder_width=32, decoder_depth=1, decoder_heads=2,
        )  # fmt: skip
    model.save(tmp_path)
    loaded = multimask.load(tmp_path)
    assert loaded.tokenizers["pose"] == tokenizer
    batch = batch_of(clips(2, 4), tokenizer)
    wanted = model.eval().encode(batch).mean()
    torch.testing.assert_close(loaded.encode(batch).mean(), wanted)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "modalities/skeleton" in json.dumps(config)


# --- pictures -------------------------------------------------------------------------------------


def test_a_picture_shows_bones_whose_ends_are_shown() -> None:
    tokenizer = SkeletonJoints(COCO17, frames=4, dims=2, up="-y")
    tokens = tokenizer(batch_of(clips(1, 4), tokenizer).parts["pose"])
    whole = tokenizer.picture(tokens)
    assert whole.dtype == np.uint8
    assert whole.shape == (2 * 96, 3 * 96, 3)  # three instants a row

    def ink(picture: np.ndarray) -> int:
        return int((picture[:186] < 200).any(axis=-1).sum())  # the ruler is below

    shown = torch.zeros(tokenizer.num_tokens, dtype=torch.bool)
    nothing = tokenizer.picture(tokens, shown)
    assert ink(nothing) == 0
    shown[:17] = True
    first = tokenizer.picture(tokens, shown)
    assert np.array_equal(first[:96, :96], whole[:96, :96])
    assert ink(first[:96, 96:]) == 0
    assert ink(first[96:186]) == 0
    shown = torch.ones(tokenizer.num_tokens, dtype=torch.bool)
    shown[[7, 9]] = False
    assert 0 < ink(tokenizer.picture(tokens, shown)) < ink(whole)


def test_a_picture_is_the_same_at_any_place_and_copes_with_what_is_missing() -> None:
    tokenizer = SkeletonJoints(NTU25, frames=6, bodies=2)
    data = torch.randn(1, 2, 6, 25, 3)
    data[0, 1] = torch.nan
    data[0, 0, 3] = torch.nan
    here = tokenizer.picture(tokenizer(Part(data, torch.arange(1))))
    there = tokenizer.picture(tokenizer(Part(data + 100, torch.arange(1))))
    assert np.abs(here.astype(int) - there.astype(int)).mean() < 1
    assert (here[96:186, :96] == 255).all()  # nobody is known in frame 3


def test_masking_counts_are_true() -> None:
    tokenizer = SkeletonJoints(COCO17, frames=4, dims=2)
    model, masker = build("graph", tokenizer)
    context = Context(model.slots, {"pose": tokenizer.grid}, complete=True)
    assert masker.counts(tokenizer.num_tokens, context) == (13 * 4, 4 * 4)
    described = model.describe(masker)
    assert (described.visible, described.decoded) == (52, 16)
