"""Several sets of samples as one, drawn by ratio."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, overload

import numpy as np
from jaxtyping import Bool
from torch import Generator

from multimask.tokens import Sample, Samples
from multimask.training.reading import Draws, as_samples, blanks

ORIGIN = "set"  # the column, and the key of a sample, that says which set it is of


@dataclass(frozen=True, eq=False)
class Mixture:
    """`Mixture({"photos": photos, "scans": scans}, {"photos": 3, "scans": 1})`: in `fit`, three of
    four samples are photographs, however many there are of either.

    A row is a sample of one set; its id is "set/id", its key "set" names the set. A modality or
    column that a set does not know is missing there. An epoch has as many draws as there are rows.

    Args: parts, samples by the name of their set; ratio, how often they are drawn, equally if None.
    Raises: ValueError for ratios that are not positive or not of these sets.
    """

    parts: Mapping[str, Samples | Sequence[Sample]]
    given: Mapping[str, float | int] | None = None
    extra: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.parts or any(len(part) == 0 for part in self.parts.values()):
            raise ValueError("Mixture: give at least one set, and none that is empty.")
        if set(self.ratio) != set(self.parts) or not all(
            0 < share < float("inf") for share in self.ratio.values()
        ):
            raise ValueError(
                f"Mixture: the ratio {dict(self.ratio)} must give each of the sets "
                f"{sorted(self.parts)} a positive number."
            )

    @cached_property
    def ratio(self) -> Mapping[str, float | int]:
        return dict.fromkeys(self.parts, 1.0) if self.given is None else self.given

    @cached_property
    def members(self) -> tuple[tuple[str, Samples], ...]:
        return tuple((name, as_samples(part)) for name, part in self.parts.items())

    @cached_property
    def starts(self) -> list[int]:
        return np.cumsum([0, *(len(part) for _, part in self.members)]).tolist()

    def __len__(self) -> int:
        return self.starts[-1]

    def at(self, index: int) -> tuple[str, Samples, int]:
        """The set, its samples, and the row in it."""
        index = range(len(self))[index]
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        name, part = self.members[number]
        return name, part, index - self.starts[number]

    def __getitem__(self, index: int) -> Sample:
        name, part, row = self.at(index)
        return self.told(index, name, row, part[row])

    def draw(self, index: int, generator: Generator) -> Sample:
        """With the augmentation of its set, if that has any."""
        name, part, row = self.at(index)
        sample = part.draw(row, generator) if isinstance(part, Draws) else part[row]
        return self.told(index, name, row, sample)

    def told(self, index: int, name: str, row: int, sample: Sample) -> Sample:
        extra = {key: values[index] for key, values in self.extra.items()}
        known = {key: value for key, value in extra.items() if value is not None}
        return {**sample, "id": f"{name}/{sample.get('id', row)}", ORIGIN: name, **known}

    @property
    def sets(self) -> Sequence[str]:
        return self.looked_up[ORIGIN]

    @property
    def columns(self) -> Mapping[str, Sequence[Any]]:
        return self.looked_up

    @cached_property
    def looked_up(self) -> dict[str, Sequence[Any]]:
        names = dict.fromkeys(name for _, part in self.members for name in part.columns)
        ids = [
            f"{name}/{row if 'id' not in part.columns else part.columns['id'][row]}"
            for name, part in self.members
            for row in range(len(part))
        ]
        origin = [name for name, part in self.members for _ in range(len(part))]
        chained = {name: Chained(name, self.members, self.starts) for name in names}
        return {**chained, "id": ids, ORIGIN: origin, **self.extra}

    def with_columns(self, **columns: Sequence[Any]) -> "Mixture":
        return Mixture(self.parts, self.given, {**self.extra, **columns})


@dataclass(frozen=True, eq=False)
class Chained(Sequence[Any]):
    """A column of several sets, one after the other; None where a set has no such column."""

    name: str
    members: tuple[tuple[str, Samples], ...]
    starts: list[int]

    def __len__(self) -> int:
        return self.starts[-1]

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        column = self.members[number][1].columns.get(self.name)
        return None if column is None else column[index - self.starts[number]]

    def __iter__(self) -> Iterator[Any]:
        for _, part in self.members:
            column = part.columns.get(self.name)
            yield from [None] * len(part) if column is None else column

    @property
    def missing(self) -> Bool[np.ndarray, " n"]:
        parts = ((part.columns.get(self.name), len(part)) for _, part in self.members)
        return np.concatenate([np.ones(n, bool) if c is None else blanks(c) for c, n in parts])
