"""Pictures to look at: what a model makes of hidden tokens, and what a masker hides.

Every function returns a picture, `(height, width, 3)` uint8; `save` writes one. Pillow draws the
text, everything else is arrays. A tokenizer without `picture` is left out. Charts: `curves`.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from PIL.Image import fromarray
from PIL.ImageDraw import Draw
from PIL.ImageFont import load_default
from torch import Tensor

from multimask.buckets import taken
from multimask.curves import curves
from multimask.masking.masker import Masker
from multimask.modality import Pictures
from multimask.model import MaskedModel
from multimask.tokens import Batch, Step, Tokens

__all__ = ["answered_rows", "curves", "grid", "masks", "reconstruction_rows", "save"]

Picture = UInt8[np.ndarray, "_ _ 3"]

PAPER, BLANK, INK, FAINT = 255, 246, (30, 30, 30), (130, 130, 130)
SIDE = 112  # pixels: smaller pictures are enlarged to this, in whole steps
LARGEST = 288  # larger ones are reduced
GAP, TEXT = 6, 13


def reconstruction_rows(
    model: MaskedModel,
    batch: Batch,
    masker: Masker = Masker(),  # noqa: B008 - frozen
    step: Step = Step(),  # noqa: B008 - frozen
) -> Picture | None:
    """A row a sample; per modality the original, what the encoder saw of it, and the answer.

    Visible tokens of the answer are the true ones. Where answers could only be put back to scale
    with true statistics of the hidden tokens, the caption says so. None when no tokenizer draws.
    """
    made = model.reconstruct(batch, masker, step)
    names = [name for name in model.slots if isinstance(model.tokenizers[name], Pictures)]
    if not names:
        return None
    heads = ("original", "visible", "reconstructed")
    rows = []
    for row in range(batch.size):
        cells: list[Picture | None] = []
        for name in names:
            draw = Drawing.of(model, name, made.tokens.get(name), row)
            if draw is None:
                cells += [None] * len(heads)
                continue
            shown = made.visible[name][row]
            cells += [draw.whole(), draw.only(shown)]
            answer = Drawing.of(model, name, made.restored.get(name), row)
            cells.append(None if answer is None else answer.whole())
        rows.append(cells)
    notes = {name: "true patch statistics put back" for name in made.leaks}
    groups = [f"{name}: {notes[name]}" if name in notes else name for name in names]
    return grid(rows, heads * len(names), groups, batch.sample_ids)


def masks(
    model: MaskedModel,
    batch: Batch,
    masker: Masker = Masker(),  # noqa: B008 - frozen
    draws: int = 4,
    seed: int = 0,
) -> Picture | None:
    """A row a sample; per modality the original and what several epochs leave visible of it."""
    names = [name for name in model.slots if isinstance(model.tokenizers[name], Pictures)]
    if not names:
        return None
    tokens = model.tokenize(batch)
    context = model.context(tokens)
    seen = [
        masker(tokens.exists, Step(seed, epoch).generators(batch.sample_ids, "masking"), context)
        for epoch in range(draws)
    ]
    rows = []
    for row in range(batch.size):
        cells: list[Picture | None] = []
        for name in names:
            where = model.slots[name]
            draw = Drawing.of(model, name, tokens.modalities.get(name), row)
            if draw is None:
                cells += [None] * (draws + 1)
                continue
            blocks = [masking.visible[row, where.start : where.stop] for masking in seen]
            cells += [draw.whole(), *(draw.only(shown) for shown in blocks)]
        rows.append(cells)
    heads = ("original", *(f"epoch {epoch}" for epoch in range(draws)))
    return grid(rows, heads * len(names), names, batch.sample_ids)


def answered_rows(model: MaskedModel, batch: Batch, targets: Sequence[str]) -> Picture | None:
    """A row a sample and target: what is given, the target hidden whole; the answer; the truth.

    None when a target's tokenizer does not draw, or nothing can be answered. Samples need not have
    the target; those that have nothing else are left out.
    """
    names = [name for name in model.slots if isinstance(model.tokenizers[name], Pictures)]
    if not set(targets) <= set(names):
        return None
    rows, captions = [], []
    for target in targets:
        others = [part.rows for name, part in batch.parts.items() if name != target]
        if not others:
            continue
        given = taken(batch, torch.cat(others).unique().tolist())
        made = model.reconstruct(given, targets=[target])
        for row, sample_id in enumerate(given.sample_ids):
            cells: list[Picture | None] = []
            for name in names:
                draw = Drawing.of(model, name, made.tokens.get(name), row)
                hidden = torch.zeros(model.num_tokens[name], dtype=torch.bool)
                shown = draw and (draw.only(hidden) if name == target else draw.whole())
                cells.append(shown)
            for tokens in (made.restored, made.tokens):
                draw = Drawing.of(model, target, tokens.get(target), row)
                cells.append(draw and draw.whole())
            rows.append(cells)
            captions.append(f"{sample_id}: {target} answered from the others")
    return grid(rows, [*names, "answered", "truth"], (), captions) if rows else None


@dataclass(frozen=True)
class Drawing:
    """One sample's tokens of one modality, and who draws them."""

    tokenizer: Pictures
    tokens: Tokens

    @classmethod
    def of(cls, model: MaskedModel, name: str, tokens: Tokens | None, row: int) -> "Drawing | None":
        """None when the sample lacks the modality."""
        tokenizer = model.tokenizers[name]
        at = [] if tokens is None else (tokens.rows == row).nonzero().flatten().tolist()
        if tokens is None or not at or not isinstance(tokenizer, Pictures):
            return None
        return cls(tokenizer, one_row(tokens, at[0]))

    def whole(self) -> Picture:
        return self.tokenizer.picture(self.tokens)

    def only(self, shown: Bool[Tensor, " n"]) -> Picture:
        return self.tokenizer.picture(self.tokens, shown[: self.tokens.values.shape[1]])


