"""Dot charts: a named row for each thing that is compared, a dot in it for each way."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL.Image import Resampling, fromarray
from PIL.ImageDraw import Draw
from PIL.ImageFont import load_default

from multimask.curves import COLOURS, FINE, span, ticks

WIDE, ROW, TOP, BOTTOM = 760, 22, 52, 40  # pixels


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
    right, height = (WIDE - 24) * FINE, TOP + ROW * len(rows) + BOTTOM
    sheet = fromarray(np.full((height * FINE, WIDE * FINE, 3), 255, np.uint8))
    pen, end = Draw(sheet), (TOP + ROW * len(rows)) * FINE
    known = [v for values in rows.values() for v in values if v is not None]
    low, high = span([*known, *([] if line is None else [line])])
    air = 0.04 * (high - low)
    low, high = low - air, high + air

    def across(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    for mark in ticks(low, high, wanted=8):
        pen.line((across(mark), TOP * FINE, across(mark), end), fill="#e6e6e6", width=FINE)
        at = (across(mark), end + 7 * FINE)
        pen.text(at, f"{mark:.4g}", fill="#333333", font=font, anchor="mt")
    if line is not None:
        pen.line((across(line), TOP * FINE, across(line), end), fill="#999999", width=2 * FINE)
    for index, (name, values) in enumerate(rows.items()):
        y = (TOP + ROW * (index + 0.5)) * FINE
        pen.text((left - 10 * FINE, y), name, fill="#333333", font=font, anchor="rm")
        pen.line((left, y, right, y), fill="#f0f0f0", width=FINE)
        for place, value in enumerate(values):
            if value is not None:
                dot(pen, across(value), y, COLOURS[place % len(COLOURS)])
    pen.text(((left + right) / 2, 6 * FINE), title, fill="black", font=large, anchor="mt")
    middle = ((left + right) / 2, (height - 6) * FINE)
    pen.text(middle, x_label, fill="#333333", font=font, anchor="ms")
    x = float(left)
    for place, way in enumerate(ways):
        dot(pen, x + 5 * FINE, (TOP - 12) * FINE, COLOURS[place % len(COLOURS)])
        pen.text((x + 14 * FINE, (TOP - 12) * FINE), way, fill="#333333", font=font, anchor="lm")
        x += 30 * FINE + font.getlength(way)
    return np.asarray(sheet.resize((WIDE, height), Resampling.LANCZOS))


def dot(pen: Any, x: float, y: float, colour: str) -> None:
    radius = 4 * FINE
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
