"""The video reader: a file or folder of frames to one clip, in the raw contract of tokenizers."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int, UInt8
from torch import Generator, Tensor

from multimask.datasets.formats.animations import (
    animation_facts,
    animation_frames,
    folder_facts,
    folder_frames,
)
from multimask.datasets.formats.files import AnyPath, opened
from multimask.datasets.formats.video_decode import frames_at
from multimask.datasets.formats.video_index import check_file
from multimask.datasets.formats.video_probe import Prober
from multimask.datasets.frame_sampling import FrameSampler, Strided
from multimask.datasets.transforms import MultiScaleCrop, ResizeCrop, Transform, pair
from multimask.tokens import BadSample

MAX_BYTES = 2**31  # of one clip in memory, before it is cropped
PROBER = Prober()


@dataclass(frozen=True)
class VideoReader:
    """Reads a clip as `{"frames": (frames, 3, height, width) uint8, "seconds": (frames,)}`, without
    seconds where a folder's rate is not known.

    MP4, MOV, MKV, WebM, AVI, MPEG and others (any codec of FFmpeg: H.264, HEVC, MPEG-4, VP9, AV1),
    animated GIF, WebP and PNG, and folders with one picture a frame. Content decides, not the
    name. Rotation flags are applied, deep colours become 8 bit, seconds count from the first frame.

    Each file is probed once, by decoding its start in a child process with a time limit: whether
    its frames can be reached out of order, and whether decord agrees with PyAV about them. What
    cannot be trusted is read from the start by PyAV. `probe` returns the verdict; a table
    keeps it and gives it back to `read_known`. `read` has it found once a process.

    Args:
        frames: which frames a sample shows (see `datasets.frame_sampling`).
        transform: crops and resizes all frames alike (see `datasets.transforms`).
        rate: frames per second of folders, which do not say; without it they give no seconds.
        partial: use what can be read of a file that is cut short (its `damage` is among the
            facts); False refuses it.
        decord: read runs of neighbouring frames by decord where the probe found that it agrees.
            PyAV was the faster one at every size that was measured.
        threads: of the decoder; 0 lets it choose.
        grey: one channel, the luminance, instead of three.
        max_pixels: of a frame (height x width), checked before decoding.
    A packed clip, as this gives it, is read again: other frames and crops of it.
    Raises: BadSample, one sentence, for whatever is wrong with a file.
    """

    frames: FrameSampler = Strided()  # noqa: RUF009 - frozen
    transform: Transform | None = None
    rate: float | None = None
    partial: bool = True
    decord: bool = False
    threads: int = 1
    grey: bool = False
    max_pixels: int = 8192 * 8192

    packs_as = "arrays"
    rereads = True
    suffixes = (
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"),
        *(".ts", ".wmv", ".flv", ".ogv", ".3gp", ".gif"),
    )
    """What a folder's files must end in (any case) to be taken for clips."""

    def __post_init__(self) -> None:
        if self.rate is not None and self.rate <= 0:
            raise ValueError(f"VideoReader: rate={self.rate} must be positive, or None.")
        if self.threads < 0 or self.max_pixels < 1:
            raise ValueError(
                f"VideoReader: threads={self.threads} must not be negative and "
                f"max_pixels={self.max_pixels} at least 1."
            )

    @classmethod
    def fitted(cls, tokenizer: Any, augment: bool = False) -> "VideoReader":
        """The reader that gives a tokenizer of clips its `frames` and `size`: every fourth frame,
        from a random start and in VideoMAE's crops to train on (`augment`), else the middle."""
        size = pair(tokenizer.size)
        crop = MultiScaleCrop(size) if augment else ResizeCrop(size, interpolation="bilinear")
        return cls(Strided(tokenizer.frames, 4), crop, grey=tokenizer.channels == 1)

    def probe(self, source: AnyPath) -> dict[str, Any]:
        """What a table keeps of a clip: codec, width and height as shown, rotation, fps, frames,
        seconds (from first to last), access, damage."""
        if os.path.isdir(source):
            return folder_facts(source, self.rate, self.max_pixels)
        if is_picture(source):
            return animation_facts(source, self.max_pixels)
        facts = PROBER(source, self.max_pixels)
        if facts["damage"] and not self.partial:
            raise BadSample(f"{source}: expected a whole video, found that {facts['damage']}.")
        return facts

    def read(
        self, source: AnyPath | Mapping[str, Any], generator: Generator | None = None
    ) -> dict[str, Tensor]:
        """One clip; frames and crop are drawn from the generator. ValueError where the sampler
        makes several clips: see `read_clips`."""
        return self.read_known(source, {}, generator)

    def read_known(
        self,
        source: AnyPath | Mapping[str, Any],
        facts: Mapping[str, Any],
        generator: Generator | None = None,
    ) -> dict[str, Tensor]:
        """`read` of a file whose facts are known: what `probe` said of it once."""
        if self.frames.clips != 1:
            raise ValueError(
                f"VideoReader: {self.frames} makes {self.frames.clips} clips of a file, and a "
                "sample is one; use read_clips."
            )
        return self.read_clips(source, facts, generator)[0]

    def read_clips(
        self,
        source: AnyPath | Mapping[str, Any],
        facts: Mapping[str, Any] | None = None,
        generator: Generator | None = None,
    ) -> list[dict[str, Tensor]]:
        """All clips that the sampler makes of one file, each as `read` gives it."""
        if isinstance(source, Mapping):
            count, _, height, width = source["frames"].shape
            size = height, width
        else:
            facts = facts if facts and "frames" in facts else self.probe(source)
            count, size = facts["frames"], (facts["height"], facts["width"])
        numbers = self.frames(count, generator)
        if (needed := len(np.unique(numbers)) * size[0] * size[1] * 3) > MAX_BYTES:
            raise BadSample(
                f"{source}: expected a clip of at most {MAX_BYTES:,} bytes, found {needed:,} for "
                f"{len(np.unique(numbers)):,} frames of {size[0]} x {size[1]}; ask for fewer."
            )
        crop = self.transform(*size, generator) if self.transform else None
        every, place = np.unique(numbers, return_inverse=True)
        if isinstance(source, Mapping):
            first, last = int(every[0]), int(every[-1])
            window = {name: part[first : last + 1] for name, part in source.items()}
            clip = torch.as_tensor(window["frames"])[torch.from_numpy(every - first)]
            seconds = np.asarray(window["seconds"])[every - first] if "seconds" in window else None
        else:
            pixels, seconds = self.frames_at(source, every, facts)
            clip = rearrange(torch.from_numpy(pixels), "t h w c -> t c h w")
            clip = luminance(clip) if self.grey else clip
        if clip.shape[2:] != size:
            raise BadSample(
                f"{source}: expected frames of {size[0]} x {size[1]} as when it was probed, found "
                f"{clip.shape[2]} x {clip.shape[3]}."
            )
        if crop is not None:  # frames are cut as channels of one picture, all alike
            flat = crop.cut(rearrange(clip, "t c h w -> (t c) h w"))
            clip = rearrange(flat, "(t c) h w -> t c h w", t=len(every))
        rows = torch.from_numpy(place.reshape(numbers.shape))
        if seconds is None:
            return [{"frames": clip[row].contiguous()} for row in rows]
        times = torch.from_numpy(seconds)
        return [{"frames": clip[row].contiguous(), "seconds": times[row]} for row in rows]

    def frames_at(
        self,
        source: AnyPath,
        numbers: Sequence[int] | Int[np.ndarray, " m"],
        facts: Mapping[str, Any] | None = None,
    ) -> tuple[UInt8[np.ndarray, "m h w 3"], np.ndarray | None]:
        """These frames in this order, whole, and their seconds; exact whatever the order."""
        if len(numbers) == 0:
            raise ValueError("VideoReader: frames_at was asked for no frames.")
        if os.path.isdir(source):
            return folder_frames(source, numbers, self.rate, self.max_pixels)
        if is_picture(source):
            return animation_frames(source, numbers, self.max_pixels)
        access = (facts or self.probe(source))["access"]
        if access == "decord" and not self.decord:
            access = "seek"
        return frames_at(source, numbers, access, self.max_pixels, self.threads)


def luminance(clip: UInt8[Tensor, "t 3 h w"]) -> UInt8[Tensor, "t 1 h w"]:
    """Grey frames, by the weights of ITU-R BT.601."""
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    return (clip * weights).sum(dim=1, keepdim=True).round().to(torch.uint8)


def is_picture(path: AnyPath) -> bool:
    """Whether a file starts like a picture that may be animated."""
    check_file(path)
    with opened(path, "a video") as file:
        start = file.read(12)
    return start.startswith((b"GIF8", b"\x89PNG")) or (start[:4], start[8:]) == (b"RIFF", b"WEBP")
