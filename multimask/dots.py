"""Dot charts: a named row for each thing that is compared, a dot in it for each way."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL.Image import Resampling, fromarray
from PIL.ImageDraw import Draw
from PIL.ImageFont import load_default

from multimask.curves import COLOURS, FINE, span, ticks

WIDE, ROW, HEAD, LEGEND, BOTTOM = 760, 22, 34, 18, 40  # pixels


def dots(
    rows: Mapping[str, Sequence[float | None]],
    ways: Sequence[str],
    title: str = "",
    x_label: str = "",
    line: float | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Rows of dots on one axis, one dot for each of `ways`; None is left out. line: a value that is
    marked from top to bottom, such as chance."""
    font, large = load_default(12 * FINE), load_default(15 * FINE)
    left = 24 * FINE + int(max((font.getlength(name) for name in rows), default=0))
    right = float((WIDE - 24) * FINE)
    entries = legend(ways, font, right)
    top = HEAD + LEGEND * (1 + max((line for line, _ in entries), default=0))
    height = top + ROW * len(rows) + BOTTOM
    sheet = fromarray(np.full((height * FINE, WIDE * FINE, 3), 255, np.uint8))
    pen, end = Draw(sheet), (top + ROW * len(rows)) * FINE
    known = [v for values in rows.values() for v in values if v is not None]
    low, high = span([*known, *([] if line is None else [line])])
    air = 0.04 * (high - low)
    low, high = low - air, high + air

    def across(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    for mark in ticks(low, high, wanted=8):
        pen.line((across(mark), top * FINE, across(mark), end), fill="#e6e6e6", width=FINE)
        at = (across(mark), end + 7 * FINE)
        pen.text(at, f"{mark:.4g}", fill="#333333", font=font, anchor="mt")
    if line is not None:
        pen.line((across(line), top * FINE, across(line), end), fill="#999999", width=2 * FINE)
    for index, (name, values) in enumerate(rows.items()):
        y = (top + ROW * (index + 0.5)) * FINE
        pen.text((left - 10 * FINE, y), name, fill="#333333", font=font, anchor="rm")
        pen.line((left, y, right, y), fill="#f0f0f0", width=FINE)
        for place, value in enumerate(values):
            if value is not None:
                dot(pen, across(value), y, COLOURS[place % len(COLOURS)])
    pen.text(((left + right) / 2, 6 * FINE), title, fill="black", font=large, anchor="mt")
    middle = ((left + right) / 2, (height - 6) * FINE)
    pen.text(middle, x_label, fill="#333333", font=font, anchor="ms")
    for place, (way, (row, x)) in enumerate(zip(ways, entries, strict=True)):
        y = (HEAD + LEGEND * (row + 0.3)) * FINE
        dot(pen, x + 5 * FINE, y, COLOURS[place % len(COLOURS)])
        pen.text((x + 14 * FINE, y), way, fill="#333333", font=font, anchor="lm")
    return np.asarray(sheet.resize((WIDE, height), Resampling.LANCZOS))


def legend(ways: Sequence[str], font: Any, right: float) -> list[tuple[int, float]]:
    """(line, left edge) of every entry."""
    line, x, entries = 0, 24.0 * FINE, []
    for way in ways:
        wide = 14 * FINE + font.getlength(way)
        if entries and x + wide > right:
            line, x = line + 1, 24.0 * FINE
        entries.append((line, x))
        x += wide + 16 * FINE
    return entries


def dot(pen: Any, x: float, y: float | int, colour: str) -> None:
    radius = 4 * FINE
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
