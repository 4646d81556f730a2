"""Who is hidden in a skeleton: counts, what hides together, sample by sample."""

import pytest
import torch
from torch import Tensor

from multimask.masking import Context, Masker, Ratio
from multimask.masking.rules import Rule
from multimask.modalities.skeleton import SkeletonJoints
from multimask.modalities.skeleton_masking import (
    BodyParts,
    JointTubes,
    Moving,
    WholeFrames,
    part_masker,
    token_speed,
)
from multimask.modalities.skeleton_topologies import COCO17, NTU25
from multimask.tokens import Masking, Part, Step, TokenBatch, slots_of

BODIES, SEGMENTS, JOINTS = GRID = (2, 6, 17)
N = BODIES * SEGMENTS * JOINTS
TIED = [JointTubes(), WholeFrames(), BodyParts(COCO17)]


def context(tokens: TokenBatch | None = None, complete: bool = True) -> Context:
    return Context(slots_of({"pose": N}), {"pose": GRID}, complete, tokens)


def drawn(masker: Masker, ids: str = "abc", exists: Tensor | None = None, **more) -> Masking:
    exists = torch.ones(len(ids), N, dtype=torch.bool) if exists is None else exists
    generators = Step().generators(ids, "masking")
    return masker(exists, generators, context(complete=bool(exists.all()), **more))


def tokens_of(clips: Tensor) -> TokenBatch:
    tokenizer = SkeletonJoints(COCO17, frames=SEGMENTS, dims=clips.shape[-1], bodies=BODIES)
    part = Part(clips, torch.arange(len(clips)))
    return TokenBatch(len(clips), {"pose": tokenizer(part)}, slots_of({"pose": N}))


@pytest.mark.parametrize("rule", TIED, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.9])
def test_counts_are_exact_in_the_rules_own_units(rule: Rule, ratio: float) -> None:
    units = {JointTubes: BODIES * JOINTS, WholeFrames: SEGMENTS, BodyParts: JOINTS}[type(rule)]
    masker = Masker(rule, Ratio(ratio))
    masking = drawn(masker)
    kept = max(1, int(units * (1 - ratio) + 1e-6))
    assert masker.counts(N, context()) == (kept * N // units, N - kept * N // units)
    assert (masking.visible.sum(dim=1) == kept * N // units).all()
    assert torch.equal(masking.target, ~masking.visible)


@pytest.mark.parametrize("rule", [*TIED, Moving(dims=2)], ids=lambda rule: type(rule).__name__)
def test_a_sample_is_masked_alike_whoever_is_beside_it(rule: Rule) -> None:
    clips = torch.randn(3, BODIES, SEGMENTS, JOINTS, 2)
    masker = Masker(rule, Ratio(0.5))
    together = drawn(masker, "abc", tokens=tokens_of(clips)).visible
    alone = drawn(masker, "b", tokens=tokens_of(clips[1:2])).visible
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])


def test_a_tube_hides_a_joint_in_all_frames() -> None:
    visible = drawn(Masker(JointTubes(), Ratio(0.5))).visible.view(3, *GRID)
    assert torch.equal(visible, visible[:, :, :1].expand_as(visible))
    assert not torch.equal(visible[:, 0], visible[:, 1])  # bodies differ


def test_a_hidden_frame_hides_all_joints_of_all_bodies() -> None:
    visible = drawn(Masker(WholeFrames(), Ratio(0.5))).visible.view(3, *GRID)
    assert torch.equal(visible, visible[:, :1, :, :1].expand_as(visible))


def test_parts_are_hidden_whole_but_for_the_one_on_the_border() -> None:
    visible = drawn(Masker(BodyParts(COCO17), Ratio(0.5))).visible.view(3, *GRID)
    assert torch.equal(visible, visible[:, :1, :1].expand_as(visible))
    for sample in visible[:, 0, 0]:
        shares = [sample[list(joints)].float().mean().item() for joints in COCO17.parts.values()]
        assert sum(0 < share < 1 for share in shares) <= 1


