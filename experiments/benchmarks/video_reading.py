"""Our video reader against decord alone, and packed clips against decoding: the same frames of the
same files, paired.

Clips are encoded here (H.264, a photograph under a moving camera, 300 frames). Both sides open the
file anew for every clip, as a shuffled loader does, and must return equal pixels before anything
is timed. A ratio above 1 says that ours is faster.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from PIL import Image

from multimask.cli.flags import run
from multimask.datasets.formats.video_write import write_clip
from multimask.datasets.formats.videos import VideoReader
from multimask.datasets.frame_sampling import Strided
from multimask.datasets.table import Table
from multimask.datasets.transforms import ResizeCrop

FRAMES = 300
SIZES = {"320x240": (240, 320), "1280x720": (720, 1280)}
SAMPLINGS: dict[str, Callable[[random.Random], list[int]]] = {
    "uniform 16": lambda draw: [int((part + 0.5) * FRAMES / 16) for part in range(16)],
    "dense 16": lambda draw: run_of(draw, 1),
    "stride 4": lambda draw: run_of(draw, 4),
}


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Config:
    """Time our video reader against decord."""

    sizes: Annotated[tuple[str, ...], f"which of {', '.join(SIZES)}"] = tuple(SIZES)
    gops: Annotated[tuple[int, ...], "frames from one key frame to the next"] = (30, 250)
    clips: Annotated[int, "clips of each kind"] = 9
    threads: Annotated[int, "of the decoders, on both sides"] = 1
    clock: Annotated[
        Literal["wall", "cpu"], "what is timed; cpu (of all threads) stands noise of other programs"
    ] = "wall"

    def __post_init__(self) -> None:
        unknown = [name for name in self.sizes if name not in SIZES]
        if unknown:
            raise ValueError(f"no size is named {', '.join(unknown)}; sizes are {', '.join(SIZES)}")
        if min(self.clips, self.threads, *self.gops) < 1:
            raise ValueError("clips, threads and gops must be at least 1")


def main(config: Config) -> None:
    import decord

    print(f"decord {decord.__version__}, {config.threads} threads; ratio = decord / ours")
    print("size      keys  sampling      ours ms  decord ms   ratio (min - max)")
    with tempfile.TemporaryDirectory() as folder:
        for name in config.sizes:
            for gop in config.gops:
                path = Path(folder) / f"{name}-{gop}.mp4"
                options = {"preset": "veryfast"}
                write_clip(path, camera(*SIZES[name]), 30, options=options, gop=gop)
                for sampling in SAMPLINGS:
                    line = one(path, sampling, config)
                    print(f"{name:9s} {gop:4d}  {sampling:12s} {line}", flush=True)
        print("packed: clips of 16 frames, 224 pixels, from a store against decoding and cropping")
        for name in config.sizes:
            for gop in config.gops:
                line = packed(Path(folder) / f"{name}-{gop}.mp4", config)
                print(f"{name:9s} {gop:4d}  {'stride 4':12s} {line}", flush=True)


def packed(path: Path, config: Config) -> str:
    """Both give the same pixels: the middle of the clip, as a store keeps it for training."""
    reader = VideoReader(Strided(16, 4), ResizeCrop(224), threads=config.threads)
    table = Table.of({"video": [path.name]}, {"video": reader}, path.parent)
    _, table = table.check(workers=1)
    store = table.pack(path.with_suffix(".zarr"))
    clock, ours, decoding = CLOCKS[config.clock], [], []
    for _ in range(config.clips + 1):
        start = clock()
        expected = table[0]["video"]["frames"]
        middle = clock()
        found = store[0]["video"]["frames"]
        end = clock()
        assert found.equal(expected), f"{path.name}: the store holds other pixels"
        decoding.append(middle - start)
        ours.append(end - middle)
    return told(ours[1:], decoding[1:])


def one(path: Path, sampling: str, config: Config) -> str:
    import decord

    reader = VideoReader(threads=config.threads)
    facts, draw = reader.probe(path), random.Random(0)
    ours, theirs = [], []
    clock = CLOCKS[config.clock]
    for _ in range(config.clips + 1):
        wanted = SAMPLINGS[sampling](draw)
        start = clock()
        video = decord.VideoReader(str(path), num_threads=config.threads)
        expected = video.get_batch(wanted).asnumpy()
        middle = clock()
        frames, _ = reader.frames_at(path, wanted, facts)
        end = clock()
        assert np.array_equal(frames, expected), f"{path.name}: other pixels than decord's"
        ours.append(end - middle)
        theirs.append(middle - start)
    return told(ours[1:], theirs[1:])  # the first opens warm caches


def told(ours: list[float], theirs: list[float]) -> str:
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return (
        f"{1e3 * statistics.median(ours):8.1f}  {1e3 * statistics.median(theirs):9.1f}   "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
    )


def run_of(draw: random.Random, stride: int) -> list[int]:
    start = draw.randrange(FRAMES - 16 * stride)
    return list(range(start, start + 16 * stride, stride))


def camera(height: int, width: int) -> Iterator[np.ndarray]:
    """A photograph of scikit-learn's under a camera that wanders."""
    from sklearn.datasets import load_sample_images

    photograph = Image.fromarray(load_sample_images().images[0])
    whole = np.asarray(photograph.resize((width * 3 // 2, height * 3 // 2)))
    for number in range(FRAMES):
        top = int((np.sin(0.02 * number) + 1) * height * 0.24)
        left = int((np.cos(0.026 * number) + 1) * width * 0.24)
        yield whole[top : top + height, left : left + width]


if __name__ == "__main__":
    raise SystemExit(run(main, Config))
