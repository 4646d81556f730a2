"""Where the frames of a video file are: read from its packets, without decoding any.

A packet says when its frame is shown and whether decoding can start at it. That is all that is
needed to reach any frame exactly; frame counts and durations in headers are not trusted.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Num

from multimask.datasets.formats.files import AnyPath, decoding, opened
from multimask.tokens import BadSample

WHAT = "a video"
# Demuxers that read nothing but the file itself; playlists could name other files or addresses.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,asf,flv,ogg,ivf"
HOLE = 1.5  # of the usual step between frames: a longer one near a cut is a missing frame
SOUND = 0.1  # of the duration: what may be missing at the end without being damage
REORDERED = 16  # frames that a codec may store out of order; no standard allows more


@dataclass(frozen=True, eq=False)
class Index:
    """What the packets say. Times are in units of `time_base` seconds.

    shown: when each frame is shown, ascending. keys: when those are shown that decoding can start
    at. ordered: every packet says when it is shown, no two at once. leading: some frames are
    stored behind a key frame and shown before it (an open group of pictures); started at that key
    frame, decoders get them wrong. declared: frames in the header, 0 if it does not say.
    """

    codec: str
    pixel_format: str
    height: int
    width: int
    fps: float
    time_base: float
    shown: Int[np.ndarray, " n"]
    keys: Int[np.ndarray, " k"]
    ordered: bool
    leading: bool
    declared: int
    cut_short: bool

    @property
    def eight_bit(self) -> bool:
        return not any(mark in self.pixel_format for mark in ("10", "12", "14", "16", "p9"))

    def seconds(self, frames: Int[np.ndarray, " m"]) -> np.ndarray:
        """When frames are shown, from the first on."""
        return (self.shown[frames] - self.shown[0]) * self.time_base


@contextmanager
def opened_video(path: AnyPath, max_pixels: int) -> Iterator[tuple[Any, Any]]:
    """(container, first video stream). BadSample for whatever is no video or too large."""
    import av  # its libraries are large; only those who read videos load them
    from av.error import FFmpegError

    check_file(path)
    name = f"file:{os.path.abspath(path)}"
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    with decoding(path, f"{WHAT} file"):
        container = av.open(name, options=options, metadata_errors="replace")
    with container:
        if not container.streams.video:
            raise BadSample(f"{path}: expected {WHAT}, found a file without a video stream.")
        stream = container.streams.video[0]
        context = stream.codec_context
        if context is None or context.name is None:
            raise BadSample(f"{path}: expected {WHAT}, found a codec that nothing here decodes.")
        if context.height * context.width > max_pixels:
            raise BadSample(
                f"{path}: expected frames of at most {max_pixels:,} pixels, found "
                f"{context.height:,} x {context.width:,} in the header; raise max_pixels if that "
                "is true."
            )
        try:
            yield container, stream
        except FFmpegError as error:
            raise BadSample(
                f"{path}: expected {WHAT} file, found data that cannot be read (damaged or cut "
                "short)."
            ) from error


def check_file(path: AnyPath) -> None:
    """BadSample for what is missing, empty, unreadable or no file; a pipe is not waited for."""
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise BadSample(f"{path}: expected {WHAT} file, found a pipe or device.")
    with opened(path, WHAT):
        pass


def read_index(path: AnyPath, max_pixels: int) -> Index:
    """The index of a file; kept for the files read last, as long as they do not change."""
    try:
        status = Path(path).stat()
    except OSError:
        return _read_index(path, max_pixels)  # says what is wrong with it
    return _kept(os.fspath(path), status.st_size, status.st_mtime_ns, max_pixels)


@lru_cache(maxsize=2048)
def _kept(path: str, size: int, changed: int, max_pixels: int) -> Index:
    return _read_index(path, max_pixels)


def _read_index(path: AnyPath, max_pixels: int) -> Index:
    with opened_video(path, max_pixels) as (container, stream):
        context = stream.codec_context
        shown, keys, leading, latest_key, damaged = [], [], False, None, False
        packets, unknown = 0, 0
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:
                continue
            if packet.is_corrupt:
                damaged = True
                break
            packets += 1
            if packet.pts is None:
                unknown += 1
                continue
            shown.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
                latest_key = packet.pts
            elif latest_key is None or packet.pts < latest_key:
                leading = True
        if not packets:
            raise BadSample(f"{path}: expected {WHAT}, found no frames in its video stream.")
        times = np.unique(np.asarray(shown, dtype=np.int64))
        ordered = not unknown and len(times) == packets and bool(keys)
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        declared = stream.frames or _declared(container, times * float(stream.time_base), rate)
        cut = damaged or declared > packets
        if cut and ordered:
            times = times[: before_hole(times)]
        return Index(
            codec=context.name,
            pixel_format=context.pix_fmt or "unknown",
            height=context.height,
            width=context.width,
            fps=rate,
            time_base=float(stream.time_base),
            shown=times,
            keys=np.unique(np.asarray(keys, dtype=np.int64)),
            ordered=ordered,
            leading=leading,
            declared=declared,
            cut_short=cut,
        )


def _declared(container: Any, times: np.ndarray, rate: float) -> int:
    """Frames that a duration in the header promises (Matroska counts none), 0 if it is kept, or
    if it says nothing. Sound may go on a little longer than pictures."""
    if not container.duration or not rate or not len(times):
        return 0
    promised = container.duration / 1e6
    lacking = promised - float(times[-1] - times[0]) - 1 / rate
    return round(promised * rate) if lacking > max(3 / rate, SOUND * promised) else 0


def before_hole(times: Num[np.ndarray, " n"]) -> int:
    """How many frames stand before the first gap that a cut left. Frames are stored in another
    order than shown, so a cut may take one and leave a later one."""
    if len(times) < 3:
        return len(times)
    steps = np.diff(times)
    first = max(0, len(steps) - REORDERED)
    holes = np.flatnonzero(steps[first:] > HOLE * np.median(steps))
    return first + int(holes[0]) + 1 if len(holes) else len(times)
