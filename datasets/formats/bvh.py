"""BVH motion capture: a tree of joints and a line of channels a frame; positions by kinematics."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from multimask.datasets.formats.files import AnyPath
from multimask.datasets.formats.motion import Motion, check_frames, single, text_of
from multimask.datasets.formats.rotations import composed
from multimask.tokens import BadSample

WHAT = "a BVH file"
CHANNELS = {f"{axis}{kind}" for axis in "xyz" for kind in ("position", "rotation")}
MAX_JOINTS = 1000


@dataclass
class Joint:
    name: str
    parent: int
    offset: list[float] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    is_end: bool = False


@dataclass(frozen=True)
class Head:
    """All before the numbers; `at` is where they start in the words of the file."""

    joints: list[Joint]
    frames: int
    rate: float
    at: int

    @property
    def channels(self) -> int:
        return sum(len(joint.channels) for joint in self.joints)


def read_bvh(path: AnyPath, ends: bool = False) -> Motion:
    """Joint positions in the file's unit, `(1, frames, joints, 3)`, with names and parents.

    Rotations are applied in the order of the channels; a joint with position channels stands where
    they say, in place of its OFFSET (exporters write the offset into them). `ends` keeps the end
    sites, named after their joint.

    Raises: BadSample for a broken hierarchy or another count of numbers than frames x channels.
    """
    words = text_of(path, WHAT).split()
    head = header(path, words)
    wanted, found = head.frames * head.channels, len(words) - head.at
    if wanted != found:
        raise BadSample(
            f"{path}: expected {head.frames:,} frames of {head.channels} numbers, found "
            f"{found:,} numbers, {found / head.channels:.2f} frames."
        )
    try:
        numbers = np.array(words[head.at :], dtype=np.float64)
    except ValueError as error:
        raise BadSample(f"{path}: expected numbers in the frames, found other text.") from error
    if not np.isfinite(numbers).all():
        raise BadSample(f"{path}: expected finite numbers in the frames, found NaN or infinite.")
    placed = positions(head.joints, numbers.reshape(head.frames, head.channels))
    kept = [index for index, joint in enumerate(head.joints) if ends or not joint.is_end]
    order = {index: place for place, index in enumerate(kept)}
    return Motion(
        single(path, placed[None, :, kept], gaps=False),
        head.rate,
        tuple(head.joints[index].name for index in kept),
        tuple(order.get(head.joints[index].parent, -1) for index in kept),
    )


def probe_bvh(path: AnyPath) -> dict[str, Any]:
    head = header(path, text_of(path, WHAT).split())
    joints = sum(not joint.is_end for joint in head.joints)
    return {"frames": head.frames, "joints": joints, "dims": 3, "rate": head.rate, "format": "BVH"}


def positions(joints: list[Joint], numbers: Float[np.ndarray, "t k"]) -> Float[np.ndarray, "t v 3"]:
    placed = np.zeros((len(numbers), len(joints), 3))
    turned = np.zeros((len(numbers), len(joints), 3, 3))
    column = 0
    for index, joint in enumerate(joints):
        values = numbers[:, column : column + len(joint.channels)]
        column += len(joint.channels)
        offset = np.tile(np.array(joint.offset), (len(numbers), 1))
        turns, axes = [], ""
        for place, channel in enumerate(joint.channels):
            if channel.endswith("position"):
                offset[:, "xyz".index(channel[0])] = values[:, place]
            else:
                turns.append(place)
                axes += channel[0]
        own = composed(axes, values[:, turns])
        if joint.parent < 0:
            placed[:, index], turned[:, index] = offset, own
            continue
        frame = turned[:, joint.parent]
        placed[:, index] = placed[:, joint.parent] + (frame @ offset[..., None])[..., 0]
        turned[:, index] = frame @ own
    return placed


def header(path: AnyPath, words: list[str]) -> Head:
    """Parse up to the first number of the first frame."""
    cursor = Cursor(path, words)
    cursor.expect("HIERARCHY")
    cursor.expect("ROOT")
    joints = hierarchy(cursor)
    cursor.expect("MOTION")
    cursor.expect("Frames:")
    frames = cursor.whole_number("the number of frames")
    check_frames(path, frames)
    cursor.expect("Frame")
    cursor.expect("Time:")
    seconds = cursor.number("the frame time in seconds")
    if seconds <= 0:
        raise BadSample(f"{path}: expected a frame time above 0 seconds, found {seconds}.")
    head = Head(joints, frames, 1 / seconds, cursor.at)
    if not head.channels:
        raise BadSample(f"{path}: expected channels, found a hierarchy that has none.")
    return head


def hierarchy(cursor: "Cursor") -> list[Joint]:
    """Joints in file order, behind the word ROOT. A loop, not recursion: depth is the file's."""
    joints, open_joints = [Joint(cursor.take("a joint's name"), -1)], [0]
    cursor.expect("{")
    while open_joints:
        joint, word = joints[open_joints[-1]], cursor.take("OFFSET, CHANNELS, JOINT, End or }")
        key = word.upper()
        if key == "OFFSET" and not joint.offset:
            joint.offset = [cursor.number("an offset") for _ in range(3)]
        elif key == "CHANNELS" and not joint.channels and not joint.is_end:
            joint.channels = channels(cursor)
        elif key in ("JOINT", "END") and not joint.is_end:
            named = cursor.take("a joint's name")
            is_end = key == "END"
            name = f"{joint.name}_end" if is_end else named
            joints.append(Joint(name, open_joints[-1], is_end=is_end))
            if len(joints) > MAX_JOINTS:
                raise BadSample(f"{cursor.path}: expected at most {MAX_JOINTS} joints.")
            cursor.expect("{")
            open_joints.append(len(joints) - 1)
        elif key == "}":
            if not joint.offset:
                raise BadSample(f"{cursor.path}: expected an OFFSET of {joint.name!r}, found none.")
            open_joints.pop()
        else:
            raise cursor.wrong("OFFSET, CHANNELS, JOINT, End or }", word)
    return joints


