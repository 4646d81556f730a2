"""The reader of table cells: a row's own values, or a file with one row, as a mapping."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Generator

from multimask.datasets.cells import csv_cells
from multimask.tokens import BadSample

EMPTY = ("", "na", "n/a", "nan", "none", "null")  # cells that say that nothing is known


@dataclass(frozen=True)
class CellReader:
    """Gives a row's cells by column, empty ones left out; what they mean the tokenizer knows.

    An entry is a mapping (`datasets.rows.with_cells` makes a column of these from a table's own
    columns, or from another CSV by id), or the path of a CSV with a single line of cells.

    Args: columns, which of them to read; () takes all.
    Raises: BadSample for a CSV of several lines, columns that are not there and rows of nothing.

    >>> CellReader().read({"age": 75, "grade": "n/a"})
    {'age': 75}
    """

    columns: tuple[str, ...] = ()

    packs_as = "encoded"
    suffixes = (".csv",)

    @classmethod
    def fitted(cls, tokenizer: Any, augment: bool) -> "CellReader":
        return cls(tokenizer.columns)

    def probe(self, source: Any) -> dict[str, Any]:
        """How many cells are known."""
        return {"cells": len(self.read(source))}

    def read(self, source: Any, generator: Generator | None = None) -> dict[str, Any]:
        name, row = ("a row", source) if isinstance(source, Mapping) else one_line(source)
        if missing := [column for column in self.columns if column not in row]:
            raise BadSample(f"{name}: expected a column {missing[0]!r}, found {', '.join(row)}.")
        found = {n: row[n] for n in self.columns or row if not is_empty(row[n])}
        if not found:
            raise BadSample(f"{name}: every cell is empty; leave the modality out.")
        return found


def one_line(path: Any) -> tuple[str, dict[str, str]]:
    try:
        cells = csv_cells(Path(path))
    except (TypeError, ValueError) as error:
        raise BadSample(str(error)) from error
    counts = {len(column) for column in cells.values()}
    if counts != {1}:
        raise BadSample(f"{path}: expected one line of cells, found {max(counts)}.")
    return str(path), {name: column[0] for name, column in cells.items()}


def is_empty(cell: Any) -> bool:
    """None, NaN, and texts that say so."""
    if cell is None or cell != cell:
        return True
    return isinstance(cell, str) and cell.strip().lower() in EMPTY
