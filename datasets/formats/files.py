"""A picture file whose header has been read, and errors that say what is wrong with a file."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from typing import Any

import numpy as np
from jaxtyping import Shaped

from multimask.tokens import BadSample

File = BufferedReader | BytesIO


@dataclass(frozen=True, eq=False)
class FileBytes:
    """A file's bytes where no file lies: packed in a store. Readers with `takes_bytes = True` take
    them in place of a path; messages name the file that it was."""

    name: str
    data: Any

    def __str__(self) -> str:
        return self.name


AnyPath = str | os.PathLike[str]
Named = AnyPath | FileBytes  # what is read, or what messages call it


@dataclass(frozen=True)
class Picture:
    """What a file's header says (size as shown, in pixels), and how to get the pixels.

    `pixels(shrink)` decodes them `(c, h, w)` in the file's own numbers, `shrink` (1, 2, 4 or 8)
    times smaller, sizes rounded up; only where `shrinks`, else `shrink` must be 1.
    """

    height: int
    width: int
    mode: str
    format: str
    pixels: Callable[[int], Shaped[np.ndarray, "c h w"]]
    shrinks: bool = False


@contextmanager
def opened(path: Named, what: str) -> Iterator[File]:
    """The file, open at its first byte. `what` names what it should be: "a picture".

    Raises: BadSample for a path that is missing, a folder, unreadable or empty.
    """
    if isinstance(path, FileBytes):
        yield BytesIO(path.data)
        return
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed below; only opening may fail like this)
    except (OSError, ValueError) as error:
        raise BadSample(f"{path}: expected {what}, found {_trouble(error)}.") from error
    with file:
        if os.fstat(file.fileno()).st_size == 0:
            raise BadSample(f"{path}: expected {what}, found an empty file (zero bytes).")
        yield file


@contextmanager
def decoding(path: Named, what: str) -> Iterator[None]:
    """Turn whatever a decoder raises into a `BadSample`: on damaged data, that may be anything."""
    try:
        yield
    except BadSample:
        raise
    except Exception as error:
        raise BadSample(
            f"{path}: expected {what}, found data that cannot be decoded (damaged or cut short)."
        ) from error


def check_size(path: Named, height: int, width: int, channels: int, max_pixels: int) -> None:
    """Refuse, before anything is decoded, what would not fit into memory."""
    if height * width * max(1, channels / 4) > max_pixels:  # a picture has up to four channels
        raise BadSample(
            f"{path}: expected at most {max_pixels:,} pixels, found {height:,} x {width:,} with "
            f"{channels} channels in the header; raise max_pixels if that is true."
        )


def _trouble(error: Exception) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder"
    if isinstance(error, PermissionError):
        return "a file that this user may not read"
    return f"a file that cannot be opened ({getattr(error, 'strerror', None) or error})"
