"""Masking: counts are exact, chances are fair, a sample's mask is its own, absent is absent."""

import math
from dataclasses import dataclass

import pytest
import torch
from jaxtyping import Bool
from torch import Generator, Tensor

from multimask.masking import (
    Block,
    Context,
    Count,
    Grid,
    Masker,
    Ratio,
    Uniform,
    everything,
    num_visible,
)
from multimask.masking.rules import Rule
from multimask.packing import arranged, find_picks, places_in_rows
from multimask.tokens import Masking, Step, slots_of

LATTICES = {"flat": (6, 8), "deep": (3, 4, 2)}


def context(**grids: tuple[int, ...]) -> Context:
    return Context(slots_of({name: math.prod(grid) for name, grid in grids.items()}), grids)


def masked(
    masker: Masker, where: Context, ids: list[str], exists: Tensor | None = None, epoch: int = 0
) -> Masking:
    n = max(slots.stop for slots in where.slots.values())
    exists = torch.ones(len(ids), n, dtype=torch.bool) if exists is None else exists
    return masker(exists, Step(0, epoch).generators(ids, "masking"), where)


def names(count: int) -> list[str]:
    return [f"s{index}" for index in range(count)]


# --- every rule -----------------------------------------------------------------------------------

rules = pytest.mark.parametrize(
    "rule", [Uniform(), Block(), Grid()], ids=["uniform", "block", "grid"]
)


@rules
@pytest.mark.parametrize("ratio", [0.4, 0.75, 0.9])
def test_counts_are_exact(rule: Rule, ratio: float) -> None:
    found = masked(Masker(rule, Ratio(ratio)), context(**LATTICES), names(20))
    k = num_visible(72, ratio)
    assert found.ids.shape == (20, k)
    assert found.decoded_ids.shape == (20, 72 - k)
    assert found.visible.sum(dim=1).tolist() == [k] * 20
    assert torch.equal(found.target, ~found.visible)  # all that is hidden is answered for
    assert found.asked.all()
    assert (found.valid, found.decoded_valid) == (None, None)


@rules
def test_a_samples_mask_does_not_depend_on_its_batch(rule: Rule) -> None:
    masker, where = Masker(rule), context(**LATTICES)
    together = masked(masker, where, names(6))
    backwards = masked(masker, where, names(6)[::-1])
    assert torch.equal(backwards.ids.flip(0), together.ids)
    assert torch.equal(backwards.decoded_ids.flip(0), together.decoded_ids)
    for row, name in enumerate(names(6)):
        alone = masked(masker, where, [name])
        assert torch.equal(alone.ids[0], together.ids[row])
        assert torch.equal(alone.decoded_ids[0], together.decoded_ids[row])


