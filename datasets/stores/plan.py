"""What is packed how. A store keeps its plan, and reading goes by it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from multimask.datasets.stores.entries import Stored
from multimask.datasets.stores.frames import CELL
from multimask.datasets.stores.leaves import Leaf

VERSION = 1
MOST_CELLS = 2**10  # of a ragged sample in one shard file: 128 MiB


@dataclass(frozen=True)
class Packing:
    """How a modality is packed.

    stored: "encoded" keeps each file's own bytes (a JPEG stays one), and they are decoded when a
        sample is read, with augmentation. "pixels" keeps what the reader decodes without its
        `transform`, which is left to reading. "arrays" keeps what the reader gives, and reading
        gives just that.
    dtype: of floating-point numbers in the store; they come back as they were, rounded.
    chunks: shape of the pieces that a sample of equal shape is cut into, so that a crop reads only
        those it touches; None keeps it whole.
    level: of zstd compression; None stores numbers as they are, which reads fastest.
    """

    stored: Stored = "arrays"
    dtype: Literal["float16", "float32", "float64"] | None = None
    chunks: tuple[int, ...] | None = None
    level: int | None = None

    def __post_init__(self) -> None:
        if self.stored not in ("encoded", "pixels", "arrays"):
            raise ValueError(
                f"Packing: {self.stored!r} must be 'encoded' (files' own bytes), 'pixels' or "
                "'arrays'."
            )
        if self.stored == "encoded" and (self.dtype or self.chunks or self.level is not None):
            raise ValueError(
                "Packing: 'encoded' keeps files as they are; dtype, chunks and level are for "
                "'pixels' and 'arrays'."
            )
        if self.chunks is not None and min(self.chunks, default=1) < 1:
            raise ValueError(f"Packing: chunks={self.chunks} must be at least 1 each.")


How = Stored | Packing


@dataclass(frozen=True)
class ModalityPlan:
    """One modality: how it is packed, what its values are, and its arrays by name."""

    packing: Packing
    record: str | None
    leaves: Mapping[str, Leaf]
    main: str
    reader: Any = None  # that reads what is packed, as JSON; None: values are as they should be

    def to_json(self) -> dict[str, Any]:
        p = self.packing
        return {
            "stored": p.stored,
            "dtype": p.dtype,
            "chunks": p.chunks,
            "level": p.level,
            "record": self.record,
            "main": self.main,
            "reader": self.reader,
            "leaves": {name: leaf.to_json() for name, leaf in self.leaves.items()},
        }

    @classmethod
    def from_json(cls, made: Mapping[str, Any]) -> "ModalityPlan":
        chunks = None if made["chunks"] is None else tuple(made["chunks"])
        packing = Packing(made["stored"], made["dtype"], chunks, made["level"])
        leaves = {name: Leaf.from_json(leaf) for name, leaf in made["leaves"].items()}
        return cls(packing, made["record"], leaves, made["main"], made["reader"])

    def with_ragged(self, name: str) -> "ModalityPlan":
        """Samples turned out to differ in the shape of this array."""
        leaf = self.leaves[name]
        size = np.dtype(leaf.dtype).itemsize * math.prod(leaf.shape or ())
        ragged = replace(leaf, shape=None, chunks=None, cells=cells_for(size))
        return replace(self, leaves={**self.leaves, name: ragged})


@dataclass(frozen=True)
class Plan:
    """The whole table: rows, rows a shard, modalities, and a digest of what was asked for."""

    n: int
    rows: int
    digest: str
    modalities: dict[str, ModalityPlan] = field(default_factory=dict)

    @property
    def shards(self) -> int:
        return math.ceil(self.n / self.rows)

    def range(self, number: int) -> range:
        """The rows of a shard."""
        return range(number * self.rows, min((number + 1) * self.rows, self.n))

    def to_json(self) -> dict[str, Any]:
        made = {name: plan.to_json() for name, plan in self.modalities.items()}
        return {"rows": self.n, "rows_a_shard": self.rows, "digest": self.digest} | {
            "modalities": made
        }

    @classmethod
    def from_json(cls, made: Mapping[str, Any]) -> "Plan":
        plans = {name: ModalityPlan.from_json(m) for name, m in made["modalities"].items()}
        return cls(made["rows"], made["rows_a_shard"], made["digest"], plans)


def cells_for(size: int) -> int:
    """Cells of a ragged sample in one shard file, when the largest that was looked at has so many
    bytes: twice that, as larger ones will come."""
    wanted = max(1, math.ceil(size / CELL))
    return min(
        MOST_CELLS, 1 if wanted == 1 and 2 * size <= CELL else 2 ** math.ceil(math.log2(2 * wanted))
    )
