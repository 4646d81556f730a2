"""How one array per sample lies in a zarr array: equal shapes as they are, ragged ones as bytes.

Rows are cut into ranges of `rows` each; a range's samples share a shard file. Equal shapes: an
array `(n, *shape)` in chunks of one sample, or finer. Ragged: an array `(n, longest)` of bytes in
cells, with `length (n,)` and `shape (n, axes)` beside it. A row that has nothing takes no space.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from multimask.datasets.stores.frames import CELL, kept, unkept
from multimask.datasets.stores.places import Place
from multimask.datasets.stores.shards import Shards, shard_of

Chunk = tuple[int, Sequence[Any]]  # slot in a shard, pieces
Box = tuple[slice, ...]


@dataclass(frozen=True)
class Leaf:
    """One array a sample.

    dtype: of the stored numbers. shape: of a sample, None where samples differ (then `axes` says
    how many sides they have). chunks: of one sample. level: of zstd, None stores numbers as they
    are. cells: of a ragged sample in one shard file. was: the dtype before it was packed, which
    reading gives back.
    """

    dtype: str
    shape: tuple[int, ...] | None
    axes: int
    chunks: tuple[int, ...] | None = None
    level: int | None = None
    cells: int = 1
    was: str | None = None

    @classmethod
    def from_json(cls, made: dict[str, Any]) -> "Leaf":
        sides = {name: made[name] and tuple(made[name]) for name in ("shape", "chunks")}
        shape = None if made["shape"] is None else tuple(made["shape"])
        return cls(**{**made, **sides, "shape": shape})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def chunk(self) -> tuple[int, ...]:
        assert self.shape is not None
        return self.chunks or self.shape

    @property
    def grid(self) -> tuple[int, ...]:
        """How many chunks a sample of equal shape has along each side."""
        assert self.shape is not None
        return tuple(math.ceil(n / c) for n, c in zip(self.shape, self.chunk, strict=True))

    @property
    def slots(self) -> int:
        """Chunks of a sample in one shard file."""
        return self.cells if self.shape is None else math.prod(self.grid)

    def file(self, number: int, row: int, rows: int) -> str:
        """The shard file, below c/, of a row; `number` counts those of long ragged samples."""
        ends = [number] if self.shape is None else [0] * len(self.shape)
        return "/".join(map(str, [row // rows, *ends]))

    # --- writing ---

    def pieces(self, slot: int, array: Shaped[np.ndarray, "..."]) -> Iterator[tuple[int, Chunk]]:
        """(number of the shard file, chunk) of a sample that begins at this slot."""
        if self.shape is None:
            data = bytes_of(array)
            for place, start in enumerate(range(0, len(data), CELL)):
                number, cell = divmod(place, self.cells)
                yield number, (slot + cell, self.packed_cell(data[start : start + CELL]))
            return
        if self.grid == (1,) * len(self.shape) and self.chunk == self.shape:
            yield 0, (slot, self.packed(array))
            return
        for place, corner in enumerate(itertools.product(*map(range, self.grid))):
            whole = np.zeros(self.chunk, array.dtype)
            box = tuple(
                slice(i * c, min((i + 1) * c, n))
                for i, c, n in zip(corner, self.chunk, self.shape, strict=True)
            )
            part = array[box]
            whole[tuple(slice(0, n) for n in part.shape)] = part
            yield 0, (slot + place, self.packed(whole))

    def packed(self, array: Shaped[np.ndarray, "..."]) -> Sequence[Any]:
        data = bytes_of(array)
        return [data] if self.level is None else [squeezed(data, self.level)]

    def packed_cell(self, data: memoryview) -> Sequence[Any]:
        if self.level is None:
            return kept(data)
        return [squeezed(bytes(data) + bytes(CELL - len(data)), self.level)]


@dataclass(frozen=True, eq=False)
class LeafReader:
    """Reads one array a row. `lengths` (bytes) and `shapes` only where they differ by row."""

    place: Place
    key: str
    leaf: Leaf
    rows: int
    lengths: Int[np.ndarray, " n"] | None = None
    shapes: Int[np.ndarray, "n axes"] | None = None
    shards: Shards = field(init=False)

    def __post_init__(self) -> None:
        slots = self.rows * self.leaf.slots
        object.__setattr__(self, "shards", Shards(self.place, self.key, slots))

    @cached_property
    def dtype(self) -> np.dtype:
        return np.dtype(self.leaf.dtype)

    @cached_property
    def single(self) -> str | None:
        """The ending of shard files where a sample is one chunk of plain numbers, else None."""
        leaf = self.leaf
        if leaf.shape is None or leaf.level is not None or leaf.chunk != leaf.shape:
            return None
        return "/0" * len(leaf.shape)

    def shape(self, row: int) -> tuple[int, ...]:
        if self.shapes is None:
            assert self.leaf.shape is not None
            return self.leaf.shape
        return tuple(n for n in self.shapes[row].tolist() if n >= 0)

    def has(self, row: int) -> bool:
        if self.lengths is not None:
            return bool(self.lengths[row] >= 0)
        slot = row % self.rows * self.leaf.slots
        return self.shards.where(self.leaf.file(0, row, self.rows), slot) is not None

    def read(self, row: int, box: Box | None = None) -> Shaped[np.ndarray, "..."] | None:
        """A row's array in memory of its own, or of a box of it; None where it has none."""
        if self.lengths is not None:
            return self.ragged(row, box)
        if self.single is not None and box is None:
            made = np.empty(self.leaf.shape or (), self.dtype)
            shard = f"{row // self.rows}{self.single}"
            found = self.shards.fill(shard, row % self.rows, bytes_of(made))
            return self.as_was(made) if found else None
        return self.regular(row, box)

    def regular(self, row: int, box: Box | None) -> Shaped[np.ndarray, "..."] | None:
        """From the chunks that overlap the box."""
        leaf = self.leaf
        assert leaf.shape is not None
        if not self.has(row):
            return None
        wanted = bounds(box, leaf.shape)
        made = np.empty([stop - start for start, stop in wanted], self.dtype)
        shard, first = leaf.file(0, row, self.rows), row % self.rows * leaf.slots
        touched = [
            range(start // c, math.ceil(stop / c)) if stop > start else range(0)
            for (start, stop), c in zip(wanted, leaf.chunk, strict=True)
        ]
        for corner in itertools.product(*touched):
            slot = first + (int(np.ravel_multi_index(corner, leaf.grid)) if corner else 0)
            chunk = self.decoded(shard, slot)
            source, target = [], []
            for i, c, (start, stop) in zip(corner, leaf.chunk, wanted, strict=True):
                low, high = max(start, i * c), min(stop, (i + 1) * c)
                source.append(slice(low - i * c, high - i * c))
                target.append(slice(low - start, high - start))
            made[tuple(target)] = chunk[tuple(source)]
        return self.as_was(made)

    def decoded(self, shard: str, slot: int) -> Shaped[np.ndarray, "..."]:
        data = self.shards.chunk(shard, slot)
        if data is None:
            raise self.shards.damaged(shard, slot)
        if self.leaf.level is not None:
            data = unsqueezed(data)
        if len(data) != math.prod(self.leaf.chunk) * self.dtype.itemsize:
            raise self.shards.damaged(shard, slot)
        return np.frombuffer(data, self.dtype).reshape(self.leaf.chunk)

    def ragged(self, row: int, box: Box | None = None) -> Shaped[np.ndarray, "..."] | None:
        """From the cells that hold the box's numbers; the rest of the memory is never touched."""
        assert self.lengths is not None
        length = int(self.lengths[row])
        if length < 0:
            return None
        shape = self.shape(row)
        made = np.empty(length, np.uint8)
        cells = range(math.ceil(length / CELL)) if box is None else self.touched(shape, box)
        for place in cells:
            start = place * CELL
            made[start : start + CELL] = np.frombuffer(self.cell(row, place, length), np.uint8)
        array = made.view(self.dtype).reshape(shape)
        if box is None:
            return self.as_was(array)
        return self.as_was(np.ascontiguousarray(array[box]))

    def bytes(self, row: int) -> memoryview | bytearray | None:
        """The bytes of a ragged row, without a copy where they lie in one cell."""
        assert self.lengths is not None
        length = int(self.lengths[row])
        if length < 0:
            return None
        if 0 < length <= CELL:
            return self.cell(row, 0, length)
        whole = bytearray()
        for place in range(math.ceil(length / CELL)):
            whole += self.cell(row, place, length)
        return whole

    def cell(self, row: int, place: int, length: int) -> memoryview:
        number, cell = divmod(place, self.leaf.cells)
        shard = self.leaf.file(number, row, self.rows)
        slot = row % self.rows * self.leaf.cells + cell
        chunk, count = self.shards.chunk(shard, slot), min(CELL, length - place * CELL)
        if chunk is None:
            raise self.shards.damaged(shard, slot)
        data = unkept(chunk, count)
        if len(data) != count:
            raise self.shards.damaged(shard, slot)
        return data

    def touched(self, shape: tuple[int, ...], box: Box) -> list[int]:
        """Cells with numbers of the box: of each row of the last side but one, first to last."""
        wanted = bounds(box, shape)
        if any(stop <= start for start, stop in wanted):
            return []
        size = self.dtype.itemsize
        strides = [size * math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        inner = max(0, len(shape) - 2)
        within = [
            (sum(s * wanted[axis][0] for axis, s in enumerate(strides) if axis >= inner)),
            (sum(s * (wanted[axis][1] - 1) for axis, s in enumerate(strides) if axis >= inner)),
        ]
        found = set[int]()
        for corner in itertools.product(*(range(*side) for side in wanted[:inner])):
            offset = sum(i * s for i, s in zip(corner, strides[:inner], strict=True))
            first, last = offset + within[0], offset + within[1] + size - 1
            found.update(range(first // CELL, last // CELL + 1))
        return sorted(found)

    def as_was(self, array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        was = self.leaf.was
        return array if was is None or was == self.leaf.dtype else array.astype(was)


class LeafWriter:
    """Collects the chunks of one range of rows and writes them, a file at a time."""

    def __init__(self, leaf: Leaf, rows: int) -> None:
        self.leaf, self.rows = leaf, rows
        self.files: dict[int, list[Chunk]] = defaultdict(list, {0: []})

    def add(self, row: int, array: Shaped[np.ndarray, "..."]) -> None:
        slot = row % self.rows * self.leaf.slots
        for number, chunk in self.leaf.pieces(slot, array):
            self.files[number].append(chunk)

    def write(self, place: Place, key: str, row: int) -> None:
        for number, chunks in self.files.items():
            file = f"{key}/c/{self.leaf.file(number, row, self.rows)}"
            place.write(file, shard_of(chunks, self.rows * self.leaf.slots))


def bounds(box: Box | None, shape: Sequence[int]) -> list[tuple[int, int]]:
    """(start, stop) of each side; slices without steps only."""
    sides = list(box or ()) + [slice(None)] * (len(shape) - len(box or ()))
    found = []
    for side, n in zip(sides, shape, strict=True):
        start, stop, step = side.indices(n)
        if step != 1:
            raise ValueError(f"a stored array is cut in steps of 1, not by {side}.")
        found.append((start, max(start, stop)))
    return found


def bytes_of(array: Shaped[np.ndarray, "..."]) -> memoryview:
    """The numbers as bytes, row-major; the array's own memory where it is that already."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def squeezed(data: Any, level: int) -> bytes:
    from numcodecs import Zstd

    return Zstd(level).encode(data)


def unsqueezed(data: memoryview) -> memoryview:
    from numcodecs import Zstd

    return memoryview(Zstd().decode(data))
