"""Bytes as zstd frames that keep them as they are, so that any zarr reader unpacks them.

A ragged sample lies in cells of 128 KiB. The last one is hardly ever full, and a plain cell would
store its padding. A frame of one raw block (the bytes themselves) and one run (the padding, four
bytes) stores nothing but the sample, and reading it is a copy. Format: RFC 8878, section 3.1.1.
"""

import struct
from collections.abc import Sequence
from typing import Any

CELL = 2**17  # bytes; also the largest block that zstd allows
# magic, descriptor (4-byte content size, single segment, no checksum), content size
START = struct.pack("<IBI", 0xFD2FB528, 0b1010_0000, CELL)
BODY = len(START) + 3  # where the bytes begin: behind the header of the first block
RAW, RUN, LAST = 0 << 1, 1 << 1, 1


def kept(data: Any) -> Sequence[Any]:
    """The pieces of a frame that holds up to `CELL` bytes as they are, zeros behind them.

    >>> import numcodecs
    >>> whole = numcodecs.Zstd().decode(b"".join(kept(b"as it is")))
    >>> len(whole) == CELL, bytes(whole[:9])
    (True, b'as it is\\x00')
    """
    count = len(data)
    if count == CELL:
        return START, block(RAW | LAST, count), data
    return START, block(RAW, count), data, block(RUN | LAST, CELL - count), b"\0"


def unkept(frame: memoryview, count: int) -> Any:
    """The first `count` bytes of a frame: a view of one that `kept` made, else unpacked."""
    if frame[: len(START)] == START:
        header = int.from_bytes(frame[len(START) : BODY], "little")
        if header & 0b110 == RAW and header >> 3 >= count:
            return frame[BODY : BODY + count]
    from numcodecs import Zstd

    return memoryview(Zstd().decode(frame))[:count]


def block(kind: int, count: int) -> bytes:
    return (kind | count << 3).to_bytes(3, "little")