def one_row(tokens: Tokens, index: int) -> Tokens:
    keep: Int[Tensor, " r"] = torch.tensor([index], device=tokens.rows.device)
    coords = tokens.coords
    return replace(
        tokens,
        values=tokens.values[keep],
        coords=coords if len(coords) == 1 else coords[keep],
        rows=tokens.rows[keep],
        valid=None if tokens.valid is None else tokens.valid[keep],
    )


# --- laying out -----------------------------------------------------------------------------------


def grid(
    rows: Sequence[Sequence[Picture | None]],
    heads: Sequence[str] = (),
    groups: Sequence[str] = (),
    names: Sequence[str] = (),
) -> Picture:
    """Pictures in rows and columns; None is marked as missing.

    heads: a caption a column. groups: captions above equal shares of the columns. names: one a
    row. Captions that do not fit are cut.
    """
    scaled = [[None if cell is None else fitted(cell) for cell in row] for row in rows]
    widths = [
        max((cell.shape[1] for cell in column if cell is not None), default=SIDE)
        for column in zip(*scaled, strict=True)
    ]
    heights = [
        max((cell.shape[0] for cell in row if cell is not None), default=SIDE) for row in scaled
    ]
    per_group = len(widths) // len(groups) if groups else 0
    lefts, left = [], GAP
    for column, width in enumerate(widths):
        if per_group and column and column % per_group == 0:
            left += 3 * GAP
        lefts.append(left)
        left += width + GAP
    line = TEXT + 5
    name_line = line if names else 0
    top = GAP + line * (bool(groups) + bool(heads))
    total = top + sum(heights) + len(heights) * (GAP + name_line)
    canvas = np.full((max(total, 1), max(left, 1), 3), PAPER, np.uint8)
    labels: list[tuple[int, int, str, int, tuple[int, int, int]]] = []
    for index in range(len(groups)):
        first, last = index * per_group, (index + 1) * per_group - 1
        span = lefts[last] + widths[last] - lefts[first]
        labels.append((lefts[first], GAP, groups[index], span, INK))
    for column, head in enumerate(heads):
        at = GAP + line * bool(groups)
        labels.append((lefts[column], at, head, widths[column], FAINT if groups else INK))
    for index, (row, height) in enumerate(zip(scaled, heights, strict=True)):
        if names:
            labels.append((GAP, top, names[index], left - 2 * GAP, FAINT))
            top += name_line
        for column, cell in enumerate(row):
            if cell is None:
                cell = np.full((height, widths[column], 3), BLANK, np.uint8)
                labels.append((lefts[column] + 4, top + 2, "missing", widths[column], FAINT))
            tall, wide = cell.shape[:2]
            canvas[top : top + tall, lefts[column] : lefts[column] + wide] = cell
        top += height + GAP
    return written(canvas, labels)


def fitted(picture: Picture) -> Picture:
    """Enlarged by repeating pixels, or reduced by averaging, to a size one can look at."""
    tall, wide = picture.shape[:2]
    if max(tall, wide) > LARGEST:
        shrink = LARGEST / max(tall, wide)
        size = (max(1, round(wide * shrink)), max(1, round(tall * shrink)))
        return np.asarray(fromarray(np.ascontiguousarray(picture)).resize(size, reducing_gap=3.0))
    times = max(1, round(SIDE / max(tall, wide)))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def written(
    canvas: Picture, labels: Sequence[tuple[int, int, str, int, tuple[int, int, int]]]
) -> Picture:
    """Text onto a canvas: (left, top, text, widest, colour) each."""
    sheet = fromarray(canvas)
    pen, font = Draw(sheet), load_default(TEXT)
    for left, top, text, widest, colour in labels:
        while len(text) > 1 and font.getlength(text) > widest:
            text = text[:-2].rstrip() + "…"
        pen.text((left, top), text, fill=colour, font=font)
    return np.asarray(sheet)


def save(picture: Picture, file: str | Path) -> None:
    """Write a PNG whole or not at all: a viewer never meets half a file."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            fromarray(np.ascontiguousarray(picture)).save(stream, "png")
        Path(temporary).chmod(0o644)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
