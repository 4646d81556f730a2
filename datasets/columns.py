"""One column of a table: millions of entries, cheap to hold and to send to workers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

TEXT = np.dtypes.StringDType()  # UTF-8 side by side: no Python objects, no padding
WHOLE = re.compile(r"-?(0|[1-9]\d*)")  # "007" is a name, not a number
DECIMAL = re.compile(r"-?(0|[1-9]\d*)(\.\d*)?([eE][-+]?\d+)?")


@runtime_checkable
class Elsewhere(Protocol):
    """Entries that lie somewhere else, in a store: they are found one by one."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Any: ...
    @property
    def missing(self) -> Bool[np.ndarray, " n"]: ...


@dataclass(frozen=True, eq=False, repr=False)
class Column(Sequence[Any]):
    """A sequence whose missing entries are None, kept as one array.

    values: text as numpy's StringDType, blank where missing; numbers as a plain array; arrays (a
        picture a row) as a tensor, which torch shares with workers; entries of a store; all else
        as Python objects.
    rows: of a tensor or store, which of its rows the entries are: choosing copies no pictures.

    >>> list(Column.of(["cat", None, "dog"])), list(Column.of([1, 2]))
    (['cat', None, 'dog'], [1, 2])
    """

    values: Shaped[np.ndarray, "n ..."] | Shaped[Tensor, "n ..."] | Elsewhere
    rows: Int[np.ndarray, " k"] | None = None

    @classmethod
    def of(
        cls, values: Sequence[Any] | Shaped[np.ndarray, "n ..."] | Shaped[Tensor, "n ..."]
    ) -> "Column":
        if isinstance(values, Column):
            return values
        if isinstance(values, Elsewhere):
            return cls(values)
        if isinstance(values, Tensor):
            return cls(values) if values.ndim > 1 else cls(values.numpy(force=True))
        if not isinstance(values, np.ndarray) or values.dtype.kind in "TUO":
            return cls(_packed(list(values)))
        if values.ndim == 1:
            return cls(values)
        return cls(torch.from_numpy(values if values.flags.writeable else values.copy()))

    @classmethod
    def from_text(cls, texts: Sequence[str]) -> "Column":
        """Whole numbers where all texts are, numbers where all texts are, else text; "" is None.

        >>> list(Column.from_text(["1", "", "3"])), list(Column.from_text(["01", "2"]))
        ([1, None, 3], ['01', '2'])
        """
        filled = [text for text in texts if text]
        for pattern, number in ((WHOLE, int), (DECIMAL, float)):
            if filled and all(map(pattern.fullmatch, filled)):
                return cls.of([number(text) if text else None for text in texts])
        return cls.of(texts)

    def __len__(self) -> int:
        return len(self.values if self.rows is None else self.rows)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> "Column": ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        entry = self.values[index if self.rows is None else int(self.rows[index])]
        if isinstance(entry, np.generic):
            return entry.item()
        return None if isinstance(entry, str) and not entry else entry

    def __repr__(self) -> str:
        return f"Column({len(self):,} entries)"

    def take(self, indices: Int[np.ndarray, " k"]) -> "Column":
        """The entries at these places."""
        if isinstance(self.values, np.ndarray):
            return Column(self.values[indices])
        return replace(self, rows=indices if self.rows is None else self.rows[indices])

    @property
    def holds_arrays(self) -> bool:
        """Whether entries are arrays, or lie in a store, and are not numbers or text."""
        if not isinstance(self.values, np.ndarray | Tensor):
            return True
        first = next((entry for entry in self if entry is not None), None)
        return isinstance(first, np.ndarray | Tensor)

    @property
    def missing(self) -> Bool[np.ndarray, " n"]:
        """Where the entry is None."""
        if not isinstance(self.values, np.ndarray | Tensor):
            missing = self.values.missing
            return missing if self.rows is None else missing[self.rows]
        if isinstance(self.values, Tensor) or self.values.dtype.kind not in "TO":
            return np.zeros(len(self), bool)
        if self.values.dtype.kind == "T":
            return self.values == ""
        return np.fromiter((entry is None for entry in self.values), bool, len(self))

    def equals(self, wanted: Any) -> Bool[np.ndarray, " n"]:
        """Where the entry equals `wanted`, or one of `wanted` if that is a tuple, list or set."""
        if isinstance(wanted, tuple | list | set | frozenset):
            nowhere = np.zeros(len(self), bool)
            return reduce(np.logical_or, map(self.equals, wanted), nowhere)
        if wanted is None:
            return self.missing
        if isinstance(self.values, np.ndarray) and self.values.dtype.kind == "T":
            return (self.values == str(wanted)) & (isinstance(wanted, str) and wanted != "")
        return np.fromiter((entry == wanted for entry in self), bool, len(self))


def _packed(entries: list[Any]) -> Shaped[np.ndarray, " n"]:
    kinds = {type(entry) for entry in entries}
    if len(kinds) == 1 and kinds <= {bool, int, float}:
        return np.array(entries)
    if kinds and kinds <= {str, np.str_, type(None)}:
        try:
            return np.array([entry or "" for entry in entries], dtype=TEXT)
        except UnicodeEncodeError:  # the name of a file need not be UTF-8
            entries = [entry or None for entry in entries]
    objects = np.empty(len(entries), dtype=object)
    for row, entry in enumerate(entries):  # one by one, lest numpy unpacks arrays
        objects[row] = entry
    return objects
