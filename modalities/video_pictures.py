"""Moving pictures of what a model made of clips: frames side by side, written as animated GIF."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from multimask.masking import Masker
from multimask.modalities.video import Tubelets
from multimask.model import MaskedModel
from multimask.tokens import Batch, Step, Tokens

Frames = UInt8[np.ndarray, "t _ _ 3"]
SMALLEST = 128  # pixels: smaller clips are enlarged to this height, in whole steps


def reconstructed_clips(
    model: MaskedModel,
    batch: Batch,
    masker: Masker = Masker(),  # noqa: B008 - frozen
    step: Step = Step(),  # noqa: B008 - frozen
) -> Frames:
    """A row a clip: the original, what the encoder saw of it, and the answer, all frames of each.

    Visible tubelets of the answer are the true ones. Raises: ValueError for a batch without clips.
    """
    made = model.reconstruct(batch, masker, step)
    rows = []
    for name, tokens in made.tokens.items():
        tokenizer = model.tokenizers[name]
        if not isinstance(tokenizer, Tubelets) or name not in made.restored:
            continue
        for row, sample in enumerate(tokens.rows.tolist()):
            whole, answer = one_row(tokens, row), one_row(made.restored[name], row)
            shown = made.visible[name][sample][: whole.values.shape[1]]
            clips = (
                tokenizer.animation(whole),
                tokenizer.animation(whole, shown),
                tokenizer.animation(answer),
            )
            rows.append(beside([enlarged(clip) for clip in clips]))
    if not rows:
        raise ValueError("reconstructed_clips: the batch holds no clips that can be drawn.")
    line = np.full((len(rows[0]), 2, rows[0].shape[2], 3), 255, np.uint8)
    return np.concatenate([part for row in rows for part in (line, row)][1:], axis=1)


def one_row(tokens: Tokens, row: int) -> Tokens:
    keep = slice(row, row + 1)
    coords = tokens.coords if len(tokens.coords) == 1 else tokens.coords[keep]
    valid = None if tokens.valid is None else tokens.valid[keep]
    return replace(
        tokens, values=tokens.values[keep], coords=coords, rows=tokens.rows[keep], valid=valid
    )


def enlarged(clip: Frames) -> Frames:
    """Small clips made large enough to look at, by repeating pixels."""
    times = max(1, round(SMALLEST / clip.shape[1]))
    return clip.repeat(times, axis=1).repeat(times, axis=2)


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