def test_chosen_sets_of_parts_are_hidden_exactly_and_evenly() -> None:
    choices = (("left_arm", "left_leg"), ("right_arm", "right_leg"))
    ids = [f"sample {index}" for index in range(400)]
    masker = part_masker(COCO17, *choices)
    exists = torch.ones(400, N, dtype=torch.bool)
    visible = masker(exists, Step().generators(ids, "masking"), context()).visible
    hidden = {tuple((~row.view(GRID)[0, 0]).nonzero().flatten().tolist()) for row in visible}
    assert hidden == {(7, 9, 13, 15), (8, 10, 14, 16)}
    left = (~visible.view(400, *GRID)[:, 0, 0, 7]).sum()
    assert 160 < left < 240


def test_parts_stay_hidden_where_frames_and_joints_are_missing() -> None:
    exists = torch.ones(3, *GRID, dtype=torch.bool)
    exists[1, 1] = False  # a body
    exists[1, 0, 2:] = False  # frames
    exists[2, 0, 0, [3, 8, 10]] = False  # joints, two of them hidden anyway
    flat = exists.view(3, N)
    masking = drawn(part_masker(COCO17, ("right_arm", "right_leg")), "abc", flat)
    hidden = torch.zeros(JOINTS, dtype=torch.bool)
    hidden[[8, 10, 14, 16]] = True
    assert torch.equal(masking.visible.view(3, *GRID), exists & ~hidden)
    assert torch.equal(masking.target.view(3, *GRID), exists & hidden)
    assert masking.padded
    assert masking.valid is not None


def test_moving_hides_what_moves() -> None:
    still = torch.randn(1, BODIES, 1, JOINTS, 2).repeat(4, 1, SEGMENTS, 1, 1)
    path = torch.linspace(0, 5, SEGMENTS)[:, None] * torch.ones(2)
    still[:, 0, :, 9] += path  # one wrist of one body
    masker = Masker(Moving(temperature=0.05, dims=2), Ratio(SEGMENTS / N))
    visible = drawn(masker, "abcd", tokens=tokens_of(still)).visible.view(4, *GRID)
    assert (~visible[:, 0, :, 9]).all()
    assert visible.sum() == 4 * (N - SEGMENTS)
    # hot, it is nearly uniform: mostly others are hidden
    hot = Masker(Moving(temperature=1e4, dims=2), Ratio(SEGMENTS / N))
    visible = drawn(hot, "abcd", tokens=tokens_of(still)).visible.view(4, *GRID)
    assert (~visible[:, 0, :, 9]).sum() < 6


def test_speed_is_distance_per_frame_and_unknown_neighbours_count_as_rest() -> None:
    clips = torch.zeros(1, BODIES, SEGMENTS, JOINTS, 3)
    clips[0, 0, :, 4, 0] = torch.arange(SEGMENTS) * 2.0
    tokens = tokens_of(clips).modalities["pose"]
    speed = token_speed(tokens.values, tokens.valid, GRID).view(GRID)
    assert speed[0, :, 4].tolist() == [2.0] * SEGMENTS
    assert speed.sum() == 2.0 * SEGMENTS
    clips[0, 0, 2, 4] = torch.nan
    tokens = tokens_of(clips).modalities["pose"]
    speed = token_speed(tokens.values, tokens.valid, GRID).view(GRID)
    assert speed[0, :, 4].tolist() == [2, 0, 0, 2, 2, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BodyParts(COCO17, (("tail",),)), "no part is named 'tail'"),
        (lambda: BodyParts(COCO17, (("head",), ("left_arm",))), "equal size"),
        (lambda: part_masker(COCO17), "at least one set"),
        (lambda: part_masker(COCO17, tuple(COCO17.parts)), "not the whole body"),
        (lambda: Moving(temperature=0.0), "must be positive"),
        (lambda: drawn(Masker(BodyParts(NTU25))), "25 joints, the data have 17"),
        (lambda: drawn(Masker(Moving())), "needs the tokenized batch"),
        (
            lambda: drawn(Masker(Moving(dims=3)), "a", tokens=tokens_of(torch.rand(1, *GRID, 2))),
            r"say Moving\(dims=2\)",
        ),
    ],
)
def test_mistakes_are_said(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_rules_refuse_other_lattices() -> None:
    flat = Context(slots_of({"photo": 16}), {"photo": (4, 4)}, True)
    with pytest.raises(ValueError, match="expected \\(bodies, segments, joints\\)"):
        Masker(JointTubes(), Ratio(0.5))(
            torch.ones(1, 16, dtype=torch.bool), Step().generators("a", "m"), flat
        )
