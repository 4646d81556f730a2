"""What is packed: a table, or whatever else gives values for rows.

A table's plan is made from a look at a few samples before the rest is read. Nothing in it depends
on how many workers pack or on when they were killed, so neither does a byte of the result.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from multimask import plugins
from multimask.datasets.columns import Column
from multimask.datasets.readers import Informed, Reader, usable
from multimask.datasets.stores.entries import FACTS, FILE, Entry
from multimask.datasets.stores.hierarchy import COLUMNS
from multimask.datasets.stores.leaves import Leaf
from multimask.datasets.stores.plan import VERSION, How, ModalityPlan, Packing, Plan, cells_for
from multimask.datasets.stores.values import Arrays, facts_text, taken_apart
from multimask.tokens import BadSample

LOOKED_AT = 8  # samples, spread over the table
SHARD = 2**26  # bytes of a shard file, about
MOST_ROWS = 2**16  # of a shard

Value = tuple[str | None, Arrays, dict[str, Any]]  # as `values.taken_apart` gives it


@runtime_checkable
class Source(Protocol):
    """Rows to pack.

    columns: kept beside the modalities. begin: these ranges will be asked for, in this order.
    values: (row, its value or why there is none) of the rows of a range that have the modality.
    names: what the rows' files are called.
    """

    @property
    def columns(self) -> Mapping[str, Column]: ...
    def begin(self, ranges: Sequence[range]) -> None: ...
    def values(
        self, modality: str, plan: ModalityPlan, rows: range
    ) -> Iterator[tuple[int, Value | BadSample | OSError]]: ...
    def names(self, modality: str) -> Column | None: ...


@dataclass(frozen=True, eq=False)
class FromTable:
    """Samples as the table's readers give them."""

    table: Any

    @property
    def columns(self) -> Mapping[str, Column]:
        columns, modalities = self.table.columns, self.table.readers
        return {name: column for name, column in columns.items() if name not in modalities}

    def begin(self, ranges: Sequence[range]) -> None:
        """Rows are read one by one, in any order."""

    def values(
        self, modality: str, plan: ModalityPlan, rows: range
    ) -> Iterator[tuple[int, Value | BadSample | OSError]]:
        gone = self.table.columns[modality].missing
        for row in rows:
            if gone[row]:
                continue
            try:
                value = value_of(self.table, modality, row, plan.packing)
            except (BadSample, OSError) as error:
                yield row, error
            else:
                yield row, value

    def names(self, modality: str) -> Column | None:
        """The paths of files, as the table has them; None for arrays."""
        if f"{modality}.file" in self.table.columns:  # of a store that is packed again
            return self.table.columns[f"{modality}.file"]
        column = self.table.columns[modality]
        values = column.values
        texts = isinstance(values, np.ndarray) and values.dtype.kind in "TO"
        if not texts or not any(isinstance(entry, str) for entry in column):
            return None
        return Column.of([entry if isinstance(entry, str) else None for entry in column])


