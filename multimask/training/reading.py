"""What a loader's worker does for one sample: read it, or say why not."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int
from torch import Generator
from torch.utils.data import Dataset

from multimask.tokens import BadSample, Sample, Samples, sample_generator
from multimask.training.sampler import Draw


class Skipped(NamedTuple):
    """Stands where a sample could not be used."""

    id: str
    reason: str


class Item(NamedTuple):
    """What one draw gave."""

    epoch: int
    sample: Sample | Skipped
    step: int = 0


@runtime_checkable
class Draws(Protocol):
    """Samples that can be read with their random augmentation."""

    def draw(self, index: int, generator: Generator) -> Sample: ...


@dataclass(frozen=True, eq=False)
class Reading(Dataset[Item]):
    """Reads draws; with `augmented` those of samples that can `draw` are augmented, from the
    sample's own generator. BadSample and OSError become `Skipped`; anything else is a bug and ends
    the run."""

    samples: Samples
    seed: int = 0
    augmented: bool = True
    ids: Sequence[Any] | None = field(init=False)
    draws: Draws | None = field(init=False)  # the samples, if they draw and are to

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", self.samples.columns.get("id"))
        draws = self.samples if self.augmented and isinstance(self.samples, Draws) else None
        object.__setattr__(self, "draws", draws)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> Item:
        name = self.name(draw.index)
        try:
            sample = self.read(draw, name)
        except (BadSample, OSError) as error:
            return Item(draw.epoch, Skipped(name, str(error)), draw.step)
        return Item(draw.epoch, {"id": name, **sample}, draw.step)

    def read(self, draw: Draw, name: str) -> Sample:
        if self.draws is None:
            return self.samples[draw.index]
        generator = sample_generator(self.seed, draw.epoch, name, "augment")
        return self.draws.draw(draw.index, generator)

    def name(self, index: int) -> str:
        known = None if self.ids is None else self.ids[index]
        return str(index) if known is None else str(known)


def blanks(column: Sequence[Any]) -> Bool[np.ndarray, " rows"]:
    """Where a column has nothing: None or blank text."""
    known = getattr(column, "missing", None)  # a column that knows it at once
    if isinstance(known, np.ndarray):
        return known
    empty = (entry is None or (isinstance(entry, str) and not entry) for entry in column)
    return np.fromiter(empty, bool, len(column))


# --- samples in a list, and some rows of samples --------------------------------------------------


def as_samples(samples: Samples | Sequence[Sample], names: Iterable[str] = ()) -> Samples:
    """What has columns as it is; a plain list of samples with columns looked up in it, these names
    among them."""
    if isinstance(samples, Samples):
        return samples
    ids = [str(sample["id"]) for sample in samples if sample.get("id") is not None]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise ValueError(f"samples: the id {twice!r} occurs twice; ids must differ.")
    return Listed(tuple(samples), tuple(names))


@dataclass(frozen=True, eq=False)
class Listed:
    """Samples held in memory. Its columns only tell which keys a sample has, and its id."""

    items: tuple[Sample, ...]
    names: tuple[str, ...] = ()
    extra: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.items)

    def __getitem__(self, index: int) -> Sample:
        return self.items[index]

    @property
    def columns(self) -> Mapping[str, Sequence[Any]]:
        return self.looked_up

    @cached_property
    def looked_up(self) -> Mapping[str, Sequence[Any]]:
        names = sorted({*self.names, *(name for item in self.items for name in item)})
        found = {name: [item.get(name) for item in self.items] for name in names}
        return {**found, **self.extra}

    def with_columns(self, **columns: Sequence[Any]) -> "Listed":
        return Listed(self.items, self.names, {**self.extra, **columns})


class ChosenColumns(Mapping[str, Sequence[Any]]):
    """Columns of some rows. A column is gathered when it is first asked for."""

    def __init__(self, columns: Mapping[str, Sequence[Any]], rows: Int[np.ndarray, " n"]) -> None:
        self.columns, self.rows = columns, rows
        self.gathered: dict[str, list[Any]] = {}

    def __getitem__(self, name: str) -> Sequence[Any]:
        if name not in self.gathered:
            values = self.columns[name]
            self.gathered[name] = [values[row] for row in self.rows.tolist()]
        return self.gathered[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of samples, in this order, read without augmentation."""

    samples: Samples
    rows: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[int(self.rows[index])]

    @property
    def columns(self) -> Mapping[str, Sequence[Any]]:
        return self.chosen

    @cached_property
    def chosen(self) -> ChosenColumns:
        return ChosenColumns(self.samples.columns, self.rows)

    def with_columns(self, **columns: Sequence[Any]) -> "Rows":
        whole = {}
        for name, values in columns.items():
            spread: list[Any] = [None] * len(self.samples)
            for row, value in zip(self.rows.tolist(), values, strict=True):
                spread[row] = value
            whole[name] = spread
        return Rows(self.samples.with_columns(**whole), self.rows)
