"""What can be said of a video file before it is trusted; runs in a process of its own.

Started as a program it answers, line by line in JSON, `{"path", "max_pixels"}` with one line of
facts and one that says whether decord agrees with them. A decoder that hangs or crashes on a
damaged file takes this process with it and nothing else.
"""

import json
import os
import sys
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from multimask.datasets.formats.files import AnyPath
from multimask.datasets.formats.video_decode import (
    Upright,
    frames_at,
    set_threads,
    sound_frames,
)
from multimask.datasets.formats.video_index import (
    Index,
    before_hole,
    opened_video,
    read_index,
)
from multimask.tokens import BadSample

CHECKED = 200  # frames from the start that are decoded in order
COMPARED = 8  # of them, those reached out of order and compared


def facts_of(path: AnyPath, max_pixels: int) -> dict[str, Any]:
    """What a table keeps of a file.

    codec, pixel_format, width and height (as shown), rotation (degrees, counter-clockwise), fps,
    frames (that can be read), seconds (from first to last), access (see `video_decode`), damage (a
    clause, or None).
    """
    index = read_index(path, max_pixels)
    start = _decode(path, max_pixels, CHECKED if index.ordered else None)
    if not start.times:
        raise BadSample(f"{path}: expected a video, found no frame that can be decoded.")
    rotation = start.rotation
    if not -360 <= rotation <= 360:
        raise BadSample(f"{path}: expected a video, found a rotation flag that makes no sense.")
    access = "seek" if _reached_alike(path, index, start.sums, max_pixels) else "sequential"
    if access == "seek":
        count = _readable(path, index, max_pixels) if index.cut_short else len(index.shown)
        length = float(index.seconds(np.array([count - 1]))[0]) if count else 0.0
    else:
        whole = _decode(path, max_pixels, None) if index.ordered else start
        count, length = _counted(whole.times, index)
    turned = rotation % 180 != 0
    promised = max(index.declared, count)
    return {
        "codec": index.codec,
        "pixel_format": index.pixel_format,
        "width": index.height if turned else index.width,
        "height": index.width if turned else index.height,
        "rotation": rotation,
        "fps": index.fps,
        "frames": count,
        "seconds": length,
        "access": access,
        "damage": f"{count} of {promised} frames can be read" if index.cut_short else None,
    }


@dataclass(frozen=True)
class Start:
    """What decoding in order gave: checksums of frames by when they are shown, and when that is."""

    rotation: int
    sums: dict[int, int]
    times: list[float | None]


def _decode(path: AnyPath, max_pixels: int, most: int | None) -> Start:
    """Decode the first frames in order, or all; checksums only of a limited number."""
    rotation, sums, times = 0, {}, []
    with opened_video(path, max_pixels) as (container, stream):
        set_threads(stream, 1)
        upright = Upright()
        for frame in sound_frames(container, stream):
            if not times:
                rotation = round(frame.rotation / 90) * 90
            times.append(frame.time)
            if most is not None and frame.pts is not None:
                sums[frame.pts] = zlib.crc32(upright(frame).tobytes())
            if most is not None and len(times) >= most:
                break
    return Start(rotation, sums, times)


def _reached_alike(path: AnyPath, index: Index, sums: dict[int, int], max_pixels: int) -> bool:
    """Whether frames around key frames, reached out of order, are those decoded in order."""
    numbers = [n for n, time in enumerate(index.shown.tolist()) if time in sums]
    if not index.ordered:
        return False
    if len(numbers) < min(len(index.shown), CHECKED // 2):
        return False  # the decoder shows frames at other times than the packets say
    at_keys = np.searchsorted(index.shown, index.keys)
    around = [n for key in at_keys.tolist() for n in (key + 1, key - 1, key)]
    chosen = [n for n in dict.fromkeys(around[::-1]) if n in numbers][:COMPARED]
    chosen += numbers[:: max(1, len(numbers) // COMPARED)][::-1][: COMPARED - len(chosen)]
    for number in chosen:
        try:
            (frame,), _ = frames_at(path, [number], "seek", max_pixels)
        except BadSample:
            return False
        if zlib.crc32(frame.tobytes()) != sums[int(index.shown[number])]:
            return False
    return True


def _counted(times: list[float | None], index: Index) -> tuple[int, float]:
    """Frames and seconds of a file that is read in order."""
    known = np.array([time for time in times if time is not None])
    if len(known) < len(times):
        return len(times), (len(times) - 1) / index.fps if index.fps else 0.0
    count = before_hole(known) if index.cut_short else len(known)
    return count, float(known[count - 1] - known[0])


def _readable(path: AnyPath, index: Index, max_pixels: int) -> int:
    """Frames before the first one near the cut that cannot be decoded."""
    first = max(0, len(index.shown) - 2 * 16)
    for number in range(first, len(index.shown)):
        try:
            frames_at(path, [number], "seek", max_pixels)
        except BadSample:
            return number
    return len(index.shown)


def decord_agrees(path: AnyPath, facts: dict[str, Any], max_pixels: int) -> bool:
    """Whether decord counts the same frames, and finds the same ones in shuffled order.

    It is not even asked about what it is known to get wrong: open groups of pictures, packets
    without times, deep colours, rotation, files cut short, AV1.
    """
    index = read_index(path, max_pixels)
    doubtful = index.leading or not index.ordered or not index.eight_bit or index.cut_short
    if doubtful or facts["access"] != "seek" or facts["rotation"] or "av1" in facts["codec"]:
        return False
    try:
        import decord
    except ImportError:
        return False
    decord.logging.set_level(decord.logging.QUIET)
    try:
        video = decord.VideoReader(os.fspath(path), num_threads=1)
        if len(video) != facts["frames"]:
            return False
        numbers = np.linspace(0, min(len(video), CHECKED) - 1, COMPARED).astype(int)
        shuffled = np.random.default_rng(0).permutation(np.unique(numbers)).tolist()
        theirs = [video[number].asnumpy() for number in shuffled]
    except Exception:
        return False
    ours, _ = frames_at(path, shuffled, "seek", max_pixels)
    return all(np.array_equal(one, two) for one, two in zip(ours, theirs, strict=True))


def serve() -> None:
    """Answer requests until there are none. Decoders may print, so answers have their own file."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            facts = facts_of(request["path"], request["max_pixels"])
        except BadSample as error:
            print(json.dumps({"problem": str(error)}), file=answers, flush=True)
            continue
        print(json.dumps({"facts": facts}), file=answers, flush=True)
        agrees = decord_agrees(request["path"], facts, request["max_pixels"])
        print(json.dumps({"decord": agrees}), file=answers, flush=True)


if __name__ == "__main__":
    serve()
