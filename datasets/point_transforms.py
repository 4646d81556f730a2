"""What happens to a cloud between its file and the tokenizer: surface samples, choice of points,
normalisation, augmentation. Arrays in double precision, so that map coordinates keep their digits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Generator

Normalise = Literal["sphere", "centre", "none"]
Rotate = Literal["none", "up", "any"]
Axis = Literal["x", "y", "z"]
NORMAL = ("nx", "ny", "nz")


def numbers_of(generator: Generator | None) -> np.random.Generator:
    """numpy's generator for one reading; always the same without a generator."""
    seed = 0 if generator is None else int(torch.randint(2**62, (1,), generator=generator))
    return np.random.default_rng(seed)


def surface_points(
    xyz: Float[np.ndarray, "n 3"],
    faces: Int[np.ndarray, "f 3"],
    count: int,
    draw: np.random.Generator,
) -> tuple[Int[np.ndarray, " c"], Float[np.ndarray, "c 3"], Float[np.ndarray, "c 3"]]:
    """Points spread evenly over a mesh: (triangle, weights of its corners, its unit normal).

    Raises: ValueError for a mesh without area.
    """
    a, b, c = (xyz[faces[:, corner]] for corner in range(3))
    crosses = np.cross(b - a, c - a)
    doubled = np.linalg.norm(crosses, axis=1)
    total = doubled.sum()
    if not (np.isfinite(total) and total > 0):
        raise ValueError("its faces have no area")
    # a point a stratum instead of independent draws: the same spread with less clumping
    level = (np.arange(count) + draw.random(count)) / count * total
    chosen = np.searchsorted(np.cumsum(doubled), level).clip(max=len(faces) - 1)
    root, share = np.sqrt(draw.random(count)), draw.random(count)
    weights = np.stack((1 - root, root * (1 - share), root * share), axis=1)
    order = draw.permutation(count)  # strata follow the file's order, points should not
    normals = crosses[chosen] / np.maximum(doubled[chosen, None], 1e-300)
    return chosen[order], weights[order], normals[order]


def normalised(xyz: Float[np.ndarray, "n 3"], how: Normalise) -> Float[np.ndarray, "n 3"]:
    """ "sphere": mean at the origin, farthest point at distance 1. "centre": mean at the origin."""
    if how == "none":
        return xyz
    moved = xyz - xyz.mean(axis=0)
    radius = float(np.linalg.norm(moved, axis=1).max())
    return moved / radius if how == "sphere" and radius > 0 else moved


@dataclass(frozen=True)
class Augment:
    """Random scale, turn, shift and jitter of a cloud, in this order.

    Args: scale, smallest and largest factor, drawn for each axis by itself; rotate, by any angle
        about the upright axis ("up") or any turn at all ("any"); shift, along each axis, at most;
        jitter, standard deviation of noise on every coordinate; up, the upright axis. Normals
        (nx, ny, nz) turn along. Defaults are Point-MAE's pre-training.
    """

    scale: tuple[float, float] = (2 / 3, 3 / 2)
    shift: float = 0.2
    rotate: Rotate = "none"
    jitter: float = 0.0
    up: Axis = "y"

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"Augment: scale={self.scale} must be (smallest, largest), above 0.")
        if self.shift < 0 or self.jitter < 0:
            raise ValueError(f"Augment: shift={self.shift} and jitter={self.jitter} must be >= 0.")
        if self.rotate not in ("none", "up", "any") or self.up not in ("x", "y", "z"):
            raise ValueError(
                f"Augment: rotate={self.rotate!r} must be 'none', 'up' or 'any', "
                f"up={self.up!r} an axis."
            )

    def __call__(
        self,
        xyz: Float[np.ndarray, "n 3"],
        features: Float[np.ndarray, "n c"],
        names: Sequence[str],
        draw: np.random.Generator,
    ) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n c"]]:
        factor = draw.uniform(*self.scale, size=3)
        turn = self.turn(draw)
        shift = draw.uniform(-self.shift, self.shift, size=3)
        moved = (xyz * factor) @ turn.T + shift
        if self.jitter:
            moved = moved + draw.normal(scale=self.jitter, size=xyz.shape)
        if set(NORMAL) <= set(names):
            at = [list(names).index(name) for name in NORMAL]
            normals = (features[:, at] / factor) @ turn.T
            length = np.linalg.norm(normals, axis=1, keepdims=True)
            features = features.copy()
            features[:, at] = normals / np.maximum(length, 1e-12)
        return moved, features

    def turn(self, draw: np.random.Generator) -> Float[np.ndarray, "3 3"]:
        if self.rotate == "none":
            return np.eye(3)
        if self.rotate == "up":
            angle, axis = draw.uniform(0, 2 * np.pi), "xyz".index(self.up)
            one, other = (axis + 1) % 3, (axis + 2) % 3
            made = np.eye(3)
            made[one, one] = made[other, other] = np.cos(angle)
            made[other, one], made[one, other] = np.sin(angle), -np.sin(angle)
            return made
        w, x, y, z = (q := draw.normal(size=4)) / np.linalg.norm(q)  # a uniform unit quaternion
        return np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
