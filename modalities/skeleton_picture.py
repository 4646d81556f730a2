"""Stick figures: how a clip of joints looks."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from multimask.modalities.skeleton_topologies import Topology

Up = Literal["y", "-y", "z"]

PANEL = 96  # pixels, of an instant; figures keep their proportions
ACROSS = 3  # instants a row; in one row all six would be reduced beyond recognition
SMOOTH = 2  # drawn larger, then reduced
COLOURS = {"left": (31, 105, 196), "right": (208, 58, 44), "middle": (70, 70, 70)}
TINTS = (0.0, 0.45, 0.6, 0.7)  # how much paler the second, third, ... body is


def stick_figures(
    clip: Float[np.ndarray, "m t v c"],
    shown: Bool[np.ndarray, "m t v"],
    topology: Topology,
    up: Up = "y",
    instants: int = 6,
) -> UInt8[np.ndarray, "h w 3"]:
    """Evenly spaced frames in rows of three, seen from the front (x to the right, `up` up).

    All panels have one scale; each is centred on what is known of its frame, so that somebody who
    walks stays in view. The ruler at the lower left is one unit long. Unknown joints are NaN.
    """
    flat = np.stack((clip[..., 0], upward(clip, up)), axis=-1)
    frames = np.unique(np.linspace(0, flat.shape[1] - 1, instants).round().astype(int))
    reach = max(extent(flat[:, frame]) for frame in frames)
    scale = 0.86 * PANEL * SMOOTH / max(reach, 1e-9)
    side = PANEL * SMOOTH
    columns, rows = min(ACROSS, len(frames)), -(-len(frames) // ACROSS)
    sheet = Image.new("RGB", (side * columns, side * rows), "white")
    draw = ImageDraw.Draw(sheet)
    for index, frame in enumerate(frames):
        row, column = divmod(index, ACROSS)
        middle = np.array((column + 0.5, row + 0.5)) * side
        where = (flat[:, frame] - centre(flat[:, frame])) * (scale, -scale) + middle
        for body in range(len(where)):
            draw_body(draw, where[body], shown[body, frame], topology, TINTS[min(body, 3)])
    draw_ruler(draw, scale, side, side * rows)
    small = sheet.resize((PANEL * columns, PANEL * rows), Image.Resampling.LANCZOS)
    return np.asarray(small, dtype=np.uint8).copy()


def upward(clip: Float[np.ndarray, "m t v c"], up: Up) -> Float[np.ndarray, "m t v"]:
    if up == "z":
        return clip[..., -1]
    return -clip[..., 1] if up == "-y" else clip[..., 1]


def extent(flat: Float[np.ndarray, "m v 2"]) -> float:
    """The longer side of the box around what is known."""
    known = flat[np.isfinite(flat).all(axis=-1)]
    return float(np.ptp(known, axis=0).max()) if len(known) else 0.0


def centre(flat: Float[np.ndarray, "m v 2"]) -> Float[np.ndarray, " 2"]:
    known = flat[np.isfinite(flat).all(axis=-1)]
    return (known.min(axis=0) + known.max(axis=0)) / 2 if len(known) else np.zeros(2)


def draw_body(
    draw: ImageDraw.ImageDraw,
    where: Float[np.ndarray, "v 2"],
    shown: Bool[np.ndarray, " v"],
    topology: Topology,
    tint: float,
) -> None:
    for a, b in topology.bones:
        if shown[a] and shown[b]:
            colour = tinted(COLOURS[side_of(topology, b, a)], tint)
            draw.line((*where[a], *where[b]), fill=colour, width=2 * SMOOTH)
    for joint in np.flatnonzero(shown):
        (x, y), r = where[joint], 1.8 * SMOOTH
        colour = tinted(COLOURS[side_of(topology, int(joint))], tint)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def side_of(topology: Topology, *joints: int) -> str:
    """Of the first joint that is not on the midline."""
    sides = (topology.side(joint) for joint in joints)
    return next((side for side in sides if side != "middle"), "middle")


def tinted(colour: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    red, green, blue = (round(part + (255 - part) * share) for part in colour)
    return red, green, blue


def draw_ruler(draw: ImageDraw.ImageDraw, scale: float, side: int, height: int) -> None:
    length, low = min(scale, side - 12 * SMOOTH), height - 3 * SMOOTH
    draw.line((5 * SMOOTH, low, 5 * SMOOTH + length, low), fill=(150, 150, 150), width=SMOOTH)
