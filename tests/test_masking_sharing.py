"""One exact total shared among modalities: statistics against closed forms, spilling, roles."""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator

from multimask.masking import (
    Context,
    Count,
    Curriculum,
    Dirichlet,
    Dropped,
    Fixed,
    Masker,
    Natural,
    Ratio,
    Roles,
    Subset,
    Tube,
    Uniform,
)
from multimask.masking.allotment import allotted
from multimask.masking.sharing import Shares, counts_of, lowered
from multimask.modalities.image import ImagePatches
from multimask.model import MaskedModel
from multimask.plugins import from_config, to_config
from multimask.testing.maskers import check_masker
from multimask.tokens import Masking, Step, slots_of
from multimask.training import settled
from multimask.training.collate import Collate
from multimask.training.reading import Item
from multimask.training.sampler import EpochSampler

FEW_OR_MANY = pytest.mark.parametrize(
    "draws", [1_000, pytest.param(100_000, marks=pytest.mark.slow)], ids=["few", "many"]
)
NAMES = ("depth", "labels", "rgb")
WHOLE = slots_of(dict.fromkeys(NAMES, 196))
SMALL = slots_of({"depth": 4, "labels": 6, "rgb": 9})


def drawn(budget: Shares, has: list[int], total: int, draws: int, names: Any = NAMES) -> Any:
    generators = [Generator().manual_seed(5)] * draws
    return counts_of(budget, names, np.tile(has, (draws, 1)), total, generators)


def masking(
    budget: Any, exists: Any = None, step: int = 0, size: int = 40, **masker: Any
) -> Masking:
    if exists is None:
        exists = torch.ones(size, 19, dtype=torch.bool)
    context = Context(SMALL, step=step)
    generators = Step(3).generators(map(str, range(len(exists))), "masking")
    return Masker(budget=budget, **masker)(exists, generators, context)


def by_modality(made: Masking) -> Any:
    blocks = [made.visible[:, w.start : w.stop].sum(dim=1) for w in SMALL.values()]
    return torch.stack(blocks, dim=1).numpy()


# --- statistics -----------------------------------------------------------------------------------


@FEW_OR_MANY
def test_dirichlet_counts_of_multimae_have_the_moments_of_their_distribution(draws: int) -> None:
    """98 of 3 x 196 tokens with alpha 1: each share is Beta(1, 2)."""
    counts = drawn(Dirichlet(Count(98)), [196, 196, 196], 98, draws)
    assert (counts.sum(axis=1) == 98).all()
    mean, std = 98 / 3, 98 / math.sqrt(18)  # 32.7 and 23.1
    error = std / math.sqrt(draws)
    np.testing.assert_allclose(counts.mean(axis=0), mean, atol=4 * error)
    np.testing.assert_allclose(counts.std(axis=0), std, rtol=3 / math.sqrt(draws))
    # P(share * 98 < 1) with the chance 1 - share * 98 to be rounded down: 1/98 - 1/(3 * 98^2)
    nothing = 1 / 98 - 1 / (3 * 98**2)
    np.testing.assert_allclose(
        (counts == 0).mean(axis=0), nothing, atol=4 * math.sqrt(nothing / draws)
    )


@FEW_OR_MANY
@pytest.mark.parametrize("alpha", [0.5, {"depth": 1.0, "labels": 2.0, "rgb": 5.0}])
def test_dirichlet_means_are_those_of_its_alphas_rounding_included(alpha: Any, draws: int) -> None:
    counts = drawn(Dirichlet(Count(7), alpha), [196] * 3, 7, draws)
    alphas = np.array([alpha[n] if isinstance(alpha, dict) else alpha for n in NAMES])
    shares = alphas / alphas.sum()
    spread = np.sqrt(shares * (1 - shares) / (alphas.sum() + 1)) * 7 + 0.5
    assert (np.abs(counts.mean(axis=0) - 7 * shares) < 4 * spread / math.sqrt(draws)).all()


def test_rounding_has_no_bias() -> None:
    """5 tokens in equal parts to three: 1 or 2 each, 5/3 on average; never anything else."""
    draws = np.linspace(0, 1, 30_000, endpoint=False)
    shape = (len(draws), 3)
    counts = allotted(np.ones(shape), np.ones(shape, int), np.full(shape, 9), 5, draws)
    assert set(np.unique(counts)) == {1, 2}
    np.testing.assert_allclose(counts.mean(axis=0), 5 / 3, atol=1e-3)


