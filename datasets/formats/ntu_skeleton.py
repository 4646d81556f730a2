"""NTU RGB+D `.skeleton` text: frames of bodies of 25 Kinect v2 joints, in metres."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from multimask.datasets.formats.files import AnyPath
from multimask.datasets.formats.motion import (
    Motion,
    Pose,
    check_frames,
    check_joints,
    linked,
    single,
    text_of,
)
from multimask.tokens import BadSample

WHAT = "an NTU RGB+D skeleton file"
JOINTS, NUMBERS, BODY_NUMBERS = 25, 12, 10
RATE = 30.0


def read_ntu(path: AnyPath, lowest_state: int = 1) -> Motion:
    """All bodies through all frames, linked by id and, where ids change, by place.

    Joints whose tracking state is below `lowest_state` (0 not tracked, 1 inferred, 2 tracked) or
    that lie exactly at the camera are NaN; so is a body in frames that lack it.

    Raises: BadSample for files that are cut short, go on behind their last frame, state another
    joint count, or hold no body in any frame.
    """
    lines = Lines(path, text_of(path, WHAT))
    count = lines.whole_number("the number of frames")
    check_frames(path, count)
    frames = []
    for frame in range(count):
        where = f"frame {frame + 1} of {count}"
        bodies = lines.whole_number(f"the number of bodies in {where}")
        frames.append([one_body(lines, where, lowest_state) for _ in range(bodies)])
    lines.end(f"nothing after frame {count}")
    if not any(frames):
        raise BadSample(f"{path}: expected a body, found none in any of {count} frames.")
    return Motion(linked(frames), RATE)


def probe_ntu(path: AnyPath) -> dict[str, Any]:
    """Frames as the first line states them; the rest is not read."""
    lines = Lines(path, text_of(path, WHAT))
    count = lines.whole_number("the number of frames")
    check_frames(path, count)
    return {"frames": count, "joints": JOINTS, "dims": 3, "rate": RATE, "format": "NTU"}


class Lines:
    """The lines of a file, taken one by one; what is wrong is said with the line's number."""

    def __init__(self, path: AnyPath, text: str) -> None:
        self.path, self.lines, self.at = path, text.split("\n"), 0
        while self.lines and not self.lines[-1].strip():
            self.lines.pop()

    def take(self, count: int, what: str) -> Sequence[str]:
        taken = self.lines[self.at : self.at + count]
        if len(taken) < count:
            raise BadSample(
                f"{self.path}: expected {what}, found the end of the file after line "
                f"{len(self.lines)} (cut short)."
            )
        self.at += count
        return taken

    def whole_number(self, what: str) -> int:
        (line,) = self.take(1, what)
        text = line.strip()
        if not (text.isascii() and text.isdigit() and len(text) < 16):
            raise BadSample(
                f"{self.path}: line {self.at}: expected {what}, found {line.strip()[:40]!r}."
            )
        return int(text)

    def table(self, rows: int, columns: int, what: str) -> np.ndarray:
        first = self.at + 1
        cells = [line.split() for line in self.take(rows, what)]
        for row, found in enumerate(cells):
            if len(found) != columns:
                raise BadSample(
                    f"{self.path}: line {first + row}: expected {columns} numbers ({what}), found "
                    f"{len(found)}."
                )
        try:
            return np.array(cells, dtype=np.float64)
        except ValueError as error:
            raise BadSample(
                f"{self.path}: lines {first} to {first + rows - 1}: expected numbers ({what}), "
                "found other text."
            ) from error

    def end(self, what: str) -> None:
        if self.at < len(self.lines):
            raise BadSample(
                f"{self.path}: line {self.at + 1}: expected {what}, found "
                f"{self.lines[self.at].strip()[:40]!r}."
            )


def one_body(lines: Lines, where: str, lowest_state: int) -> tuple[str, Pose]:
    facts = lines.take(1, f"a body in {where}")[0].split()
    if len(facts) != BODY_NUMBERS:
        raise BadSample(
            f"{lines.path}: line {lines.at}: expected a body's {BODY_NUMBERS} numbers in {where}, "
            f"found {len(facts)}."
        )
    check_joints(lines.path, lines.whole_number(f"the number of joints in {where}"), (JOINTS,))
    table = lines.table(JOINTS, NUMBERS, f"joints in {where}")
    pose, state = table[:, :3], table[:, -1]
    lost = (state < lowest_state) | (pose == 0).all(axis=1)
    return facts[0], single(lines.path, np.where(lost[:, None], np.nan, pose))
