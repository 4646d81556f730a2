"""Moving pictures of what a model made of a clip: frames side by side, written as animated GIF."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

Frames = UInt8[np.ndarray, "t h _ 3"]


def beside(clips: Sequence[Frames], gap: int = 2) -> Frames:
    """Clips of equal length and height next to each other, with white lines between them."""
    if len({clip.shape[:2] for clip in clips}) != 1:
        raise ValueError(
            "beside: clips must agree in frames and height, found "
            f"{sorted({clip.shape[:2] for clip in clips})}."
        )
    line = np.full((*clips[0].shape[:2], gap, 3), 255, np.uint8)
    parts = [part for clip in clips for part in (line, clip)][1:]
    return np.concatenate(parts, axis=2)


def save_gif(path: str | Path, frames: Frames, seconds: float = 1.0) -> None:
    """An endless animated GIF that takes `seconds` from first to last frame."""
    from PIL import Image  # only those who draw need it

    if len(frames) < 1 or seconds <= 0:
        raise ValueError(f"save_gif: {len(frames)} frames in {seconds} seconds cannot be shown.")
    first, *rest = (Image.fromarray(frame) for frame in frames)
    step = max(20, round(1000 * seconds / len(frames)))  # viewers slow down what is faster
    first.save(path, format="GIF", save_all=True, append_images=rest, duration=step, loop=0)