@FEW_OR_MANY
def test_bm_mae_keeps_a_quarter_of_four_contrasts_and_sometimes_one_alone(draws: int) -> None:
    names = ("flair", "t1", "t1ce", "t2")
    counts = drawn(Dirichlet(Ratio(0.75)), [512] * 4, 512, draws, names)
    assert (counts.sum(axis=1) == 512).all()
    # Beta(1, 3): mean 1/4, variance 3/80
    np.testing.assert_allclose(counts.mean(axis=0), 128, atol=4 * 512 * 0.1937 / math.sqrt(draws))
    np.testing.assert_allclose(
        counts.std(axis=0), 512 * math.sqrt(3 / 80), rtol=3 / math.sqrt(draws)
    )
    assert (counts == 0).any()
    assert counts.max() > 400


@FEW_OR_MANY
def test_uniform_subsets_give_all_of_the_total_to_those_drawn(draws: int) -> None:
    counts = drawn(Dirichlet(Count(98), subsets=True), [196] * 3, 98, draws)
    assert (counts.sum(axis=1) == 98).all()
    alone = (counts == 98).any(axis=1).mean()  # three of seven sets are single
    assert alone == pytest.approx(3 / 7, abs=0.02 + 2 / math.sqrt(draws))


@FEW_OR_MANY
def test_chances_of_phg_mae_are_those_configured_and_never_none(draws: int) -> None:
    keep = {"depth": 0.5, "labels": 0.2, "rgb": 0.9}
    rule, there, generator = Subset(keep), np.ones(3, bool), Generator().manual_seed(1)
    stays = np.array([rule.drawn(NAMES, there, generator) for _ in range(draws)])
    assert stays.any(axis=1).all()
    chances = np.array([keep[name] for name in NAMES])
    some = 1 - np.prod(1 - chances)
    np.testing.assert_allclose(stays.mean(axis=0), chances / some, atol=2 / math.sqrt(draws))


@FEW_OR_MANY
def test_a_condition_leaves_the_others_their_plain_chances(draws: int) -> None:
    rule, there = Subset(0.5, always=("rgb",), never=("labels",)), np.ones(3, bool)
    generator = Generator().manual_seed(1)
    stays = np.array([rule.drawn(NAMES, there, generator) for _ in range(draws)])
    np.testing.assert_allclose(stays.mean(axis=0), [0.5, 0, 1], atol=2 / math.sqrt(draws))


def test_subsets_of_a_table_are_equally_likely() -> None:
    table = (("rgb",), ("depth", "rgb"), ("depth", "labels"))
    rule, generator = Subset(table=table), Generator().manual_seed(1)
    stays = [tuple(rule.drawn(NAMES, np.ones(3, bool), generator)) for _ in range(2_000)]
    found = {chosen: stays.count(chosen) / 2_000 for chosen in set(stays)}
    assert len(found) == 3
    np.testing.assert_allclose(list(found.values()), 1 / 3, atol=0.045)
    lacking = rule.drawn(NAMES, np.array([True, False, False]), generator)
    assert lacking.tolist() == [True, False, False]


# --- exact, and spilling --------------------------------------------------------------------------

BUDGETS = [
    Dirichlet(Count(5)),
    Dirichlet(Ratio(0.5), 0.1, subsets=True),
    Fixed({"depth": 1, "rgb": 5}),
    Fixed({"depth": 0.2, "labels": 0.2, "rgb": 0.6}, Count(7, 4)),
    Dropped(Count(8)),
    Dropped(Dirichlet(Count(4)), table=(("rgb",), ("depth",))),
    Roles(Dirichlet(Count(7)), always=("depth",), never=("rgb",)),
    Roles(Ratio(0.75), never=("depth",)),
]


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda b: type(b).__name__)
def test_budgets_keep_the_maskers_contract(budget: Any) -> None:
    check_masker(Masker(Uniform(), budget), {"depth": (2, 2), "labels": (2, 3), "rgb": (3, 3)})
    assert from_config(to_config(budget, {})) == budget


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda b: type(b).__name__)
def test_every_sample_keeps_the_exact_total_whatever_it_lacks(budget: Any) -> None:
    exists = torch.ones(60, 19, dtype=torch.bool)
    subsets = [c for n in (1, 2) for c in combinations(SMALL, n)]
    for row, gone in enumerate(subsets * 10):
        for name in gone:
            exists[row, SMALL[name].start : SMALL[name].stop] = False
    k = budget(19)[0]
    exists[exists.sum(dim=1) < k] = True
    made = masking(budget, exists)
    assert (made.visible.sum(dim=1) == k).all()
    assert not (made.visible & ~exists).any()
    assert not made.padded


