"""Rotation matrices from Euler angles, for motion-capture files."""

import numpy as np
from jaxtyping import Float


def about(axis: str, degrees: Float[np.ndarray, " t"]) -> Float[np.ndarray, "t 3 3"]:
    """Right-handed rotations about "x", "y" or "z"; they act on column vectors."""
    a, b = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    sin, cos = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    matrix = np.tile(np.eye(3), (len(degrees), 1, 1))
    matrix[:, a, a] = matrix[:, b, b] = cos
    matrix[:, b, a], matrix[:, a, b] = sin, -sin
    return matrix


def composed(axes: str, degrees: Float[np.ndarray, "t k"]) -> Float[np.ndarray, "t 3 3"]:
    """`R(axes[0]) R(axes[1]) ...`: the last axis named turns first."""
    matrix = np.tile(np.eye(3), (len(degrees), 1, 1))
    for axis, column in zip(axes, degrees.T, strict=True):
        matrix = matrix @ about(axis, column)
    return matrix
