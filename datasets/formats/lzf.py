"""LZF, the compression of binary_compressed PCD files (liblzf's format, after M. Lehmann)."""

from multimask.datasets.formats.files import AnyPath
from multimask.tokens import BadSample

MOST = 132  # a copy of at most 264 bytes takes at least 2: nothing is compressed further


def decompressed(packed: bytes, size: int, path: AnyPath) -> bytes:
    """Exactly `size` bytes. Raises BadSample for data that give fewer, more, or look back too far.

    A control byte below 32 copies that many + 1 bytes that follow; else its upper three bits (7:
    plus a byte) + 2 say how many to repeat, the lower five and a byte from how far back.

    >>> decompressed(bytes([2]) + b"abc" + bytes([0b100_00000, 2]), 9, "x")
    b'abcabcabc'
    """
    damaged = BadSample(f"{path}: the compressed points are cut short or damaged.")
    if size > len(packed) * MOST:
        raise damaged
    made, at, end = bytearray(), 0, len(packed)
    try:
        while at < end:
            control = packed[at]
            at += 1
            if control < 32:
                stop = at + control + 1
                if stop > end:
                    raise damaged
                made += packed[at:stop]
                at = stop
            else:
                length = control >> 5
                if length == 7:
                    length += packed[at]
                    at += 1
                start = len(made) - ((control & 31) << 8) - packed[at] - 1
                at += 1
                length += 2
                if start < 0:
                    raise damaged
                piece = made[start : start + length]
                while len(piece) < length:  # the copy reaches into itself
                    piece += piece[: length - len(piece)]
                made += piece
            if len(made) > size:
                raise damaged
    except IndexError as error:
        raise damaged from error
    if len(made) != size:
        raise damaged
    return bytes(made)
