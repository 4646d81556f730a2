"""What a motion file holds, and what its readers share: text of bounded size, bodies over time."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num

from multimask.datasets.formats.files import AnyPath, opened
from multimask.tokens import BadSample

MAX_FRAMES = 100_000  # an hour at 30 frames a second
MAX_BYTES = 2**29

Pose = Float[np.ndarray, "v c"]


@dataclass(frozen=True)
class Motion:
    """data: `(bodies, frames, joints, dims)` float32 in the file's unit, NaN where a joint is not
    known. rate: frames per second, None where the file does not say. joints, parents: names and
    tree (-1 for the root), empty where the format has its own fixed order."""

    data: Float[np.ndarray, "m t v c"]
    rate: float | None = None
    joints: tuple[str, ...] = ()
    parents: tuple[int, ...] = ()


def text_of(path: AnyPath, what: str, max_bytes: int = MAX_BYTES) -> str:
    """A whole text file. `what` names it: "an NTU skeleton file".

    Raises: BadSample for what cannot be opened, is no plain file, is larger than max_bytes, or is
    no text.
    """
    check_plain(path, what)
    with opened(path, what) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise BadSample(
                f"{path}: expected {what} of at most {max_bytes:,} bytes, found {size:,}."
            )
        raw = file.read(max_bytes + 1)
    if raw[:1] == b"\x80" or b"\0" in raw:
        found = "a pickle or other binary data" if raw[:1] == b"\x80" else "binary data"
        raise BadSample(f"{path}: expected {what}, found {found}.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")  # comments of older motion files; numbers are ASCII


def single(
    path: AnyPath, data: Num[np.ndarray, "..."], gaps: bool = True
) -> Float[np.ndarray, "..."]:
    """As float32. Raises BadSample for what is infinite, or becomes so; NaN only with `gaps`."""
    with np.errstate(over="ignore"):
        data = data.astype(np.float32)
    wrong = np.isinf(data) if gaps else ~np.isfinite(data)
    if wrong.any():
        raise BadSample(
            f"{path}: expected finite coordinates, found {int(wrong.sum()):,} of {data.size:,} "
            "infinite or too large."
        )
    return data


def check_plain(path: AnyPath, what: str) -> None:
    """A pipe would wait for ever, a device never end."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return  # `opened` says what is wrong
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise BadSample(f"{path}: expected {what}, found a pipe or device.")


def check_frames(path: AnyPath, count: int, most: int = MAX_FRAMES) -> None:
    if not 1 <= count <= most:
        raise BadSample(f"{path}: expected 1 to {most:,} frames, found {count:,}.")


def check_joints(path: AnyPath, found: int, wanted: Sequence[int]) -> None:
    if found not in wanted:
        expected = " or ".join(map(str, wanted))
        raise BadSample(f"{path}: expected {expected} joints, found {found}.")


@dataclass
class Track:
    """One body through time, while a file is being read."""

    name: str | None
    poses: dict[int, Pose]

    @property
    def last(self) -> int:
        return max(self.poses)


def linked(frames: Sequence[Sequence[tuple[str | None, Pose]]]) -> Float[np.ndarray, "m t v c"]:
    """Bodies, as they are listed frame by frame, put in rows: a row is one body through time.

    A body goes on under its id. One whose id is new (trackers rename people, some name nobody)
    continues the nearest row that is not in this frame, if its joints have moved by less than half
    the body's own size on average; else it begins a row of its own. Rows come in order of first
    appearance; NaN where a body is not in a frame.
    """
    tracks: list[Track] = []
    for frame, bodies in enumerate(frames):
        free = list(tracks)
        left: list[tuple[str | None, Pose]] = []
        for name, pose in bodies:
            same = next((track for track in free if name is not None and track.name == name), None)
            if same is None:
                left.append((name, pose))
            else:
                same.poses[frame] = pose
                free = [track for track in free if track is not same]
        present = {name for name, _ in bodies if name is not None}
        for name, pose in left:
            # a row whose own id is still to come in this frame is not up for adoption
            open_rows = [track for track in free if track.name is None or track.name not in present]
            near = nearest(pose, open_rows)
            if near is None:
                tracks.append(Track(name, {frame: pose}))
            else:
                near.name, near.poses[frame] = name, pose
                free = [track for track in free if track is not near]
    shape = next(iter(tracks[0].poses.values())).shape
    data = np.full((len(tracks), len(frames), *shape), np.nan, dtype=np.float32)
    for row, track in enumerate(tracks):
        for frame, pose in track.poses.items():
            data[row, frame] = pose
    return data


def nearest(pose: Pose, tracks: Sequence[Track]) -> Track | None:
    best, least = None, 0.5 * size_of(pose)
    for track in tracks:
        moved = np.linalg.norm(pose - track.poses[track.last], axis=1)
        moved = moved[np.isfinite(moved)]
        if len(moved) and moved.mean() < least:
            best, least = track, float(moved.mean())
    return best


def size_of(pose: Pose) -> float:
    """Diagonal of the box around the known joints."""
    known = pose[np.isfinite(pose).all(axis=1)]
    return float(np.linalg.norm(np.ptp(known, axis=0))) if len(known) else 0.0
