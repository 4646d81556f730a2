"""How often rows are drawn: by a column, classes in balance, sets in a ratio."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from multimask.training.rows import Chosen
from multimask.training.sampler import Weights


@runtime_checkable
class Mixed(Protocol):
    """Samples of several sets: which set each row is of, and how often each is to be drawn."""

    @property
    def sets(self) -> Sequence[Hashable]: ...
    @property
    def ratio(self) -> Mapping[Any, float | int]: ...


def weighed(train: Chosen, weights: str | None, balanced: str | None, batch_size: int) -> Chosen:
    """The rows with how often they are drawn, if not all alike.

    Raises: ValueError for columns that do not say it, and where a row would be drawn more than
    once a step.
    """
    found = row_weights(train, weights, balanced)
    if found is None:
        return train
    check_drawable(found, max(1, len(found) // batch_size), batch_size, train.names())
    return replace(train, weights=found)


def row_weights(train: Chosen, weights: str | None, balanced: str | None) -> Weights | None:
    """How often the rows are drawn, up to a factor; None where all are drawn alike.

    Args: weights, a column of numbers; balanced, a column whose values are drawn equally often.
    Without either, samples of several sets (a `Mixture`) are drawn by their ratio.
    Raises: ValueError for columns that are missing or hold something else.
    """
    if weights is not None and balanced is not None:
        raise ValueError(
            f"fit: weights={weights!r} and balanced={balanced!r} cannot both decide how often a "
            "row is drawn; put their product into one column."
        )
    if weights is not None:
        return checked(weights, chosen(train, weights), train.names())
    if balanced is not None:
        groups = chosen(train, balanced)
        if (gone := sum(group is None for group in groups)) > 0:
            first = train.names()[groups.index(None)]
            raise ValueError(
                f"fit: balanced={balanced!r}: {gone} of {len(groups)} rows have none, the first is "
                f"{first!r}; give them one or leave them out."
            )
        return by_group(groups, dict.fromkeys(groups, 1.0))
    if isinstance(train.samples, Mixed):
        sets = train.samples.sets
        return by_group([sets[row] for row in train.rows.tolist()], train.samples.ratio)
    return None


def chosen(train: Chosen, name: str) -> list[Any]:
    columns = train.samples.columns
    if name not in columns:
        raise ValueError(f"fit: there is no column {name!r} to weigh by; found {sorted(columns)}.")
    column = columns[name]
    return [column[row] for row in train.rows.tolist()]


def checked(name: str, values: list[Any], ids: Sequence[str]) -> Weights:
    for value, sample in zip(values, ids, strict=True):
        if not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ValueError(
                f"fit: weights={name!r}: sample {sample!r} has {value!r}; expected numbers that "
                "are finite and not negative."
            )
    made = np.array(values, np.float64)
    if not made.any():
        raise ValueError(f"fit: weights={name!r} are all zero, so nothing would be drawn.")
    return made


def by_group(groups: Sequence[Hashable], ratio: Mapping[Any, float | int]) -> Weights:
    """Weights under which groups are drawn in this ratio, whatever their sizes.

    >>> by_group(["cat", "cat", "dog"], {"cat": 1, "dog": 1})
    array([0.5, 0.5, 1. ])
    """
    counts: dict[Hashable, int] = {}
    for group in groups:
        counts[group] = counts.get(group, 0) + 1
    return np.array([ratio[group] / counts[group] for group in groups], np.float64)


def check_drawable(weights: Weights, steps: int, batch_size: int, ids: Sequence[str]) -> None:
    """Raises ValueError where a row would be drawn more than once a step."""
    wanted = weights * (steps * batch_size / weights.sum())
    heaviest = int(wanted.argmax())
    if wanted[heaviest] > steps:
        raise ValueError(
            f"fit: sample {ids[heaviest]!r} would be drawn {wanted[heaviest]:.1f} times in an "
            f"epoch of {steps} steps, but a batch holds a sample once; lower its weight or "
            f"batch_size={batch_size}."
        )