def planned(table: Any, hows: Mapping[str, How], rows: int | None) -> Plan:
    """A plan for the table. Reads up to eight samples of each modality.

    Raises: ValueError for packings that cannot be.
    """
    if strange := sorted(set(hows) - set(table.readers)):
        raise ValueError(
            f"pack: {strange[0]!r} is no modality of this table; it has {sorted(table.readers)}."
        )
    plans, sizes = {}, {}
    for name, reader in table.readers.items():
        if not re.fullmatch(r"\w[\w.-]*", name) or name == COLUMNS:
            raise ValueError(f"pack: a modality cannot be named {name!r} in a store; rename it.")
        packing = packing_of(hows.get(name), table.columns[name], reader)
        plans[name], sizes[name] = looked_at(table, name, packing)
    if rows is None:
        largest = max(sizes.values(), default=1)
        rows = int(min(MOST_ROWS, max(1, SHARD // max(1, largest)), max(1, len(table))))
    if rows < 1:
        raise ValueError(f"pack: rows_per_shard={rows} must be at least 1.")
    return Plan(len(table), rows, digest_of(table, plans, rows), plans)


def packing_of(how: How | None, column: Column, reader: Reader | None) -> Packing:
    if isinstance(how, Packing):
        return how
    if how is not None:
        return Packing(how)
    rows = np.flatnonzero(~column.missing)
    first = column[int(rows[0])] if len(rows) else None
    if isinstance(first, Entry):
        return Packing("encoded" if first.entries.stored == "encoded" else "arrays")
    files = isinstance(first, str) and reader is not None
    return Packing(getattr(reader, "packs_as", "encoded") if files else "arrays")


def looked_at(table: Any, name: str, packing: Packing) -> tuple[ModalityPlan, int]:
    """The plan of a modality, and how many bytes a sample of it has, about."""
    reader, problems = table.readers[name], list[str]()
    rows = np.flatnonzero(~table.columns[name].missing)
    chosen = rows[
        np.unique(np.linspace(0, max(0, len(rows) - 1), LOOKED_AT).astype(int))[: len(rows)]
    ]
    values: list[Value] = []
    for row in chosen.tolist():
        try:
            values.append(value_of(table, name, row, packing))
        except (BadSample, OSError) as error:
            problems.append(str(error))
    if problems and not values:
        raise ValueError(
            f"pack: none of {len(problems)} samples of {name!r} could be read; the first: "
            f"{problems[0]}"
        )
    config = None if packing.stored == "arrays" else reader_config(reader)
    if not values:  # a modality that no row has
        return ModalityPlan(packing, None, {}, "", config), 1
    record, first, _ = values[0]
    main = max(first, key=lambda key: first[key].size)
    leaves = {}
    for key in {key: None for _, arrays, _ in values for key in arrays}:
        found = [arrays[key] for _, arrays, _ in values if key in arrays]
        leaves[key] = leaf_of(found, packing, key == main)
    if record is not None:
        facts = [np.frombuffer(facts_text(f), np.uint8) for _, _, f in values]
        leaves[FACTS] = replace(leaf_of(facts, Packing("encoded"), False), shape=None)
    size = sum(
        max(a.nbytes for a in [arrays[k] for _, arrays, _ in values if k in arrays])
        for k in leaves
        if k != FACTS
    )
    return ModalityPlan(packing, record, leaves, main, config), size


def leaf_of(arrays: Sequence[Shaped[np.ndarray, "..."]], packing: Packing, main: bool) -> Leaf:
    first, was = arrays[0], None
    dtype = first.dtype.name
    if main and packing.dtype and first.dtype.kind == "f" and packing.dtype != dtype:
        dtype, was = packing.dtype, dtype
    alike = all(array.shape == first.shape for array in arrays) and packing.stored != "encoded"
    chunks = packing.chunks if main else None
    if alike and chunks is not None:
        if len(chunks) != first.ndim:
            raise ValueError(
                f"pack: chunks={chunks} must have {first.ndim} sides, as the samples {first.shape}."
            )
        chunks = tuple(min(c, n) for c, n in zip(chunks, first.shape, strict=True))
    largest = max(array.size for array in arrays) * np.dtype(dtype).itemsize
    return Leaf(
        dtype=dtype,
        shape=first.shape if alike and first.size else None,
        axes=first.ndim,
        chunks=chunks if alike else None,
        level=packing.level,
        cells=1 if alike else cells_for(largest),
        was=was,
    )


def value_of(table: Any, name: str, row: int, packing: Packing) -> Value:
    """What is stored of a row that has the modality."""
    source = table.source(name, row)
    reader = table.readers[name]
    if packing.stored == "encoded":
        return None, {FILE: np.frombuffer(file_bytes(source, name), np.uint8)}, {}
    if packing.stored == "pixels":
        if reader is None or not hasattr(reader, "transform"):
            raise ValueError(
                f"pack: {name!r} cannot be packed as 'pixels': its reader has no `transform` to "
                "leave to reading; pack it as 'arrays'."
            )
        reader = replace(reader, transform=None)
    if reader is None:
        value = source.value() if isinstance(source, Entry) else torch.as_tensor(source)
    else:
        with usable(source, reader) as given:
            read = reader.read
            if isinstance(reader, Informed) and (facts := table._reported(name, row)):
                value = reader.read_known(given, facts)  # they are not asked for again
            else:
                value = read(given)
    return taken_apart(value)


def file_bytes(source: Any, name: str) -> Any:
    if isinstance(source, Entry):  # an entry of a store that is packed again
        return source.file().data
    if not isinstance(source, str):
        raise ValueError(
            f"pack: {name!r} holds arrays, which have no bytes of a file; pack it as 'arrays'."
        )
    if os.path.isdir(source):
        raise ValueError(
            f"pack: {source} is a folder, so {name!r} cannot be packed as 'encoded', which keeps "
            "one file a sample; pack it as 'arrays'."
        )
    with open(source, "rb") as file:
        data = file.read()
    if not data:
        raise BadSample(f"{source}: expected a file, found an empty one (zero bytes).")
    return data


def reader_config(reader: Reader | None) -> Any:
    """The reader as JSON. One that is no plug-in has to be given when the store is opened."""
    if reader is None:
        return None
    try:
        return plugins.to_config(reader)
    except ValueError:
        return {"name": type(reader).__name__}


def digest_of(table: Any, plans: Mapping[str, ModalityPlan], rows: int) -> str:
    """Of ids, sources, readers and packings: whether a store that is there is this one."""
    digest = hashlib.sha256(json.dumps([VERSION, rows, len(table)]).encode())
    for name, column in table.columns.items():
        if name not in plans:
            for entry in [name, *column]:
                digest.update(f"{entry!r}\0".encode(errors="surrogateescape"))
    for name, plan in plans.items():
        p = plan.packing
        digest.update(json.dumps([name, p.stored, p.dtype, p.chunks, p.level]).encode())
        digest.update(repr(table.readers[name]).encode())
        for entry in table.columns[name]:
            if isinstance(entry, str):
                digest.update(entry.encode(errors="surrogateescape") + b"\0")
            elif isinstance(entry, np.ndarray | Tensor):
                digest.update(np.ascontiguousarray(np.asarray(entry)).tobytes())
            else:
                digest.update(f"{entry and entry.name}\0".encode())
    return digest.hexdigest()
