"""Where a store lies: a local folder, or anything that fsspec reaches by a URL.

All that a store asks of a place: pieces of files by position, and files that are there whole or not
at all.
"""

import os
import re
import secrets
import shutil
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

OPEN_FILES = 128  # kept open per process; a shard is opened once, not once a sample
PARTIAL = ".partial"  # names that files have while they are written


@runtime_checkable
class Place(Protocol):
    """Keys are paths below the place, with /. What is not there raises FileNotFoundError.

    stride: bytes that one reading may be split into at no cost; None where each is a request.
    """

    @property
    def name(self) -> str: ...
    @property
    def stride(self) -> int | None: ...
    def size(self, key: str) -> int: ...
    def piece(self, key: str, start: int, length: int) -> bytes: ...
    def fill(self, key: str, start: int, into: Any) -> int: ...
    def read(self, key: str) -> bytes: ...
    def write(self, key: str, pieces: Sequence[Any]) -> None: ...
    def has(self, key: str) -> bool: ...
    def files(self, below: str = "") -> list[str]: ...
    def remove(self, key: str) -> None: ...
    def clear(self, below: str) -> None: ...


def place_of(path: str | Path) -> "Folder | Remote":
    """A folder, or what fsspec opens: a text with `://`."""
    url = url_of(path)
    return Folder(str(path)) if url is None else Remote(url)


def url_of(path: str | Path) -> str | None:
    """The URL that a text is, or that a path was: in a `Path`, s3://bucket has lost a slash."""
    if isinstance(path, str):
        return path if "://" in path else None
    found = re.fullmatch(r"([a-z][a-z0-9+.-]+):/([^/].*)", str(path))
    return found and f"{found[1]}://{found[2]}"


class Folder:
    """A local folder. Files stay open and are read by position, so workers may share them."""

    stride: int | None = 1 << 19

    def __init__(self, root: str) -> None:
        self.root = root
        self.open: OrderedDict[str, int] = OrderedDict()

    def __getstate__(self) -> str:
        return self.root

    def __setstate__(self, root: str) -> None:
        self.__init__(root)

    def __del__(self) -> None:
        for handle in self.open.values():
            os.close(handle)

    @property
    def name(self) -> str:
        return self.root

    def handle(self, key: str) -> int:
        found = self.open.get(key)
        if found is None:
            found = self.open[key] = os.open(os.path.join(self.root, key), os.O_RDONLY)
            if len(self.open) > OPEN_FILES:
                os.close(self.open.popitem(last=False)[1])
        else:
            self.open.move_to_end(key)
        return found

    def size(self, key: str) -> int:
        return os.fstat(self.handle(key)).st_size

    def piece(self, key: str, start: int, length: int) -> bytes:
        return os.pread(self.handle(key), length, start)

    def fill(self, key: str, start: int, into: Any) -> int:
        """Read into a writeable buffer; how many bytes there were."""
        handle, view, done = self.handle(key), memoryview(into).cast("B"), 0
        while done < len(view):
            count = os.preadv(handle, [view[done:]], start + done)
            if count == 0:
                break
            done += count
        return done

    def read(self, key: str) -> bytes:
        return Path(self.root, key).read_bytes()

    def write(self, key: str, pieces: Sequence[Any]) -> None:
        """Whole or not at all: under another name until it is. Not forced to the disk: that a
        machine stopped before it was there is found by checksums."""
        target = Path(self.root, key)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}{PARTIAL}")
        try:
            with open(partial, "wb") as file:
                file.writelines(pieces)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)

    def has(self, key: str) -> bool:
        return os.path.exists(os.path.join(self.root, key))

    def files(self, below: str = "") -> list[str]:
        top = Path(self.root, below)
        found = (Path(folder, name) for folder, _, names in os.walk(top) for name in names)
        return sorted(file.relative_to(self.root).as_posix() for file in found)

    def remove(self, key: str) -> None:
        Path(self.root, key).unlink(missing_ok=True)

    def clear(self, below: str) -> None:
        """Everything below, itself too."""
        if self.has(below):
            shutil.rmtree(Path(self.root, below))


class Remote:
    """Any file system of fsspec (s3://, gs://, https://, memory://). Connected in the process that
    reads: what a parent opened does not survive a fork."""

    stride: int | None = None

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.connected: tuple[int, Any, str] | None = None

    def __getstate__(self) -> str:
        return self.url

    def __setstate__(self, url: str) -> None:
        self.__init__(url)

    @property
    def name(self) -> str:
        return self.url

    def system(self) -> tuple[Any, str]:
        if self.connected is None or self.connected[0] != os.getpid():
            from fsspec.core import url_to_fs  # an import of its own weight; local paths need none

            again = self.connected is not None
            system, root = url_to_fs(self.url, **({"skip_instance_cache": True} if again else {}))
            self.connected = (os.getpid(), system, root)
        return self.connected[1:]

    def at(self, key: str) -> tuple[Any, str]:
        system, root = self.system()
        return system, f"{root}/{key}" if key else root

    def size(self, key: str) -> int:
        system, path = self.at(key)
        return int(system.size(path))

    def piece(self, key: str, start: int, length: int) -> bytes:
        system, path = self.at(key)
        return system.cat_file(path, start=start, end=start + length)

    def fill(self, key: str, start: int, into: Any) -> int:
        view = memoryview(into).cast("B")
        data = self.piece(key, start, len(view))
        view[: len(data)] = data
        return len(data)

    def read(self, key: str) -> bytes:
        system, path = self.at(key)
        return system.cat_file(path)

    def write(self, key: str, pieces: Sequence[Any]) -> None:
        """One put: object stores show an object when it is whole."""
        system, path = self.at(key)
        system.makedirs(path.rpartition("/")[0], exist_ok=True)
        system.pipe_file(path, b"".join(pieces))

    def has(self, key: str) -> bool:
        system, path = self.at(key)
        return bool(system.exists(path))

    def files(self, below: str = "") -> list[str]:
        (system, path), root = self.at(below), self.system()[1]
        found = system.find(path) if system.exists(path) else []
        return sorted(name.removeprefix(root).lstrip("/") for name in found)

    def remove(self, key: str) -> None:
        system, path = self.at(key)
        if system.exists(path):
            system.rm_file(path)

    def clear(self, below: str) -> None:
        system, path = self.at(below)
        if system.exists(path):
            system.rm(path, recursive=True)