def test_a_share_beyond_what_a_modality_holds_spills_exactly() -> None:
    greedy = Dirichlet(Count(15), {"depth": 1000.0, "labels": 1.0, "rgb": 1.0})
    counts = by_modality(masking(greedy))
    assert (counts[:, 0] == 4).all()
    assert (counts.sum(axis=1) == 15).all()
    fixed = by_modality(masking(Fixed({"depth": 9, "labels": 2, "rgb": 3})))
    assert (fixed[:, 0] == 4).all()  # of 9; the other 5 are shared 2 : 3
    assert (fixed == [4, 4, 6]).all()
    beyond = by_modality(masking(Fixed({"depth": 3, "labels": 4})))
    assert (beyond == [3, 4, 0]).all()
    lacking = torch.ones(4, 19, dtype=torch.bool)
    lacking[:, 0:4] = False
    assert (by_modality(masking(Fixed({"depth": 3, "labels": 4}), lacking)) == [0, 6, 1]).all()


def test_fixed_counts_are_just_those_numbers() -> None:
    assert (by_modality(masking(Fixed({"depth": 1, "labels": 2, "rgb": 4}))) == [1, 2, 4]).all()


def test_dropped_modalities_are_hidden_while_others_hold_the_total() -> None:
    counts = by_modality(masking(Dropped(Count(4), 0.5), size=200))
    hidden = (counts == 0).sum(axis=1)
    assert set(hidden.tolist()) == {0, 1, 2}
    table = by_modality(masking(Dropped(Count(4), table=(("labels",),))))
    assert (table == [0, 4, 0]).all()
    spilled = by_modality(masking(Dropped(Count(7), table=(("labels",),))))
    assert (spilled[:, 1] == 6).all()
    assert (spilled.sum(axis=1) == 7).all()


def test_conditions_come_first_and_targets_last() -> None:
    roles = Roles(Dirichlet(Count(8)), always=("depth",), never=("rgb",))
    counts = by_modality(masking(roles))
    assert (counts == [4, 4, 0]).all()
    wide = by_modality(masking(Roles(Count(12), always=("depth",), never=("rgb",))))
    assert (wide == [4, 6, 2]).all()
    tight = by_modality(masking(Roles(Count(3), always=("depth",))))
    assert (tight == [3, 0, 0]).all()


def test_a_target_budget_bounds_what_is_decoded() -> None:
    made = masking(Dirichlet(Count(5, 6)))
    assert made.decoded_ids.shape == (40, 6)
    assert made.target.sum(dim=1).eq(6).all()


def test_which_tokens_of_a_modality_stay_is_the_rules_choice() -> None:
    made = masking(Fixed({"rgb": 3}), size=1000)
    often = made.visible[:, SMALL["rgb"].start : SMALL["rgb"].stop].double().mean(dim=0)
    torch.testing.assert_close(often, torch.full_like(often, 1 / 3), rtol=0, atol=0.065)


def test_whole_modalities_with_their_own_counts() -> None:
    made = masking(Natural(), rule=Subset(0.5), size=200)
    counts = by_modality(made)
    full = counts == [4, 6, 9]
    assert (full | (counts == 0)).all()
    assert full.any(axis=1).all()
    assert torch.equal(made.target, made.exists & ~made.visible)


def test_nothing_but_targets_is_shown_because_nothing_else_is_there() -> None:
    lacking = torch.ones(2, 19, dtype=torch.bool)
    lacking[0, :10] = False
    made = masking(Natural(), lacking, rule=Subset(never=("rgb",)))
    assert by_modality(made)[0].tolist() == [0, 0, 9]
    assert by_modality(made)[1, 2] == 0


def test_a_curriculum_changes_its_budget_at_its_steps() -> None:
    rising = Curriculum(((0, Count(3)), (10, Dirichlet(Count(6, 4)))))
    sizes = [masking(rising, step=step).ids.shape[1] for step in (0, 9, 10, 99)]
    assert sizes == [3, 3, 6, 6]
    assert Masker(budget=rising).counts(19, Context(SMALL, step=10)) == (6, 4)
    assert from_config(to_config(rising, {})) == rising


