"""A modality of a store as entries of a table's column: nothing is read until a sample is."""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
import torch
from jaxtyping import Bool, Shaped, UInt8

from multimask.datasets.formats.files import FileBytes
from multimask.datasets.stores.leaves import Box, LeafReader
from multimask.datasets.stores.values import facts_of, put_together
from multimask.tokens import BadSample

MISSING, THERE, BAD = 0, 1, 2  # what a row has of a modality

FILE, FACTS = "file", "_facts"  # leaves: a file's own bytes; what is no array
Stored = Literal["encoded", "pixels", "arrays"]


@dataclass(frozen=True, eq=False, repr=False)
class Entries(Sequence[Any]):
    """One entry a row, None where the modality is missing.

    state: one of MISSING, THERE, BAD a row. leaves: by name. record: see `values.put_together`.
    main: the largest leaf. names: of the files that were packed, else ids. problems: of bad rows.
    """

    modality: str
    stored: Stored
    record: str | None
    state: UInt8[np.ndarray, " n"]
    leaves: Mapping[str, LeafReader]
    main: str
    names: Sequence[Any]
    problems: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.state)

    @overload
    def __getitem__(self, index: int) -> "Entry | None": ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = range(len(self.state))[index]
        return None if self.state[row] == MISSING else Entry(self, row)

    @property
    def missing(self) -> Bool[np.ndarray, " n"]:
        return self.state == MISSING


@dataclass(frozen=True, eq=False, slots=True)
class Entry:
    """What one row has of a modality, in the store.

    `entry.array[..., 8:24, :]` reads a box of its array, and no more of the store than holds it.
    """

    entries: Entries
    row: int

    @property
    def name(self) -> str:
        return f"{self.entries.names[self.row]} (packed)"

    @property
    def array(self) -> "StoredArray":
        """The largest array of the value, not read yet."""
        self.check()
        return StoredArray(self.entries.leaves[self.entries.main], self.row)

    def check(self) -> None:
        """Raises BadSample for a row whose file could not be read when it was packed."""
        why = self.entries.problems.get(self.row)
        if why is not None:
            raise BadSample(f"{why} (when it was packed)")

    def value(self, lazy: bool = False) -> Any:
        """What the reader gave when it was packed; if `lazy`, its largest array not read yet."""
        self.check()
        entries, row = self.entries, self.row
        parts: dict[str, Any] = {}
        for name, leaf in entries.leaves.items():
            if lazy and name == entries.main:
                parts[name] = StoredArray(leaf, row)
            elif name != FACTS and (array := leaf.read(row)) is not None:
                parts[name] = torch.from_numpy(array)
        return put_together(entries.record, parts, self.facts())

    def facts(self) -> dict[str, Any]:
        if FACTS not in self.entries.leaves:
            return {}
        return facts_of(self.entries.leaves[FACTS].bytes(self.row) or b"{}")

    def file(self) -> FileBytes:
        """The packed file."""
        self.check()
        data = self.entries.leaves[FILE].bytes(self.row)
        assert data is not None  # the row has one
        return FileBytes(str(self.entries.names[self.row]), data)

    @contextmanager
    def given_to(self, reader: Any) -> Iterator[Any]:
        """What the reader can read: the file's bytes, or a file of them while it reads; or, where
        values are packed, the value."""
        if self.entries.stored != "encoded":
            alone = self.entries.record is None
            yield self.value().numpy() if alone else self.value(lazy=True)
        elif getattr(reader, "takes_bytes", False):
            yield self.file()
        else:
            packed = self.file()
            with tempfile.TemporaryDirectory(prefix="multimask-") as folder:
                path = os.path.join(folder, os.path.basename(packed.name) or "file")
                with open(path, "wb") as file:
                    file.write(packed.data)
                yield path


@dataclass(frozen=True, eq=False)
class StoredArray:
    """An array in a store: read when it is used, and of it only the box that is asked for."""

    leaf: LeafReader
    row: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.leaf.shape(self.row)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.leaf.leaf.was or self.leaf.leaf.dtype)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Shaped[np.ndarray, "..."]:
        return np.asarray(self.read(None), dtype)

    def transpose(self, *axes: int) -> Shaped[np.ndarray, "..."]:
        return self.read(None).transpose(*axes)

    def __getitem__(self, box: Any) -> Shaped[np.ndarray, "..."]:
        """numpy's `array[box]` of whole numbers, slices and an ellipsis."""
        wanted = list(box) if isinstance(box, tuple) else [box]
        if Ellipsis in wanted:
            at = wanted.index(Ellipsis)
            wanted[at : at + 1] = [slice(None)] * (self.ndim - len(wanted) + 1)
        sides: list[slice] = []
        for side, n in zip(wanted, self.shape, strict=False):
            if isinstance(side, slice):
                sides.append(side)
            else:
                sides.append(slice(range(n)[side], range(n)[side] + 1))
        array = self.read(tuple(sides))
        return array[tuple(slice(None) if isinstance(side, slice) else 0 for side in wanted)]

    def read(self, box: Box | None) -> Shaped[np.ndarray, "..."]:
        array = self.leaf.read(self.row, box)
        assert array is not None  # asked of rows that have one
        return array
