"""Drawing clouds with numpy: two views side by side, near points over far ones."""

from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

Axis = Literal["x", "y", "z"]

SIDE = 224  # pixels of one view
TURNS = (35.0, 125.0)  # degrees around the upright axis
TILT = 20.0  # degrees from above
NEAR, FAR = np.array([214.0, 84.0, 30.0]), np.array([66.0, 122.0, 190.0])  # warm, cool
BACK = 250
DISC = [(y, x) for y in range(-2, 3) for x in range(-2, 3) if x * x + y * y <= 4]


def draw(
    points: Float[np.ndarray, "n 3"], frame: Float[np.ndarray, "m 3"], up: Axis
) -> UInt8[np.ndarray, "h w 3"]:
    """The points from two sides. `frame` are points that fix what fits into the picture.

    Points that are not finite, or fall outside, are not drawn.
    """
    middle = (frame.min(axis=0) + frame.max(axis=0)) / 2
    reach = max(float(np.linalg.norm(frame - middle, axis=1).max()), 1e-9) * 1.15
    points = points[(np.abs(points - middle) < 2 * reach).all(axis=1)]
    views = [view((points - middle) / reach, turn, up) for turn in TURNS]
    return np.concatenate(views, axis=1)


def view(points: Float[np.ndarray, "n 3"], turn: float, up: Axis) -> UInt8[np.ndarray, "h w 3"]:
    right, away, high = (points @ axis for axis in axes(turn, up))
    order = np.argsort(-away)  # far ones first
    column = ((right[order] + 1) / 2 * SIDE).astype(int)
    row = ((1 - high[order]) / 2 * SIDE).astype(int)
    share = np.clip((away[order, None] + 1) / 2, 0, 1)
    colour = (NEAR * (1 - share) + FAR * share).astype(np.uint8)
    canvas = np.full((SIDE, SIDE, 3), BACK, dtype=np.uint8)
    # all pixels of all discs, far to near: of equal places the last one written stays
    rows = np.stack([row + y for y, _ in DISC], axis=1)
    columns = np.stack([column + x for _, x in DISC], axis=1)
    inside = (rows >= 0) & (rows < SIDE) & (columns >= 0) & (columns < SIDE)
    colours = np.repeat(colour[:, None], len(DISC), axis=1)
    canvas[rows[inside], columns[inside]] = colours[inside]
    return canvas


def axes(turn: float, up: Axis) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors to the right, away from the eye and upwards in the picture."""
    upright = np.eye(3)["xyz".index(up)]
    side, front = np.roll(upright, 1), np.roll(upright, 2)
    angle, tilt = np.radians(turn), np.radians(TILT)
    flat = np.cos(angle) * front + np.sin(angle) * side
    away = np.cos(tilt) * flat - np.sin(tilt) * upright
    right = np.cross(away, upright)
    right /= np.linalg.norm(right)
    return right, away, np.cross(right, away)
