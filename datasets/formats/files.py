"""Opening files so that whatever is wrong with one becomes a `BadSample` of one sentence."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from multimask.tokens import BadSample

Path = str | os.PathLike[str]


@contextmanager
def opened(path: Path, what: str) -> Iterator[BinaryIO]:
    """The file, open at its first byte. `what` names the contents: "a picture".

    Raises: BadSample for a path that is missing, a folder, unreadable or empty.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed below; only opening may fail like this)
    except OSError as error:
        raise BadSample(f"{path}: expected {what}, found {_trouble(error)}.") from error
    with file:
        if os.fstat(file.fileno()).st_size == 0:
            raise BadSample(f"{path}: expected {what}, found an empty file (zero bytes).")
        yield file


@contextmanager
def decoding(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a decoder raises on damaged data into a `BadSample`.

    Decoders raise almost anything on damaged data (ZeroDivisionError, struct.error, ...).
    """
    try:
        yield
    except BadSample:
        raise
    except Exception as error:
        raise BadSample(
            f"{path}: expected {what}, found data that cannot be decoded (damaged or cut short)."
        ) from error


def _trouble(error: OSError) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder"
    if isinstance(error, PermissionError):
        return "a file that this user may not read"
    return f"a file that cannot be opened ({error.strerror})"
