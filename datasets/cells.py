"""Tables and arrays as other programs write them: CSV, Parquet, NPY, NPZ, column by column."""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped


def csv_names(path: Path) -> list[str]:
    """The names in a CSV's first line."""
    return next(_lines(path), [])


def csv_cells(path: Path) -> dict[str, list[str]]:
    """A CSV's cells as text, by the names in its first line; columns without one are left out.

    Raises: ValueError for a file that is no such CSV.
    """
    lines = list(_lines(path))
    if len(lines) < 2:
        raise ValueError(f"{path}: expected a line of names and lines of samples, found none.")
    names, *rows = lines
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise ValueError(f"{path}: the column {twice[0]!r} occurs twice; names must differ.")
    columns = map(list, zip(*rows, strict=True))
    return {name: cells for name, cells in zip(names, columns, strict=True) if name}


def write_cells(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Columns as a CSV that `csv_cells` reads, whole or not at all; None is a blank cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    temporary.replace(path)


def parquet_cells(path: Path) -> dict[str, list[Any]]:
    """A Parquet file's values. Raises ValueError without pyarrow and for any other file."""
    try:
        import pyarrow.parquet  # an optional extra
    except ImportError as error:
        raise ValueError(
            f"{path}: reading Parquet needs pyarrow; `pip install 'multimask[parquet]'` brings it."
        ) from error
    try:
        columns = pyarrow.parquet.read_table(path).to_pydict()
    except (OSError, ValueError) as error:  # pyarrow's own errors are these
        raise ValueError(f"{path}: expected a Parquet file, found {instead(path)}.") from error
    if not any(columns.values()):
        raise ValueError(f"{path}: expected samples, found a table without rows.")
    return columns


def stored_arrays(path: Path, modality: str) -> dict[str, Shaped[np.ndarray, "n ..."]]:
    """The arrays of a NPZ by name; the one array of a NPY, memory-mapped, as the modality.

    Raises: ValueError for files that are damaged or need pickle.
    """
    try:
        if path.suffix.lower() == ".npy":
            # torch wants writeable memory; with "c", what is written never reaches the file
            return {modality: np.load(path, mmap_mode="c", allow_pickle=False)}
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # damaged headers and zips raise of all kinds
        raise ValueError(
            f"{path}: expected arrays of plain numbers or text, found {instead(path)}."
        ) from error


def instead(path: Path) -> str:
    """What lies at a path that could not be read as what it should be."""
    if not path.exists():
        return "nothing there"
    if path.is_dir():
        return "a folder"
    if not os.access(path, os.R_OK):
        return "a file that this user may not read"
    return "something else" if path.stat().st_size else "an empty file (zero bytes)"


def _lines(path: Path) -> Iterator[list[str]]:
    """The lines that are not empty, each with as many cells as the first."""
    names: list[str] | None = None
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            for cells in filter(None, lines):
                names = names or cells
                if len(cells) != len(names):
                    raise ValueError(
                        f"{path}: line {lines.line_num} has {len(cells)} cells, the first "
                        f"{len(names)}."
                    )
                yield [cell.strip() for cell in cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{path}: expected a CSV file of UTF-8 text, found {instead(path)}."
        ) from error