def test_lowering_keeps_the_kind_of_budget() -> None:
    assert lowered(Dirichlet(Count(10, 9), 2.0), 19, 4) == Dirichlet(Count(4, 15), 2.0)
    assert lowered(Fixed({"rgb": 10}), 19, 4) == Fixed({"rgb": 10}, Count(4, 15))
    roles = Roles(Dropped(Ratio(0.5)), always=("rgb",))
    assert lowered(roles, 19, 4) == Roles(Dropped(Count(4, 15)), always=("rgb",))
    assert lowered(roles, 19, 12) is roles
    rising = Curriculum(((0, Count(3)), (10, Count(8))))
    assert lowered(rising, 19, 4) == Curriculum(((0, Count(3)), (10, Count(4, 15))))
    padded = Curriculum(((0, Natural()), (10, Count(8))))
    assert lowered(padded, 19, 4) == Curriculum(((0, Natural()), (10, Count(4, 15))))


@dataclass(frozen=True)
class First:
    """All for the first modality: a budget of somebody else's."""

    of: Any = Ratio(0.5)  # noqa: RUF009 - frozen

    def __call__(self, n: int) -> tuple[int, int]:
        return self.of(n)

    def wish(self, names: Any, has: Any, generator: Generator) -> Any:
        return np.ones(len(names)), np.arange(len(names)).clip(0, 2)


def test_budgets_of_others_keep_their_shares_when_they_are_lowered() -> None:
    assert lowered(First(), 19, 4) == First(Count(4, 15))
    hidden: Any = type("Hidden", (), {n: getattr(First(), n) for n in ("of", "wish")})
    hidden.__call__ = lambda self, n: (9, 10)
    with pytest.raises(ValueError, match="Hidden: it keeps 9 of 19 tokens visible, some row allow"):
        lowered(hidden(), 19, 4)


def test_budgets_check_their_arguments() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Dirichlet(alpha=0.0)
    with pytest.raises(ValueError, match="says nothing about modality 'labels'"):
        masking(Dirichlet(alpha={"rgb": 1.0, "depth": 1.0}))
    with pytest.raises(ValueError, match="no whole numbers"):
        Fixed({"rgb": 0.5})
    with pytest.raises(ValueError, match="names sound, which the model does not have"):
        masking(Fixed({"sound": 3}))
    with pytest.raises(ValueError, match="rgb cannot be always and never"):
        Roles(always=("rgb",), never=("rgb",))
    with pytest.raises(ValueError, match="must lie in"):
        Dropped(keep=1.5)
    with pytest.raises(ValueError, match="begin with 0 and rise"):
        Curriculum(((5, Count(3)),))
    with pytest.raises(ValueError, match="ties 2 together"):
        Masker(Tube(), Dirichlet()).counts(8, Context(slots_of({"a": 8}), {"a": (2, 2, 2)}))


# --- in a run -------------------------------------------------------------------------------------


def model_of_maps() -> MaskedModel:
    sizes = {"depth": 8, "labels": (8, 12), "rgb": 12}  # 4, 6 and 9 tokens
    maps = {name: ImagePatches(size, 4, channels=1) for name, size in sizes.items()}
    return MaskedModel(maps, width=16, depth=1, heads=2, decoder_width=16, decoder_depth=1)


def test_the_loader_asks_the_budget_of_its_own_step() -> None:
    rising = Masker(budget=Curriculum(((0, Count(3)), (10, Dirichlet(Count(6, 4))))))
    put = Collate.of(model_of_maps(), rising)
    sample = {"id": "x", "depth": torch.rand(1, 8, 8), "rgb": torch.rand(1, 12, 12)}
    shapes = []
    for step in (0, 10):
        made = put([Item(1, dict(sample), step)]).masking
        assert made is not None
        shapes.append((made.ids.shape[1], made.decoded_ids.shape[1]))
    assert shapes == [(3, 16), (6, 4)]
    draws = [batch[0] for batch in EpochSampler(np.arange(6), 2, trained=lambda: 4)]
    assert [(draw.epoch, draw.step) for draw in draws] == [(1, 4), (1, 5)]


def test_budgets_that_pad_are_left_alone_where_data_lack_modalities() -> None:
    masker = Masker(Subset(), Natural())
    missing = np.array([[False, False, False], [True, True, False]])
    context = Context(SMALL, complete=True)
    assert settled(masker, SMALL, missing, context) is masker
    shared = Masker(Uniform(), Dirichlet(Count(8)))
    assert settled(shared, SMALL, missing, context).budget == Dirichlet(Count(6, 13))
    batch = Collate.of(model_of_maps(), masker)(
        [Item(0, {"id": "x", "depth": torch.rand(1, 8, 8)})]
    )
    assert batch.size == 1
    assert not batch.skipped
