"""Made clips of one thing that moves: an example that two cores learn in minutes.

A disc or a square, dark or bright, goes one of four ways over noise, and what leaves on one side
comes back on the other. So every place is equally likely in every frame whatever the way, and
neither one frame nor a mean tells it; nor does a linear map of all pixels tell a way from the
opposite one, for dark things cancel bright ones. No evidence about real video.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Generator

from multimask.datasets.synthetic_video import cached, clip_table
from multimask.datasets.table import Table
from multimask.tokens import sample_generator

WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # of columns, of rows
SPEED = (0.06, 0.1)  # of a frame's side, a frame
RADIUS = (0.125, 0.19)  # of a frame's side
CONTRAST = (0.25, 0.45)  # against mid-grey, of the range from black to white
NOISE = 0.05
VERSION = 1  # of what is drawn: part of the cache's name


def moving_shapes(
    seed: int = 0,
    train: int = 2400,
    test: int = 800,
    frames: int = 16,
    size: int = 32,
    folder: str | Path | None = None,
) -> Table:
    """Clips as files: `video`, `label` (one of four ways), `split`.

    The files are made once, about a hundred clips a second on one core, and kept below the user's
    cache folder (`XDG_CACHE_HOME`) or in `folder`. The reader takes every frame.
    """
    rows = [("train", number) for number in range(train)]
    rows += [("test", number) for number in range(test)]
    ways = [list(WAYS)[number % len(WAYS)] for _, number in rows]

    def film(row: int) -> UInt8[np.ndarray, "t h w 3"]:
        split, number = rows[row]
        generator = sample_generator(seed, 0, f"{split}/{number}", "moving shape")
        return moved(ways[row], frames, size, generator)

    told = (VERSION, seed, train, test, frames, size)
    root = folder or cached("moving-shapes", told)
    return clip_table(root, rows, {"label": ways}, film, frames, size)


def moved(way: str, frames: int, size: int, generator: Generator) -> UInt8[np.ndarray, "t h w 3"]:
    """One clip, grey; everything but the way is drawn at random."""
    draw = torch.rand(8, generator=generator).tolist()
    speed, radius, contrast = (
        low + (high - low) * part
        for (low, high), part in zip((SPEED, RADIUS, CONTRAST), draw[:3], strict=True)
    )
    time, axis = torch.arange(frames), torch.arange(size) + 0.5
    across, down = (
        (axis - size * (start + speed * step * time[:, None] - 0.5)) % size - size / 2
        for start, step in zip(draw[3:5], WAYS[way], strict=True)
    )
    across, down = across.abs()[:, None, :], down.abs()[:, :, None]
    round_ = draw[5] < 0.5
    reach = torch.hypot(across, down) if round_ else 1.1 * torch.maximum(across, down)
    inside = torch.sigmoid((radius * size - reach) / (size / 64))
    noise = NOISE * torch.randn(frames, size, size, generator=generator)
    grey = 0.5 + (contrast if draw[6] < 0.5 else -contrast) * inside + noise
    pixels = (grey.clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels[..., None].expand(-1, -1, -1, 3).numpy()