def channels(cursor: "Cursor") -> list[str]:
    count = cursor.whole_number("the number of channels")
    if count > 6:
        raise BadSample(f"{cursor.path}: expected at most 6 channels a joint, found {count}.")
    names = [cursor.take("a channel").lower() for _ in range(count)]
    if stray := [name for name in names if name not in CHANNELS]:
        raise cursor.wrong("Xposition ... Zrotation", stray[0])
    if len(set(names)) != len(names):
        raise BadSample(f"{cursor.path}: expected channels that differ, found {' '.join(names)}.")
    return names


class Cursor:
    """The words of a file, taken one by one."""

    def __init__(self, path: AnyPath, words: list[str]) -> None:
        self.path, self.words, self.at = path, words, 0

    def take(self, what: str) -> str:
        if self.at >= len(self.words):
            raise BadSample(f"{self.path}: expected {what}, found the end of the file (cut short).")
        self.at += 1
        return self.words[self.at - 1]

    def expect(self, word: str) -> None:
        found = self.take(word)
        if found.upper() != word.upper():
            raise self.wrong(word, found)

    def number(self, what: str) -> float:
        found = self.take(what)
        try:
            value = float(found)
        except ValueError as error:
            raise self.wrong(what, found) from error
        if not np.isfinite(value):
            raise self.wrong(what, found)
        return value

    def whole_number(self, what: str) -> int:
        found = self.take(what)
        if not (found.isascii() and found.isdigit() and len(found) < 16):
            raise self.wrong(what, found)
        return int(found)

    def wrong(self, expected: str, found: str) -> BadSample:
        return BadSample(
            f"{self.path}: word {self.at} of {WHAT}: expected {expected}, found {found[:40]!r}."
        )
