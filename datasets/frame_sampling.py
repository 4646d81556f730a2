"""Which frames of a clip a sample shows: at a stride, spread evenly, or all of them.

A sampler is called with the number of frames there are and answers with frame numbers, one row a
clip. With a generator the choice is random, without one it is deterministic.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from torch import Generator


@runtime_checkable
class FrameSampler(Protocol):
    """`(clips, frames)` numbers in 0..count-1, ascending within a clip."""

    @property
    def clips(self) -> int: ...
    def __call__(
        self, count: int, generator: Generator | None = None
    ) -> Int[np.ndarray, "clips t"]: ...


@dataclass(frozen=True)
class Strided:
    """`frames` frames, every `stride`-th, from a random start; stride 1 is dense sampling.

    Without a generator `clips` windows stand evenly spread from first to last frame; a single one
    in the middle. A file shorter than the window repeats the last frame it can reach (VideoMAE,
    Tong et al., NeurIPS 2022: 16 frames, stride 4).

    >>> Strided(3, stride=2)(9).tolist(), Strided(3, stride=2)(4).tolist()
    ([[2, 4, 6]], [[0, 2, 2]])
    """

    frames: int = 16
    stride: int = 4
    clips: int = 1

    def __post_init__(self) -> None:
        if min(self.frames, self.stride, self.clips) < 1:
            raise ValueError(
                f"Strided: frames={self.frames}, stride={self.stride} and clips={self.clips} "
                "must be at least 1."
            )

    def __call__(
        self, count: int, generator: Generator | None = None
    ) -> Int[np.ndarray, "clips t"]:
        offsets = np.arange(self.frames) * self.stride
        spare = max(0, count - 1 - offsets[-1])
        if generator is not None:
            starts = torch.randint(spare + 1, (self.clips,), generator=generator).numpy()
        elif self.clips == 1:
            starts = np.array([spare // 2])
        else:
            starts = np.linspace(0, spare, self.clips).round().astype(np.int64)
        reach = (count - 1) // self.stride * self.stride
        return starts[:, None] + np.minimum(offsets, reach)


@dataclass(frozen=True)
class Uniform:
    """The file cut into `frames` equal parts, a frame of each: its middle, or a random one (TSN,
    Wang et al., ECCV 2016). Files with fewer frames repeat some.

    >>> Uniform(4)(16).tolist()
    [[2, 6, 10, 14]]
    """

    frames: int = 16
    clips: int = 1

    def __post_init__(self) -> None:
        if min(self.frames, self.clips) < 1:
            raise ValueError(
                f"Uniform: frames={self.frames} and clips={self.clips} must be at least 1."
            )

    def __call__(
        self, count: int, generator: Generator | None = None
    ) -> Int[np.ndarray, "clips t"]:
        shape = (self.clips, self.frames)
        if generator is not None:
            inside = torch.rand(shape, generator=generator, dtype=torch.float64).numpy()
        else:  # one clip takes the middles, several are spread around them
            inside = np.broadcast_to((np.arange(self.clips) + 0.5)[:, None] / self.clips, shape)
        place = (np.arange(self.frames) + inside) * count / self.frames
        return np.minimum(place.astype(np.int64), count - 1)


@dataclass(frozen=True)
class Every:
    """All frames, or every `stride`-th, of the whole file: for packing. At most `most`."""

    stride: int = 1
    most: int = 10_000

    clips = 1

    def __post_init__(self) -> None:
        if min(self.stride, self.most) < 1:
            raise ValueError(
                f"Every: stride={self.stride} and most={self.most} must be at least 1."
            )

    def __call__(
        self, count: int, generator: Generator | None = None
    ) -> Int[np.ndarray, "clips t"]:
        # cut before it is made: a header may claim any number of frames
        return np.arange(0, min(count, self.most * self.stride), self.stride)[None]
