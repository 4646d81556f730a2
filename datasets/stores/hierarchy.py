"""The zarr side of a store: a group of arrays, its JSON made and read by zarr itself.

Shards are written beside it (`stores.leaves`). Everything else is small: made in memory, then
copied file by file to wherever the store lies.
"""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from multimask.datasets.columns import TEXT, Column
from multimask.datasets.stores.frames import CELL
from multimask.datasets.stores.leaves import Leaf
from multimask.datasets.stores.places import Place
from multimask.datasets.stores.values import tagged, untagged

ROOT = "zarr.json"
COLUMNS = "columns"
PLAIN_ROWS = 2**20  # rows of a column in one chunk

Group = Any  # zarr's; importing it takes a second, and opening a table of files needs none of it


def new_group(attributes: Mapping[str, Any]) -> tuple[Group, dict[str, Any]]:
    """A group in memory and the files it consists of by then, which grow with it."""
    import zarr
    from zarr.storage import MemoryStore

    files: dict[str, Any] = {}
    return zarr.create_group(MemoryStore(files), attributes=dict(attributes)), files


def declare(group: Group, key: str, leaf: Leaf, n: int, rows: int, longest: int) -> None:
    """The array of a leaf whose shards lie there already."""
    import zarr.codecs

    codecs: list[Any] = [zarr.codecs.Crc32cCodec()]
    if leaf.level is not None or leaf.shape is None:
        codecs.insert(0, zarr.codecs.ZstdCodec(level=leaf.level or 0))
    if leaf.shape is None:
        shape, chunks, shards = (n, max(1, longest)), (1, CELL), (rows, CELL * leaf.cells)
    else:
        shape, chunks = (n, *leaf.shape), (1, *leaf.chunk)
        sides = (g * c for g, c in zip(leaf.grid, leaf.chunk, strict=True))
        shards = (rows, *sides)
    dtype = "uint8" if leaf.shape is None else leaf.dtype
    group.create_array(
        key,
        shape=shape,
        chunks=chunks,
        shards=shards,
        dtype=dtype,
        compressors=codecs,
        filters=None,
    )


def keep(group: Group, key: str, values: Shaped[np.ndarray, "n ..."]) -> None:
    """A small array, whole."""
    chunks = (max(1, min(len(values), PLAIN_ROWS)), *(max(1, n) for n in values.shape[1:]))
    dtype: Any = str if values.dtype.kind == "T" else values.dtype
    array = group.create_array(key, shape=values.shape, chunks=chunks, dtype=dtype)
    if values.size:
        array[...] = values


def keep_columns(group: Group, columns: Mapping[str, Column]) -> dict[str, str]:
    """Columns under `columns/`, and how each is kept: as text, numbers, a tensor, or JSON."""
    hows = {}
    for name, column in columns.items():
        hows[name], array = as_stored(name, column)
        keep(group, f"{COLUMNS}/{quote(name, safe='')}", array)
    return hows


def as_stored(name: str, column: Column) -> tuple[str, Shaped[np.ndarray, "n ..."]]:
    values = column.values
    if isinstance(values, np.ndarray) and values.dtype.kind == "T":
        return "text", values
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        return "numbers", values
    if isinstance(values, Tensor):
        rows = values if column.rows is None else values[torch.from_numpy(column.rows)]
        return "tensor", rows.numpy(force=True)
    try:
        texts = ["" if entry is None else json.dumps(tagged(entry)) for entry in column]
    except ValueError as error:
        raise ValueError(f"pack: the column {name!r}: {error}") from error
    return "json", np.array(texts, dtype=TEXT)


def stored_columns(group: Group, hows: Mapping[str, str]) -> dict[str, Column]:
    """What `keep_columns` kept."""
    columns = {}
    for name, how in hows.items():
        array = np.asarray(group[f"{COLUMNS}/{quote(name, safe='')}"][...])
        if how == "json":
            columns[name] = Column.of([untagged(json.loads(t)) if t else None for t in array])
        elif how == "text":
            columns[name] = Column(array.astype(TEXT))
        else:
            columns[name] = Column.of(array)
    return columns


def written(files: Mapping[str, Any], place: Place) -> None:
    """The files of a group, its root last: what has none is no store yet."""
    for key in sorted(files, key=lambda key: (key == ROOT, key)):
        place.write(key, [files[key].to_bytes()])


def opened_group(place: Place) -> Group:
    """A finished store's group, as anybody's `zarr.open` gives it."""
    import zarr

    return zarr.open_group(place.name, mode="r")
