"""Shards of zarr v3: many chunks in one file, an index of (offset, length) pairs behind them.

The index is read once per shard and process; a chunk is then one positioned read. Every chunk and
the index carry a crc32c, as the standard's `crc32c` codec writes it: four bytes behind the data. It
is checked the first time that a process reads the chunk, not in every epoch: a checksum at 20 GB/s
would still be a quarter of reading a large array from memory.
Source: zarr v3 specification, codec `sharding_indexed`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import google_crc32c
import numpy as np
from jaxtyping import Bool, UInt64

from multimask.datasets.stores.places import Place
from multimask.tokens import BadSample

CHECK = 4  # bytes of a checksum
NOTHING = 2**64 - 1  # offset and length of a chunk that is not there

Index = UInt64[np.ndarray, "slots 2"]


def checksum(data: Any, before: int = 0) -> int:
    """crc32c of a buffer, going on from that of what stands before it."""
    return google_crc32c.extend(before, np.frombuffer(data, np.uint8)) if len(data) else before


def checked(pieces: Sequence[Any]) -> list[Any]:
    """Pieces with their common checksum behind them."""
    total = 0
    for piece in pieces:
        total = checksum(piece, total)
    return [*pieces, total.to_bytes(CHECK, "little")]


def shard_of(chunks: Iterable[tuple[int, Sequence[Any]]], slots: int) -> list[Any]:
    """The pieces of a shard file: chunks, each with the slot it belongs to, in this order."""
    index = np.full((slots, 2), NOTHING, "<u8")
    written: list[Any] = []
    offset = 0
    for slot, pieces in chunks:
        whole = checked(pieces)
        length = sum(len(piece) for piece in whole)
        index[slot] = offset, length
        written += whole
        offset += length
    return [*written, *checked([index.tobytes()])]


class Shards:
    """Chunks of one zarr array by shard and slot. Indexes are kept, per process that reads."""

    def __init__(self, place: Place, key: str, slots: int) -> None:
        self.place, self.key, self.slots = place, key, slots
        self.indexes: dict[str, Index] = {}
        self.sound: dict[str, Bool[np.ndarray, " slots"]] = {}  # chunks that were checked

    def __getstate__(self) -> tuple[Place, str, int]:
        return self.place, self.key, self.slots

    def __setstate__(self, state: tuple[Place, str, int]) -> None:
        self.__init__(*state)

    def index(self, shard: str) -> Index:
        if shard not in self.indexes:
            file, length = f"{self.key}/c/{shard}", 16 * self.slots
            try:
                size = self.place.size(file)
                tail = self.place.piece(file, size - length - CHECK, length + CHECK)
            except FileNotFoundError:
                raise BadSample(
                    f"{self.place.name}: expected a shard {file}, found none."
                ) from None
            except (OSError, ValueError):  # shorter than an index
                tail = b""
            stated = int.from_bytes(tail[length:], "little")
            if len(tail) < length + CHECK or checksum(tail[:length]) != stated:
                raise BadSample(
                    f"{self.place.name}: expected a whole shard {file}, found one that is cut "
                    "short or damaged at its end; pack it again."
                )
            self.indexes[shard] = np.frombuffer(tail[:length], "<u8").reshape(-1, 2)
            self.sound[shard] = np.zeros(self.slots, bool)
        return self.indexes[shard]

    def where(self, shard: str, slot: int) -> tuple[int, int] | None:
        """Offset and length of a chunk without its checksum, None for one that is not there."""
        offset, length = self.index(shard)[slot].tolist()
        return None if offset == NOTHING else (offset, length - CHECK)

    def chunk(self, shard: str, slot: int) -> memoryview | None:
        """A chunk's bytes, checked."""
        found = self.where(shard, slot)
        if found is None:
            return None
        offset, length = found
        data = memoryview(self.place.piece(f"{self.key}/c/{shard}", offset, length + CHECK))
        stated = data[length:]
        if len(stated) < CHECK or not self.is_sound(shard, slot, data[:length], stated):
            raise self.damaged(shard, slot)
        return data[:length]

    def fill(self, shard: str, slot: int, into: memoryview) -> bool:
        """A chunk that is stored as it is, read to where it is wanted; False if it is not there."""
        found = self.where(shard, slot)
        if found is None:
            return False
        offset, length = found
        file = f"{self.key}/c/{shard}"
        if length != len(into):
            raise self.damaged(shard, slot)
        sound = bool(self.sound[shard][slot])
        # summed while the bytes are still in the processor's cache
        step = self.place.stride or length
        total = 0
        for start in range(0, length, max(1, step)):
            part = into[start : start + step]
            if self.place.fill(file, offset + start, part) < len(part):
                raise self.damaged(shard, slot)
            total = total if sound else checksum(part, total)
        if not sound:
            stated = self.place.piece(file, offset + length, CHECK)
            if total != int.from_bytes(stated, "little"):
                raise self.damaged(shard, slot)
            self.sound[shard][slot] = True
        return True

    def is_sound(self, shard: str, slot: int, data: memoryview, stated: Any) -> bool:
        """Whether the data match their checksum, as far as that was not known."""
        sound = self.sound[shard]
        if not sound[slot]:
            sound[slot] = checksum(data) == int.from_bytes(stated, "little")
        return bool(sound[slot])

    def damaged(self, shard: str, slot: int) -> BadSample:
        return BadSample(
            f"{self.place.name}: expected chunk {slot} of the shard {self.key}/c/{shard} to match "
            "its checksum, found that it does not: the file was changed or damaged; pack it again."
        )
