"""What a listing (CSV, Parquet) says: which columns hold files of which modality, and what else."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from multimask.datasets.columns import Column

FILE_COLUMNS = ("file", "path", "image")
"""Columns taken for files if nothing is said and none has the modality's name."""

Names = Sequence[str] | Mapping[str, str] | None


def listed_columns(
    path: Path,
    cells: Mapping[str, Sequence[Any]],
    other: Callable[[Sequence[Any]], Column],
    modalities: Names,
    root: Path,
    modality: str = "image",
) -> tuple[dict[str, Column], list[str]]:
    """Columns by name, file columns under the names of their modalities, and these names.

    `other` makes the columns that are neither files nor ids; one that has a modality's name goes by
    `<name>.listed`. `modality` is what the files are where
    `modalities` does not say.

    Raises: ValueError for unknown or ambiguous file columns, and where not one file of a column
    exists under root.
    """
    named = _file_columns(path, cells, modalities, modality)
    columns = {}
    for name, entries in cells.items():
        if name in named:
            columns[named[name]] = Column.of(entries)
            _check_some_exist(path, name, columns[named[name]], root)
        else:
            # a number of points beside the files of points is a fact about them
            kept = f"{name}.listed" if name in named.values() else name
            columns[kept] = Column.of(entries) if name == "id" else other(entries)
    return columns, list(named.values())


def unique_ids(columns: Mapping[str, Column], modalities: Sequence[str]) -> Column:
    """The column id, else the path in a row's first modality, else (arrays) rows counted.

    Raises: ValueError for a row without an id and for one that occurs twice.
    """
    if "id" in columns:
        ids = [None if name is None else str(name) for name in columns["id"]]
    elif any(columns[name].holds_arrays for name in modalities):
        return Column.of([str(row) for row in range(len(columns[modalities[0]]))])
    else:
        rows = zip(*(columns[name] for name in modalities), strict=True)
        ids = [next((file for file in files if file is not None), None) for files in rows]
    if None in ids:
        raise ValueError(f"Table: row {ids.index(None)} has neither an id nor a file.")
    if len(set(ids)) < len(ids):
        name, times = Counter(ids).most_common(1)[0]
        raise ValueError(
            f"Table: the id {name!r} occurs {times} times, but ids must differ; "
            "a column `id` can name samples otherwise than by their files."
        )
    return Column.of(ids)


def _file_columns(
    path: Path, found: Mapping[str, Any], modalities: Names, modality: str
) -> dict[str, str]:
    """From column to modality."""
    if modalities is None and modality in found and modality not in FILE_COLUMNS:
        named = {modality: modality}
    elif modalities is None:
        named = {name: modality for name in FILE_COLUMNS if name in found}
    elif isinstance(modalities, Mapping):
        named = dict(modalities)
    else:
        named = {name: name for name in modalities}
    if not named or not set(named) <= set(found) or len(set(named.values())) < len(named):
        wanted = f"the columns {list(named)}" if modalities else f"one of {list(FILE_COLUMNS)}"
        raise ValueError(
            f"{path}: expected {wanted} to hold files, found the columns {list(found)}; say which "
            "do: modalities=('column', ...) or {'column': 'modality'}."
        )
    return named


def _check_some_exist(path: Path, name: str, files: Column, root: Path) -> None:
    first = next((file for file in files if file is not None), None)
    if not any(_exists(root, file) for file in files if file is not None):
        raise ValueError(
            f"{path}: not one of the files in column {name!r} exists in {root} (the first is "
            f"{first!r}); say root=..., the folder they are relative to."
        )


def _exists(root: Path, cell: str) -> bool:
    """A file, or the file of a cell that names a part of it: `scene.tif#window=0,0,32,32`."""
    return any(
        os.path.exists(os.path.join(root, file)) for file in (cell, cell.rpartition("#")[0]) if file
    )
