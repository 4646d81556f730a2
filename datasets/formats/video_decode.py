"""Frames of a video file by number, exact in any order, through PyAV or decord.

PyAV starts at the last key frame before a frame that is wanted, matches frames by the time they
are shown, and does not decode what is neither wanted nor referred to. decord reads runs of
neighbouring frames, if asked to, where a probe has found it to agree with that.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Int, UInt8

from multimask.datasets.formats.files import AnyPath, decoding
from multimask.datasets.formats.video_index import Index, opened_video, read_index
from multimask.tokens import BadSample

Access = Literal["decord", "seek", "sequential"]
"""How a file may be read: "decord" also by decord; "seek" from any key frame on; "sequential" from
its start only."""

Frame = UInt8[np.ndarray, "h w 3"]


def frames_at(
    path: AnyPath,
    wanted: Sequence[int] | Int[np.ndarray, " m"],
    access: Access,
    max_pixels: int,
    threads: int = 1,
) -> tuple[UInt8[np.ndarray, "m h w 3"], np.ndarray]:
    """RGB frames in the order asked for, turned upright, and their seconds from the first frame.

    Raises: BadSample, naming the frames that cannot be read.
    """
    order = sorted({int(number) for number in wanted})
    index = read_index(path, max_pixels)
    in_order = access == "sequential" or not index.ordered
    if order[0] < 0 or (not in_order and order[-1] >= len(index.shown)):
        count = len(index.shown)
        first, promised = max(count, order[0]), max(index.declared, count)
        raise BadSample(
            f"{path}: expected frames up to {order[-1]}, found {count} that can be read of "
            f"{promised}; frames from {first} on are missing."
        )
    if access == "decord" and _is_run(order):
        found = _by_decord(path, order, threads)
    elif in_order:
        found = _in_order(path, order, max_pixels, threads)
    else:
        found = _by_time(path, order, index, max_pixels, threads)
    missing = [number for number in order if number not in found]
    if missing:
        raise BadSample(
            f"{path}: expected {len(order)} frames from {order[0]} to {order[-1]}, found "
            f"{len(missing)} that cannot be decoded (first {missing[0]})."
        )
    if not in_order:
        seconds = index.seconds(np.asarray(wanted, dtype=np.int64))
    else:
        seconds = np.asarray([found[int(number)][1] for number in wanted])
    frames = [found[int(number)][0] for number in wanted]
    if len({frame.shape for frame in frames}) != 1:
        sizes = sorted({frame.shape[:2] for frame in frames})
        raise BadSample(f"{path}: expected frames of one size, found {sizes[:3]} within the file.")
    return np.stack(frames), seconds


Found = dict[int, tuple[Frame, float]]


def _is_run(order: list[int]) -> bool:
    return order[-1] - order[0] + 1 == len(order)


def _by_time(path: AnyPath, order: list[int], index: Index, max_pixels: int, threads: int) -> Found:
    targets = {int(index.shown[number]): number for number in order}
    found = _from_keys(path, targets, index, max_pixels, threads)
    if len(found) < len(targets):  # a demuxer that cannot seek, or damage
        missing = {time: n for time, n in targets.items() if n not in found}
        with opened_video(path, max_pixels) as (container, stream):
            set_threads(stream, threads)
            upright = Upright()
            for frame in _matching(container, stream, missing, skip=False):
                found[missing[frame.pts]] = upright(frame), 0.0
                if len(found) == len(targets):
                    break
    return found


def _from_keys(
    path: AnyPath, targets: dict[int, int], index: Index, max_pixels: int, threads: int
) -> Found:
    """Seek to a key frame, decode until the next frame wanted lies more than a key frame away."""
    found: Found = {}
    times = sorted(targets)
    group = np.searchsorted(index.keys, times, side="right") - 1
    with opened_video(path, max_pixels) as (container, stream):
        set_threads(stream, threads)
        upright = Upright()
        place = 0
        while place < len(times):
            key = index.keys[max(0, group[place])]
            try:
                container.seek(int(key), stream=stream, backward=True)
            except OSError:
                return found
            before = place
            for frame in _matching(container, stream, targets, skip=True, start=int(key)):
                if frame.pts != times[place]:
                    continue
                found[targets[frame.pts]] = upright(frame), 0.0
                place += 1
                if place == len(times) or group[place] > group[place - 1] + 1:
                    break
            if place == before:
                place += 1  # not reached from its key frame: left to the caller
    return found


def _matching(
    container: Any, stream: Any, targets: dict[int, int], skip: bool, start: int | None = None
) -> Iterator[Any]:
    """Frames whose time is wanted, in the order shown. Frames shown before the key frame that
    decoding started at may be broken and are passed over."""
    context = stream.codec_context

    def prepare(packet: Any) -> None:
        if skip and packet.pts is not None:
            context.skip_frame = "DEFAULT" if packet.pts in targets else "NONREF"

    for frame in sound_frames(container, stream, prepare):
        if frame.pts in targets and (start is None or frame.pts >= start):
            yield frame


def sound_frames(
    container: Any, stream: Any, prepare: Callable[[Any], None] | None = None
) -> Iterator[Any]:
    """Frames in the order shown, up to the first packet that was cut; broken ones are left out."""
    for packet in container.demux(stream):
        if packet.is_corrupt:
            yield from _decoded(stream.codec_context.decode, None)
            return
        if prepare is not None:
            prepare(packet)
        yield from _decoded(packet.decode)


def _decoded(decode: Callable[..., list[Any]], *args: Any) -> Iterator[Any]:
    from av.error import FFmpegError

    try:
        frames = decode(*args)
    except FFmpegError:
        return  # its frames stay missing, and whoever wanted them says so
    yield from (frame for frame in frames if not frame.is_corrupt)


def _in_order(path: AnyPath, order: list[int], max_pixels: int, threads: int) -> Found:
    """For files whose packets do not say when frames are shown, or say it wrongly: the n-th frame
    that is decoded."""
    wanted, start = set(order), 0.0
    found: Found = {}
    with opened_video(path, max_pixels) as (container, stream):
        set_threads(stream, threads)
        rate, upright = float(stream.average_rate or 1), Upright()
        for number, frame in enumerate(sound_frames(container, stream)):
            time = number / rate if frame.time is None else float(frame.time)
            start = time if number == 0 else start
            if number in wanted:
                found[number] = upright(frame), time - start
            if number >= order[-1]:
                break
    return found


def _by_decord(path: AnyPath, order: list[int], threads: int) -> Found:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    with decoding(path, "a video file"):
        video = decord.VideoReader(str(path), num_threads=max(1, threads))
        batch = video.get_batch(order)
        frames = batch.asnumpy() if hasattr(batch, "asnumpy") else np.asarray(batch)
    return {number: (frame, 0.0) for number, frame in zip(order, frames, strict=True)}


def set_threads(stream: Any, threads: int) -> None:
    stream.thread_type = "SLICE" if threads == 1 else "AUTO"
    stream.codec_context.thread_count = threads


class Upright:
    """Frames of one file as RGB, 8 bit, turned as its rotation flag says (multiples of 90 degrees).

    One for a whole file: the tables of a colour conversion take longer to make than a small picture
    takes to convert.
    """

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self.reformatter = VideoReformatter()

    def __call__(self, frame: Any) -> Frame:
        pixels = self.reformatter.reformat(frame, format="rgb24").to_ndarray()
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
