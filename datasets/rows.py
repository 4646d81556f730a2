"""Cells of a table as a modality of its own: clinical values, weather, answers to questions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from multimask.datasets.cells import csv_cells
from multimask.datasets.columns import Column
from multimask.datasets.formats.cells import CellReader, is_empty
from multimask.datasets.table import Table

MOST_CATEGORIES = 64  # more are names, not categories


def with_cells(
    table: Table,
    modality: str,
    columns: Sequence[str],
    path: str | Path | None = None,
    key: str = "id",
) -> Table:
    """The table with a modality made of cells: its own columns, or those of a CSV.

    Rows of which all cells are empty lack the modality. Columns of the table become part of the
    modality and are no labels any more. path: a CSV of one row a sample, found by its column `key`,
    which holds the table's ids; samples that it does not list lack the modality.

    Raises: ValueError for columns that are not there, a name that is taken, and keys that occur
    twice.

    >>> table = Table.from_arrays(image=np.zeros((2, 3, 4, 4)), age=[75, None], id=["a", "b"])
    >>> table = with_cells(table, "clinic", ["age"])
    >>> table[0]["clinic"], "clinic" in table[1]
    ({'age': 75}, False)
    """
    if modality in table.readers:
        raise ValueError(f"with_cells: the table has a modality {modality!r} already.")
    if path is None:
        found: Mapping[str, Sequence[Any]] = table.columns
        places: list[int | None] = list(range(len(table)))
    else:
        found = {name: Column.from_text(cells) for name, cells in csv_cells(Path(path)).items()}
        places = found_by(found, key, table, str(path))
    if missing := [name for name in columns if name not in found or name in table.readers]:
        raise ValueError(
            f"with_cells: there is no column {missing[0]!r} of cells; there are "
            f"{', '.join(sorted(set(found) - set(table.readers)))}."
        )
    rows = [None if at is None else {name: found[name][at] for name in columns} for at in places]
    known = [None if row is None or all(map(is_empty, row.values())) else row for row in rows]
    kept = {name: column for name, column in table.columns.items() if name not in columns}
    if path is not None:
        kept = dict(table.columns)
    readers = {**table.readers, modality: CellReader(tuple(columns))}
    return Table.of({**kept, modality: Column.of(known)}, readers, table.root)


def found_by(
    cells: Mapping[str, Sequence[Any]], key: str, table: Table, path: str
) -> list[int | None]:
    """Of each sample, its line in the CSV."""
    if key not in cells:
        raise ValueError(f"{path}: has no column {key!r} to find samples by; say key=...")
    keys = list(map(str, cells[key]))
    name, times = Counter(keys).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{path}: {key} {name!r} occurs {times} times, but ids must differ.")
    line = {name: place for place, name in enumerate(keys)}
    return [line.get(name) for name in table.columns["id"]]


def described_cells(
    table: Table, modality: str
) -> tuple[dict[str, tuple[float, float]], dict[str, tuple[str, ...]]]:
    """What a tokenizer of cells is told: (mean, std) of numeric columns, the categories of others.

    A column is numeric where all its cells are numbers. Take training rows only, lest a test row
    tells of itself.

    Raises: ValueError for columns without any cell, and of more than 64 categories.
    """
    rows = [row for row in table.columns[modality] if row is not None]
    numbers, categories = {}, {}
    for name in dict.fromkeys(name for row in rows for name in row):
        cells = [row[name] for row in rows if not is_empty(row[name])]
        if not cells:
            raise ValueError(f"{modality}: the column {name!r} is empty in all {len(rows)} rows.")
        if all(map(is_number, cells)):
            values = np.array(cells, np.float64)
            numbers[name] = (float(values.mean()), max(float(values.std()), 1e-6))
            continue
        listed = tuple(sorted({str(cell) for cell in cells}))
        if len(listed) > MOST_CATEGORIES:
            raise ValueError(
                f"{modality}: the column {name!r} has {len(listed)} different texts; at most "
                f"{MOST_CATEGORIES} categories can be learnt."
            )
        categories[name] = listed
    return numbers, categories


def is_number(cell: Any) -> bool:
    try:
        return bool(np.isfinite(float(cell)))
    except (TypeError, ValueError):
        return False
