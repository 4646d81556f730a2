"""The video kind: clips of any number of frames and channels, cut into tubelets (time x space)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Num, UInt8
from torch import Tensor
from torch.nn import functional as F

from multimask.modalities.mixing import blended, pasted
from multimask.sizes import pair
from multimask.tokens import BadSample, Part, Tokens

Fit = Literal["error", "crop", "pad"]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Tubelets:
    """Cut clips into non-overlapping boxes of `tubelet` frames by `patch` pixels.

    Raw contract, either of: a tensor `(frames, channels, height, width)`, uint8 in 0..255 or float
    in 0..1; or a mapping of such `frames` and, where known, `seconds (frames,)`, their times.
    Values are standardised with `mean` and `std` (in 0..1, one number or one a channel) and laid
    out (frame, row, column, channel), channels innermost, as in VideoMAE (Tong et al., NeurIPS
    2022); `untokenize` inverts this exactly up to float rounding.

    Args:
        frames, size: what the model is built for; `encode` takes any other as well.
        patch: height and width of a tubelet, in pixels. tubelet: its length, in frames.
        fit: what to do with a clip that tubelets do not fill: "error" says so, "crop" drops the
            rest at the end, bottom and right, "pad" repeats the last frame, row and column there.
    Raises: ValueError for sizes that do not fit; BadSample for wrong channels, dtype, NaN, times.

    >>> tubelets = Tubelets(frames=4, size=(4, 8), patch=4)
    >>> tokens = tubelets(Part(torch.rand(2, 4, 3, 4, 8), torch.arange(2)))
    >>> tokens.values.shape, tokens.grid
    (torch.Size([2, 4, 96]), (2, 1, 2))
    """

    frames: int = 16
    size: int | tuple[int, int] = 224
    patch: int | tuple[int, int] = 16
    tubelet: int = 2
    channels: int = 3
    mean: float | tuple[float, ...] = IMAGENET_MEAN
    std: float | tuple[float, ...] = IMAGENET_STD
    fit: Fit = "error"

    coord_dim = 3
    """Places are (seconds, row, column) of a tubelet's centre, rows and columns in pixels. Clips
    given without times count frames instead of seconds."""

    def __post_init__(self) -> None:
        if self.fit not in ("error", "crop", "pad"):
            raise ValueError(f"Tubelets: fit={self.fit!r} must be 'error', 'crop' or 'pad'.")
        if min(self.frames, *pair(self.size), *self.box, self.channels) < 1:
            raise ValueError(
                f"Tubelets: frames={self.frames}, size={self.size}, patch={self.patch}, "
                f"tubelet={self.tubelet} and channels={self.channels} must be at least 1."
            )
        for name in ("mean", "std"):
            value = getattr(self, name)
            if not isinstance(value, int | float) and len(value) != self.channels:
                raise ValueError(
                    f"Tubelets: {name}={value} must be one number or {self.channels}, "
                    "one a channel."
                )
        if min(np.atleast_1d(self.std)) <= 0:
            raise ValueError(f"Tubelets: std={self.std} must be positive.")
        self.grid_of(self.frames, *pair(self.size))

    @property
    def box(self) -> tuple[int, int, int]:
        """Frames, rows and columns of one tubelet."""
        return (self.tubelet, *pair(self.patch))

    @property
    def token_dim(self) -> int:
        return int(np.prod(self.box)) * self.channels

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.grid_of(self.frames, *pair(self.size))

    @property
    def num_tokens(self) -> int:
        return int(np.prod(self.grid))

    def grid_of(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Tubelets along time, down and across a clip of this size."""
        clip, box = (frames, height, width), self.box
        told, tubelet = f"{frames} frames of {height}x{width} pixels", "x".join(map(str, box))
        if self.fit == "error" and any(n % side for n, side in zip(clip, box, strict=True)):
            raise ValueError(
                f"Tubelets: {told} are not divisible into {tubelet} tubelets; choose other frames, "
                "size, patch or tubelet, or say fit='crop' or fit='pad'."
            )
        if self.fit == "pad":
            times, rows, columns = (-(-n // side) for n, side in zip(clip, box, strict=True))
        else:
            times, rows, columns = (n // side for n, side in zip(clip, box, strict=True))
        if 0 in (times, rows, columns):
            raise ValueError(
                f"Tubelets: {told} are smaller than one {tubelet} tubelet; choose smaller "
                "tubelets, or say fit='pad'."
            )
        return times, rows, columns

    def __call__(self, part: Part) -> Tokens:
        clips, seconds = self.stacked(part.data)
        times, rows, columns = grid = self.grid_of(clips.shape[1], *clips.shape[3:])
        long, tall, wide = self.box
        values = rearrange(
            self.fitted(self.standardised(clips), grid),
            "r (t long) c (y tall) (x wide) -> r (t y x) (long tall wide c)",
            long=long,
            tall=tall,
            wide=wide,
        )
        if seconds is None:
            seconds = torch.arange(clips.shape[1], device=clips.device)[None] + 0.5
        seconds = self.long_enough(seconds.to(clips.device), times * long)
        moment = rearrange(seconds, "r (t long) -> r t long", long=long).float().mean(dim=2)
        down = (torch.arange(rows, device=clips.device) + 0.5) * tall
        across = (torch.arange(columns, device=clips.device) + 0.5) * wide
        shape = (len(moment), *grid)
        coords = torch.stack(
            (
                moment[:, :, None, None].expand(shape),
                down[None, None, :, None].expand(shape),
                across.expand(shape),
            ),
            dim=-1,
        )
        return Tokens(values, coords.flatten(1, 3), part.rows, grid=grid)

    def stacked(self, data: Any) -> tuple[Num[Tensor, "r t c h w"], Num[Tensor, "r t"] | None]:
        if isinstance(data, list):
            sizes = sorted({tuple(frames_of(item).shape) for item in data})
            raise ValueError(
                f"Tubelets: one batch holds clips of different shapes {sizes[:4]}; training wants "
                "one (sample and crop when reading), encode takes mixed ones."
            )
        clips = frames_of(data)
        seconds = data.get("seconds") if isinstance(data, Mapping) else None
        if clips.ndim != 5 or clips.shape[2] != self.channels:
            raise BadSample(
                f"Tubelets: expected clips of {self.channels} channels, (samples, frames, "
                f"{self.channels}, height, width), found {tuple(clips.shape)}."
            )
        return clips, seconds

    def collate(self, items: Sequence[Any]) -> Any:
        """Check each clip against the contract; stack them when they agree in shape and dtype."""
        clips = [self.checked(item) for item in items]
        timed = [clip for clip in clips if "seconds" in clip]
        if len(timed) not in (0, len(clips)):
            raise BadSample(
                f"Tubelets: {len(timed)} of {len(clips)} clips of one batch come with seconds, the "
                "others without; give all their times or none."
            )
        frames = [clip["frames"] for clip in clips]
        if len({(clip.shape, clip.dtype) for clip in frames}) != 1:
            return clips if timed else frames
        if not timed:
            return torch.stack(frames)
        seconds = torch.stack([clip["seconds"] for clip in clips])
        return {"frames": torch.stack(frames), "seconds": seconds}

    def blend(self, first: Any, second: Any, share: float) -> Any:
        """Mixup of two clips, frame by frame; `share` is the first's weight. Keeps its seconds."""
        one, two = (torch.as_tensor(frames_of(clip)) for clip in (first, second))
        return with_frames(first, blended(one, two, share))

    def paste(
        self, first: Any, second: Any, share: float, generator: torch.Generator
    ) -> tuple[Any, float]:
        """CutMix of two clips, the same box in all frames, and the share of the first left."""
        one, two = (torch.as_tensor(frames_of(clip)) for clip in (first, second))
        made, left = pasted(one, two, share, generator)
        return with_frames(first, made), left

    def blank(self, count: int) -> Float[Tensor, "r t c h w"]:
        """Clips of nothing, at the tokenizer's own length and size, times counted in frames."""
        return torch.zeros(count, self.frames, self.channels, *pair(self.size))

    def checked(self, item: Any) -> dict[str, Tensor]:
        if not isinstance(item, Mapping):
            return {"frames": self.checked_frames(torch.as_tensor(item))}
        if "frames" not in item or set(item) - {"frames", "seconds"}:
            raise BadSample(
                f"Tubelets: expected a clip's 'frames' and perhaps 'seconds', found {sorted(item)}."
            )
        clip = {"frames": self.checked_frames(torch.as_tensor(item["frames"]))}
        if "seconds" not in item:
            return clip
        seconds, count = torch.as_tensor(item["seconds"]), len(clip["frames"])
        if seconds.shape != (count,):
            raise BadSample(
                f"Tubelets: expected {count} seconds, one a frame, found {seconds.numel()}."
            )
        if not seconds.isfinite().all() or (seconds.diff() < 0).any():
            raise BadSample("Tubelets: expected finite seconds that never fall, found others.")
        return clip | {"seconds": seconds}

    def checked_frames(self, frames: Num[Tensor, "..."]) -> Num[Tensor, "t c h w"]:
        if frames.ndim != 4 or frames.shape[1] != self.channels:
            raise BadSample(
                f"Tubelets: expected a clip of shape (frames, {self.channels}, height, width), "
                f"found {tuple(frames.shape)}; say channels=... or convert it when reading."
            )
        if frames.dtype != torch.uint8 and not frames.is_floating_point():
            raise BadSample(
                f"Tubelets: expected uint8 in 0..255 or float in 0..1, found {frames.dtype}."
            )
        if frames.is_floating_point() and not frames.isfinite().all():
            count = int((~frames.isfinite()).sum())
            raise BadSample(f"Tubelets: {count} pixels are NaN or infinite.")
        return frames

    def standardised(self, clips: Num[Tensor, "r t c h w"]) -> Float[Tensor, "r t c h w"]:
        mean, std = self.statistics(clips)
        scale = 255.0 if clips.dtype == torch.uint8 else 1.0
        floats = clips if clips.is_floating_point() else clips.to(mean.dtype)
        return torch.addcmul(-mean / std, floats, 1 / (scale * std))  # (x / scale - mean) / std

    def statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std, `(channels or 1, 1, 1)`."""
        dtype = like.dtype if like.is_floating_point() else torch.float32
        mean, std = (
            torch.tensor(np.atleast_1d(x), dtype=dtype, device=like.device)[:, None, None]
            for x in (self.mean, self.std)
        )
        return mean, std

    def fitted(
        self, clips: Float[Tensor, "r t c h w"], grid: tuple[int, int, int]
    ) -> Float[Tensor, "r long c tall wide"]:
        long, tall, wide = (n * side for n, side in zip(grid, self.box, strict=True))
        if (clips.shape[1], *clips.shape[3:]) == (long, tall, wide):
            return clips
        if self.fit == "crop":
            return clips[:, :long, :, :tall, :wide]
        frames, _, height, width = clips.shape[1:]
        swapped = rearrange(clips, "r t c h w -> r c t h w")
        missing = (0, wide - width, 0, tall - height, 0, long - frames)
        return rearrange(F.pad(swapped, missing, mode="replicate"), "r c t h w -> r t c h w")

    def long_enough(self, seconds: Num[Tensor, "r t"], length: int) -> Num[Tensor, "r long"]:
        """Times of the frames that tubelets fill; a repeated last frame repeats its time."""
        last = seconds[:, -1:].expand(-1, max(0, length - seconds.shape[1]))
        return torch.cat((seconds, last), dim=1)[:, :length]

    def untokenize(self, tokens: Tokens) -> Float[Tensor, "r t c h w"]:
        """Clips in 0..1, at the size that tubelets fill."""
        if tokens.grid is None:
            raise ValueError("Tubelets: these tokens have no lattice.")
        long, tall, wide = self.box
        clips = rearrange(
            tokens.values,
            "r (t y x) (long tall wide c) -> r (t long) c (y tall) (x wide)",
            t=tokens.grid[0],
            y=tokens.grid[1],
            long=long,
            tall=tall,
            wide=wide,
        )
        mean, std = self.statistics(clips)
        return clips * std + mean

    def animation(
        self, tokens: Tokens, shown: Bool[Tensor, " n"] | None = None
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """All frames of one clip in true pixels, 0..255; tubelets not shown are mid-grey.

        One channel is drawn grey, two as red and green, more than three by their first three.
        """
        clip = self.untokenize(tokens)[0].float().cpu()
        if shown is not None:
            open_boxes = shown.cpu().reshape(tokens.grid or ())
            for axis, side in enumerate(self.box):
                open_boxes = open_boxes.repeat_interleave(side, axis)
            clip = torch.where(open_boxes[:, None], clip, torch.tensor(0.5))
        if clip.shape[1] == 1:
            clip = clip.expand(-1, 3, -1, -1)
        elif clip.shape[1] == 2:
            clip = torch.cat((clip, torch.zeros_like(clip[:, :1])), dim=1)
        pixels = (clip[:, :3].clamp(0, 1) * 255).round().to(torch.uint8)
        return rearrange(pixels, "t c h w -> t h w c").numpy()

    def picture(
        self, tokens: Tokens, shown: Bool[Tensor, " n"] | None = None
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Eight frames from first to last in two rows, fewer side by side; see `animation`."""
        frames = self.animation(tokens, shown)
        count = 8 if len(frames) >= 8 else min(4, len(frames))
        chosen = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
        return rearrange(chosen, "(row t) h w c -> (row h) (t w) c", t=min(4, count))


def frames_of(data: Any) -> Num[Tensor, "..."]:
    return data["frames"] if isinstance(data, Mapping) else data


def with_frames(data: Any, frames: Num[Tensor, "t c h w"]) -> Any:
    return {**data, "frames": frames} if isinstance(data, Mapping) else frames
