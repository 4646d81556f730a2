"""Asking about a video file in a child process, with a time limit: a hang is named, not awaited."""

import atexit
import json
import os
import select
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, LifoQueue
from typing import Any

from multimask.datasets.formats.files import AnyPath
from multimask.datasets.formats.video_index import WHAT, check_file
from multimask.tokens import BadSample

COMMAND = (sys.executable, "-P", "-m", "multimask.datasets.formats.video_checks")
STARTING = 60.0  # seconds that a child may take to import what it needs
REMEMBERED = 100_000  # files


class Silent(Exception):
    """The child did not answer in time, or died."""


class Child:
    """One process that answers about one file at a time."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.left, self.parent = b"", os.getpid()
        atexit.register(self.end)
        try:
            self.answer(STARTING)  # that it is ready: what imports take is not the file's fault
        except Silent as error:
            self.end()
            raise TimeoutError(
                f"videos cannot be looked at: the process that tries their decoders {error} while "
                "it started; run less beside it, or see what `multimask doctor` says of PyAV."
            ) from error

    def ask(self, request: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.left = b""
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise Silent("died before it was asked") from error

    def answer(self, limit: float) -> dict[str, Any]:
        """The next line. Raises Silent when it does not come within `limit` seconds."""
        assert self.process.stdout is not None
        handle = self.process.stdout.fileno()
        while b"\n" not in self.left:
            ready, _, _ = select.select([handle], [], [], limit)
            if not ready:
                raise Silent(f"gave no answer within {limit:g} seconds")
            received = os.read(handle, 65536)
            if not received:
                raise Silent("crashed")
            self.left += received
        line, self.left = self.left.split(b"\n", 1)
        return json.loads(line)

    def end(self) -> None:
        if os.getpid() == self.parent:  # a forked worker does not end its parent's children
            atexit.unregister(self.end)
            self.process.kill()
            self.process.communicate()


@dataclass(frozen=True)
class Prober:
    """Facts of video files, each asked for once while the file does not change.

    limit: seconds that the decoders may take over one file. command: what a child runs.
    Raises: BadSample for files that are no videos, and for those that decoders hang or crash on;
        TimeoutError where the child itself does not start, which is no file's fault.
    """

    limit: float = 60.0
    command: tuple[str, ...] = COMMAND
    _idle: dict[int, "LifoQueue[Child]"] = field(default_factory=dict, repr=False, compare=False)
    _known: "OrderedDict[tuple[Any, ...], dict[str, Any] | str]" = field(
        default_factory=OrderedDict, repr=False, compare=False
    )

    def __call__(self, path: AnyPath, max_pixels: int) -> dict[str, Any]:
        check_file(path)
        status = Path(path).stat()
        key = os.fspath(path), status.st_size, status.st_mtime_ns, max_pixels
        found = self._known.get(key)
        if found is None:
            try:
                found = self._asked(path, max_pixels)
            except BadSample as error:
                found = str(error)
            self._known[key] = found
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        if isinstance(found, str):
            raise BadSample(found)
        return dict(found)

    def _asked(self, path: AnyPath, max_pixels: int) -> dict[str, Any]:
        # children belong to the process that started them: a forked worker starts its own
        idle = self._idle.setdefault(os.getpid(), LifoQueue())
        try:
            child = idle.get_nowait()
        except Empty:
            child = Child(self.command)
        facts: dict[str, Any] | None = None
        try:
            child.ask({"path": os.fspath(os.path.abspath(path)), "max_pixels": max_pixels})
            said = child.answer(self.limit)
            if "problem" in said:
                idle.put(child)
                raise BadSample(said["problem"].replace(os.path.abspath(path), str(path)))
            facts = said["facts"]
            assert facts is not None
            if child.answer(self.limit)["decord"]:
                facts["access"] = "decord"
            idle.put(child)
        except Silent as error:
            child.end()
            if facts is None:
                raise BadSample(
                    f"{path}: expected {WHAT} that can be decoded, found one on which the decoder "
                    f"{error}."
                ) from error
        return facts