@rules
def test_the_global_generator_is_neither_read_nor_moved(rule: Rule) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = masked(Masker(rule), context(**LATTICES), names(2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(masked(Masker(rule), context(**LATTICES), names(2)).ids, one.ids)


@pytest.mark.parametrize("rule", [Uniform(), Block()], ids=["uniform", "block"])
def test_samples_and_epochs_differ(rule: Rule) -> None:
    where = context(**LATTICES)
    first, second = (masked(Masker(rule), where, names(8), epoch=e).visible for e in (0, 1))
    assert len(torch.unique(torch.cat((first, second)), dim=0)) == 16


# --- one rule each --------------------------------------------------------------------------------


def test_every_place_is_hidden_equally_often() -> None:
    count = 4000
    hidden = ~masked(Masker(), context(flat=(4, 4)), names(count)).visible
    sigma = math.sqrt(0.75 * 0.25 / count)
    assert (hidden.float().mean(dim=0) - 0.75).abs().max() < 3 * sigma
    # and no two places know of each other, but for the fixed total
    together = torch.corrcoef(hidden.T.float())[~torch.eye(16, dtype=torch.bool)]
    assert (together + 1 / 15).abs().max() < 5 / math.sqrt(count)


def test_small_noise_stays_visible() -> None:
    found = masked(Masker(), context(flat=(4, 4)), ["x"])
    (generator,) = Step().generators(["x"], "masking")
    assert torch.equal(found.ids[0], torch.rand(16, generator=generator).argsort()[:4])


def neighbours_alike(hidden: Tensor, grid: tuple[int, ...]) -> float:
    """Of the neighbours of hidden cells, the share that is hidden too."""
    lattice = hidden.view(-1, *grid).float()
    pairs, both = 0.0, 0.0
    for axis in range(1, len(grid) + 1):
        one, other = (
            lattice.narrow(axis, 1, grid[axis - 1] - 1),
            lattice.narrow(axis, 0, grid[axis - 1] - 1),
        )
        both += 2 * (one * other).sum().item()
        pairs += (one + other).sum().item()
    return both / pairs


@pytest.mark.parametrize("grid", [(64,), (8, 8), (4, 4, 4)])
def test_blocks_hide_neighbours(grid: tuple[int, ...]) -> None:
    where = context(here=grid)
    by_block, by_chance = (
        ~masked(Masker(rule, Ratio(0.5)), where, names(200)).visible
        for rule in (Block(), Uniform())
    )
    assert neighbours_alike(by_chance, grid) == pytest.approx(0.5, abs=0.03)
    assert neighbours_alike(by_block, grid) > 0.68


def test_the_first_block_is_a_whole_box_of_the_share_asked_for() -> None:
    rule = Block(share=(0.1, 0.2), aspect=2.0)
    for generator in Step().generators(names(50), "masking"):
        order = rule.coverage((20, 20), generator)
        rows, columns = (order == 0).nonzero().T
        tall, wide = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
        assert len(rows) == tall * wide  # contiguous, no holes
        inside = rows.min() > 0 and columns.min() > 0 and rows.max() < 19 and columns.max() < 19
        if inside:  # else it was cut at the border
            assert 0.08 <= tall * wide / 400 <= 0.23  # sides are rounded to cells
            assert 1 / 2.5 <= tall / wide <= 2.5


def test_what_is_covered_first_is_hidden_first() -> None:
    where, rule = context(flat=(8, 8)), Block()
    hidden = ~masked(Masker(rule, Ratio(0.5)), where, names(20)).visible
    for row, generator in enumerate(Step().generators(names(20), "masking")):
        torch.rand(64, generator=generator)  # the noise within a block is drawn first
        order = rule.coverage((8, 8), generator).flatten()
        assert order[hidden[row]].max() <= order[~hidden[row]].min()


@pytest.mark.parametrize("grid", [(8, 8), (5, 12)])
def test_blocks_hide_border_cells_about_as_often_as_centre_cells(grid: tuple[int, int]) -> None:
    hidden = ~masked(Masker(Block(), Ratio(0.5)), context(flat=grid), names(800)).visible
    often = hidden.float().mean(dim=0)
    assert often.mean().item() == pytest.approx(0.5)
    assert often.min() > 0.43
    assert often.max() < 0.57


def test_a_grid_keeps_one_cell_of_every_square() -> None:
    visible = masked(Masker(Grid(), Ratio(0.75)), context(flat=(6, 8)), names(3)).visible
    lattice = visible.view(3, 6, 8)
    assert lattice[:, ::2, ::2].all()
    assert lattice.sum() == 3 * 12
    cubes = masked(Masker(Grid(), Ratio(7 / 8)), context(deep=(4, 4, 4)), names(2)).visible
    assert cubes.view(2, 4, 4, 4)[:, ::2, ::2, ::2].all()


@pytest.mark.parametrize("rule", [Block(), Grid()])
def test_sets_have_no_neighbours(rule: Rule) -> None:
    where = Context(slots_of({"cloud": 8}), {"cloud": None})
    with pytest.raises(ValueError, match=r"modality 'cloud' has no lattice, .* use Uniform"):
        masked(Masker(rule), where, ["x"])


def test_rules_check_their_arguments() -> None:
    with pytest.raises(ValueError, match=r"share=\(0.5, 0.2\) must satisfy"):
        Block(share=(0.5, 0.2))
    with pytest.raises(ValueError, match=r"stride=0 must be at least 1"):
        Grid(stride=0)


# --- when something is missing --------------------------------------------------------------------

FOUR = context(a=(2, 2), b=(2, 3), c=(2, 2), d=(2, 3))  # 20 slots


def lacking() -> Tensor:
    """One row for every subset of the four modalities but the empty one."""
    exists = torch.zeros(15, 20, dtype=torch.bool)
    for row in range(15):
        for bit, slots in enumerate(FOUR.slots.values()):
            if (row + 1) >> bit & 1:
                exists[row, slots.start : slots.stop] = True
    return exists


@rules
@pytest.mark.parametrize("decoded", [3, 9, 17])
def test_the_decoder_is_asked_for_hidden_then_visible_then_absent_slots(
    rule: Rule, decoded: int
) -> None:
    exists = lacking()
    found = masked(Masker(rule, Count(3, decoded)), FOUR, names(15), exists)
    assert found.ids.shape == (15, 3)
    assert found.decoded_ids.shape == (15, decoded)  # whatever the rows lack
    assert (found.visible & ~exists).sum() == 0
    assert found.visible.sum(dim=1).tolist() == [3] * 15
    hidden = (exists & ~found.visible).sum(dim=1)
    for row in range(15):
        ids = found.decoded_ids[row]
        assert len(ids.unique()) == decoded
        tiers = torch.where(exists[row], found.visible[row].long(), 2)[ids]
        assert torch.equal(tiers, tiers.sort().values)
        assert (tiers == 0).sum() == min(decoded, hidden[row])
        assert (tiers < 2).sum() == min(decoded, exists[row].sum())
    assert found.target.sum(dim=1).tolist() == hidden.clamp(max=decoded).tolist()
    assert torch.equal(found.asked.sum(dim=1), found.target.sum(dim=1))
    assert found.decoded_padded == (decoded > 4)
    if found.decoded_valid is not None:
        assert torch.equal(found.decoded_valid, exists.gather(1, found.decoded_ids))


@rules
def test_what_others_lack_changes_no_samples_mask(rule: Rule) -> None:
    masker, exists = Masker(rule, Count(3, 9)), lacking()
    together = masked(masker, FOUR, names(15), exists)
    for row, name in enumerate(names(15)):
        alone = masked(masker, FOUR, [name], exists[row : row + 1])
        assert torch.equal(alone.ids[0], together.ids[row])
        assert torch.equal(alone.decoded_ids[0], together.decoded_ids[row])


def test_present_tokens_are_visible_equally_often() -> None:
    exists = torch.ones(2000, 20, dtype=torch.bool)
    exists[:, :8] = False
    found = masked(Masker(budget=Count(3)), FOUR, names(2000), exists)
    often = found.visible[:, 8:].float().mean(dim=0)
    assert (often - 0.25).abs().max() < 3.5 * math.sqrt(0.25 * 0.75 / 2000)


def test_too_few_tokens_are_an_error_unless_ragged() -> None:
    masker = Masker(budget=Count(6))
    with pytest.raises(
        ValueError, match=r"keeps 6 tokens visible, but a sample has only 4.*ragged"
    ):
        masked(masker, FOUR, names(15), lacking())
    found = masked(Masker(budget=Count(6), ragged=True), FOUR, names(15), lacking())
    assert found.padded
    assert found.valid is not None
    assert found.valid.sum(dim=1).tolist() == lacking().sum(dim=1).clamp(max=6).tolist()
    assert torch.equal(found.visible.sum(dim=1), found.valid.sum(dim=1))


def test_a_complete_batch_is_never_looked_at() -> None:
    """Known to the host, so that nothing waits for a device."""
    where = Context(FOUR.slots, FOUR.grids, complete=True)
    assert Masker.fewest(torch.zeros(1, 20, dtype=torch.bool), where) == 20


def test_a_second_rule_may_choose_what_is_decoded() -> None:
    exists = lacking()
    both = Masker(Uniform(), Count(3, 4), decoded=Grid())
    found = masked(both, FOUR, names(15), exists)
    assert found.decoded_ids.shape == (15, 4)
    assert (found.decoded & ~exists).sum() == 0
    assert torch.equal(found.target, found.decoded & ~found.visible)
    assert torch.equal(found.ids, masked(Masker(budget=Count(3, 4)), FOUR, names(15), exists).ids)


@dataclass(frozen=True)
class Columns:
    """Hides whole columns of 2-row lattices: ties two tokens together."""

    def __call__(
        self, exists: Bool[Tensor, "b n"], generators: list[Generator], context: Context
    ) -> Tensor:
        return Uniform()(exists[:, : exists.shape[1] // 2], generators, context).repeat(1, 2)

    def unit(self, context: Context) -> int:
        return 2


def test_rules_that_tie_tokens_are_counted_in_their_own_units() -> None:
    where = context(flat=(2, 10))
    found = masked(Masker(Columns(), Ratio(0.75)), where, names(9))
    assert found.ids.shape == (9, 4)  # floor(10 / 4) columns of 2, not floor(20 / 4) tokens
    lattice = found.visible.view(9, 2, 10)
    assert torch.equal(lattice[:, 0], lattice[:, 1])
    with pytest.raises(ValueError, match=r"ties 2 tokens together, but 15 is no multiple"):
        masked(Masker(Columns()), context(flat=(3, 5)), ["x"])


@dataclass(frozen=True)
class Looks(Uniform):
    needs_content = True


def test_rules_that_look_at_content_are_not_drawn_in_the_loader() -> None:
    assert Masker(Block(), Ratio(0.5)).content_free
    assert not Masker(Looks()).content_free
    assert not Masker(Uniform(), decoded=Looks()).content_free


def test_every_sample_needs_its_own_generator() -> None:
    exists = torch.ones(2, 16, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"2 samples came with 1 generators"):
        Masker()(exists, Step().generators(["x"], "masking"), context(flat=(4, 4)))


# --- without hiding, and as flat lists ------------------------------------------------------------


def test_everything_that_exists_is_visible_in_order() -> None:
    exists = lacking()
    found = everything(exists)
    assert found.ids.shape == (15, 20)
    assert found.decoded_ids.shape == (15, 0)
    assert torch.equal(found.visible, exists)
    for row in range(15):
        count = int(exists[row].sum())
        assert torch.equal(found.ids[row, :count], exists[row].nonzero().flatten())
    whole = everything(torch.ones(3, 5, dtype=torch.bool), complete=True)
    assert whole.ids.tolist() == [[0, 1, 2, 3, 4]] * 3
    assert not whole.padded


@pytest.mark.parametrize("ragged", [False, True])
def test_flat_lists_lead_back_to_rows(ragged: bool) -> None:
    """Values that say which sample and slot they are of come back where they belong."""
    exists = lacking()
    masker = Masker(budget=Count(8 if ragged else 3, 12), ragged=ragged)
    found = masked(masker, FOUR, names(15), exists)
    rows = {n: exists[:, s.start].nonzero().flatten() for n, s in FOUR.slots.items()}
    counts = {name: len(slots) for name, slots in FOUR.slots.items()}
    for ids, padded in ((found.ids, found.padded), (found.decoded_ids, found.decoded_padded)):
        picks = find_picks(ids, exists.gather(1, ids), padded, FOUR.slots, rows, counts)
        lists = []
        for name, slots in FOUR.slots.items():
            slot = torch.arange(slots.start, slots.stop).expand(len(rows[name]), -1)
            row = rows[name][:, None].expand_as(slot)
            values = torch.stack((row, slot), dim=-1).float()
            lists.append(values.flatten(0, 1)[picks.source[name]])
            assert torch.equal(picks.slots[name] + slots.start, lists[-1][:, 1].long())
        laid = arranged(lists, picks, ids)
        there = exists.gather(1, ids)
        assert torch.equal(laid[..., 1][there].long(), ids[there])
        assert torch.equal(
            laid[..., 0].long()[there], torch.arange(15)[:, None].expand_as(ids)[there]
        )
        assert (laid[~there] == 0).all()
        at = places_in_rows(picks, torch.device("cpu"))
        assert at is not None
        assert torch.equal(laid.flatten(0, 1)[at], torch.cat(lists))
