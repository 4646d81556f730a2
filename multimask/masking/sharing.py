"""Budgets that say how the visible tokens are shared among the modalities a sample has.

The total is that of another budget and exact for every sample. A modality never gets more than it
holds: the rest spills to the others. Which of its tokens they are is still the masker's rule.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from multimask.masking.allotment import FIRST, LAST, SECOND, allotted
from multimask.masking.budgets import Budget, Count, Natural, Ratio
from multimask.tokens import Slots

Names = tuple[str, ...]
Wish = tuple[Float[np.ndarray, " m"], Int[np.ndarray, " m"]]  # weights, and whose turn it is


@runtime_checkable
class Shares(Protocol):
    """A budget with an opinion on modalities: `of` says how many tokens, `wish` whose they are.
    Where rows lack modalities `of` is replaced by a lower one, so it should be a dataclass's field.

    `wish` is asked once a sample, with how many tokens of each modality it has, and draws from the
    sample's own generator only.
    """

    @property
    def of(self) -> Budget: ...
    def __call__(self, n: int) -> tuple[int, int]: ...
    def wish(self, names: Names, has: Int[np.ndarray, " m"], generator: Generator) -> Wish: ...


@dataclass(frozen=True)
class Dirichlet:
    """Shares drawn from a Dirichlet distribution over the modalities that the sample has
    (MultiMAE, Bachmann et al., ECCV 2022; BM-MAE): sometimes nearly all of one, nothing of another.

    Args:
        of: how many tokens in all.
        alpha: concentration, one for all or one a modality; 1 makes all shares equally likely,
            large ones even shares.
        subsets: first draw a non-empty set of modalities, all equally likely; the others only get
            what these cannot hold (MultiMAE's `sample_tasks_uniformly`).
    """

    of: Budget = Ratio(0.75)  # noqa: RUF009 - frozen
    alpha: float | Mapping[str, float] = 1.0
    subsets: bool = False

    def __post_init__(self) -> None:
        alphas = [self.alpha] if isinstance(self.alpha, int | float) else self.alpha.values()
        if not all(0 < alpha < float("inf") for alpha in alphas):
            raise ValueError(f"Dirichlet: alpha={self.alpha} must be positive and finite.")

    def __call__(self, n: int) -> tuple[int, int]:
        return self.of(n)

    def wish(self, names: Names, has: Int[np.ndarray, " m"], generator: Generator) -> Wish:
        present = np.flatnonzero(has)
        weights, turns = np.zeros(len(names)), np.full(len(names), LAST)
        if not len(present):
            return weights, turns
        alphas = np.array([looked_up(self.alpha, names[i], "Dirichlet: alpha") for i in present])
        weights[present] = source(generator).dirichlet(alphas)
        chosen = present
        if self.subsets:
            bits = int(torch.randint(1, 2 ** len(present), (1,), generator=generator))
            chosen = present[[bool(bits >> place & 1) for place in range(len(present))]]
        turns[chosen] = SECOND
        return weights, turns


@dataclass(frozen=True)
class Fixed:
    """Fixed shares: `Fixed({"rgb": 49, "depth": 25})` keeps just so many tokens of each visible.

    Where a sample lacks one of them, or holds fewer tokens of it, the others take what is left, in
    the same proportion; modalities that are not named come last.
    Args: shares, tokens visible (or just parts, where `of` says the total). of, the total; by
    default the sum of the shares, all else decoded.
    """

    shares: Mapping[str, int | float]
    total: Budget | None = None

    def __post_init__(self) -> None:
        parts = self.shares.values()
        if not parts or min(parts) < 0 or sum(parts) <= 0:
            raise ValueError(f"Fixed: shares={dict(self.shares)} must be 0 or more, some more.")
        if self.total is None and any(part != int(part) for part in parts):
            raise ValueError(
                f"Fixed: shares={dict(self.shares)} are no whole numbers of tokens; say what they "
                "are shares of, total=Ratio(...) or Count(...)."
            )

    @property
    def of(self) -> Budget:
        return Count(int(sum(self.shares.values()))) if self.total is None else self.total

    def __call__(self, n: int) -> tuple[int, int]:
        return self.of(n)

    def wish(self, names: Names, has: Int[np.ndarray, " m"], generator: Generator) -> Wish:
        check_known(self.shares, names, "Fixed: shares")
        weights = np.array([float(self.shares.get(name, 0)) for name in names])
        return weights, np.where(weights > 0, SECOND, LAST)


@dataclass(frozen=True)
class Dropped:
    """Whole modalities are hidden as far as the total allows.

    Each stays with chance `keep` (one for all or one a modality), at least one always; or, with a
    `table`, one of its subsets, all equally likely. Those that stay share the total as `of` says
    (without shares of its own, by how many tokens they hold); those dropped only get what the
    others cannot hold. For counts that follow the subset instead use `Subset` with `Natural`.
    """

    of: Budget = Ratio(0.75)  # noqa: RUF009 - frozen
    keep: float | Mapping[str, float] = 0.5
    table: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        check_subsets(self.keep, self.table, "Dropped")

    def __call__(self, n: int) -> tuple[int, int]:
        return self.of(n)

    def wish(self, names: Names, has: Int[np.ndarray, " m"], generator: Generator) -> Wish:
        weights, turns = wish_of(self.of, names, has, generator)
        stays = subset(names, has > 0, self.keep, self.table, generator, "Dropped")
        return weights, np.where(stays, turns, LAST)


@dataclass(frozen=True)
class Roles:
    """Who may be read and who may be asked for: `always` are visible in full before anything else
    (conditions), `never` are only answered for (targets; PHG-MAE's). The rest shares as `of` says.

    The total wins: with fewer tokens than the conditions hold some are hidden, with more than all
    but the targets hold some targets are visible.
    """

    of: Budget = Ratio(0.75)  # noqa: RUF009 - frozen
    always: tuple[str, ...] = ()
    never: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if set(self.always) & set(self.never):
            both = ", ".join(sorted(set(self.always) & set(self.never)))
            raise ValueError(f"Roles: {both} cannot be always and never visible at once.")

    def __call__(self, n: int) -> tuple[int, int]:
        return self.of(n)

    def wish(self, names: Names, has: Int[np.ndarray, " m"], generator: Generator) -> Wish:
        check_known((*self.always, *self.never), names, "Roles")
        weights, turns = wish_of(self.of, names, has, generator)
        turns = np.where([name in self.always for name in names], FIRST, turns)
        return weights, np.where([name in self.never for name in names], LAST, turns)


@dataclass(frozen=True)
class Curriculum:
    """Another budget from a certain optimiser step on: `Curriculum(((0, easy), (1000, hard)))`.

    Each stage has its own static counts, so compiled shapes are as few as the stages. Held-out rows
    are always masked by the first.
    """

    stages: tuple[tuple[int, Budget], ...]

    def __post_init__(self) -> None:
        starts = [start for start, _ in self.stages]
        if not starts or starts[0] != 0 or sorted(set(starts)) != starts:
            raise ValueError(
                f"Curriculum: stages start at steps {starts}; they must begin with 0 and rise."
            )

    def __call__(self, n: int) -> tuple[int, int]:
        return self.stages[0][1](n)

    def at(self, step: int) -> Budget:
        return next(budget for start, budget in reversed(self.stages) if start <= step)


def now(budget: Budget, step: int) -> Budget:
    """What a budget is at this optimiser step."""
    return budget.at(step) if isinstance(budget, Curriculum) else budget


# --- for the masker -------------------------------------------------------------------------------


def shared_scores(
    scores: Float[Tensor, "b n"],
    exists: Bool[Tensor, "b n"],
    budget: Shares,
    k: int,
    generators: list[Generator],
    slots: Slots,
) -> Float[Tensor, "b n"]:
    """Scores whose k lowest are each modality's lowest, as many as the budget gives it: below 1
    what stays visible, else 1 and more."""
    has = [exists[:, where.start : where.stop].sum(dim=1) for where in slots.values()]
    counts = counts_of(budget, tuple(slots), torch.stack(has, dim=1).cpu().numpy(), k, generators)
    shared = torch.empty_like(scores)
    for place, where in enumerate(slots.values()):
        if not len(where):
            continue
        order = scores[:, where.start : where.stop].argsort(dim=1, stable=True)
        rank = order.argsort(dim=1).to(scores.dtype)
        count = torch.as_tensor(counts[:, place], device=scores.device)[:, None]
        shared[:, where.start : where.stop] = rank / len(where) + (rank >= count)
    return shared


def counts_of(
    budget: Shares,
    names: Names,
    has: Int[np.ndarray, "b m"],
    total: int,
    generators: list[Generator],
) -> Int[np.ndarray, "b m"]:
    """How many tokens of each modality stay visible, by how many there are."""
    wishes = [budget.wish(names, row, g) for row, g in zip(has, generators, strict=True)]
    draws = np.array([float(torch.rand((), generator=g)) for g in generators])
    weights = np.array([weights for weights, _ in wishes]).reshape(has.shape)
    turns = np.array([turns for _, turns in wishes]).reshape(has.shape)
    return allotted(weights, turns, has, total, draws)


def wish_of(budget: Budget, names: Names, has: Int[np.ndarray, " m"], generator: Generator) -> Wish:
    """The budget's own wish, else shares by how many tokens there are."""
    if isinstance(budget, Shares):
        return budget.wish(names, has, generator)
    return has.astype(float), np.full(len(names), SECOND)


def lowered(budget: Budget, units: int, limit: int) -> Budget:
    """The same budget with at most `limit` of `units` visible; what it decoded beyond the visible,
    all or fewer, it still does. Budgets that pad to their cap stay as they are."""
    if isinstance(budget, Curriculum):
        stages = tuple((start, lowered(stage, units, limit)) for start, stage in budget.stages)
        return budget if stages == budget.stages else replace(budget, stages=stages)
    visible, decoded = budget(units)
    if visible <= limit or isinstance(budget, Natural):  # which pads instead
        return budget
    if isinstance(budget, Fixed):
        return replace(budget, total=lowered(budget.of, units, limit))
    if isinstance(budget, Shares):
        if not is_dataclass(budget) or "of" not in {field.name for field in fields(budget)}:
            raise ValueError(
                f"{type(budget).__name__}: it keeps {visible} of {units} tokens visible, some row "
                f"allows {limit}; to be lowered it needs to be a dataclass with a field `of`."
            )
        return cast(Budget, replace(budget, of=lowered(budget.of, units, limit)))
    return Count(limit, units - limit if decoded == units - visible else decoded)


# --- subsets --------------------------------------------------------------------------------------


def subset(
    names: Names,
    present: Bool[np.ndarray, " m"],
    keep: float | Mapping[str, float],
    table: tuple[tuple[str, ...], ...],
    generator: Generator,
    who: str,
) -> Bool[np.ndarray, " m"]:
    """Which of the modalities that are there stay: never none of them.

    By chance: drawn again until some stay, so chances are those given that some do. By table: its
    subsets as far as they are there; where nothing of any is, all that is there stays.
    """
    if table:
        rows = [[name in chosen for name in names] for chosen in table]
        check_known({name for chosen in table for name in chosen}, names, f"{who}: table")
        usable = [row for row in rows if (np.array(row) & present).any()]
        if not usable:
            return present
        place = int(torch.randint(len(usable), (1,), generator=generator))
        return np.array(usable[place]) & present
    chances = chances_of(names, present, keep, who)
    if not chances.any():
        return present
    while True:
        stays = torch.rand(len(names), generator=generator).numpy() < chances
        if stays.any():
            return stays


def chances_of(
    names: Names, present: Bool[np.ndarray, " m"], keep: float | Mapping[str, float], who: str
) -> Float[np.ndarray, " m"]:
    """The chance to stay of each modality that is there, 0 for the others."""
    pairs = zip(names, present, strict=True)
    return np.array([looked_up(keep, n, f"{who}: keep") if here else 0.0 for n, here in pairs])


def check_subsets(
    keep: float | Mapping[str, float], table: tuple[tuple[str, ...], ...], who: str
) -> None:
    chances = [keep] if isinstance(keep, int | float) else keep.values()
    if not all(0 <= chance <= 1 for chance in chances):
        raise ValueError(f"{who}: keep={keep} are chances and must lie in [0, 1].")
    if any(not chosen for chosen in table):
        raise ValueError(f"{who}: table={table} holds a subset of nothing.")


def looked_up(values: float | Mapping[str, float], name: str, what: str) -> float:
    if isinstance(values, int | float):
        return float(values)
    if name not in values:
        raise ValueError(f"{what}={dict(values)} says nothing about modality {name!r}.")
    return float(values[name])


def check_known(names: Iterable[str], known: Names, what: str) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(
            f"{what} names {', '.join(unknown)}, which the model does not have; "
            f"it has {', '.join(known)}."
        )


def source(generator: Generator) -> "np.random.Generator":
    """NumPy's distributions from a sample's own generator (loaded when first drawn from)."""
    seed = int(torch.randint(2**62, (1,), generator=generator))
    return np.random.default_rng(seed)
