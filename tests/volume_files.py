"""What tests of volumes share: small volumes of oblique geometry, written and read."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from multimask.datasets.formats.volumes import VolumeReader
from multimask.datasets.volumes import Volume

AS_IS = VolumeReader(transforms=(), channels=None)


def loaded(path: Path) -> Any:
    """As nibabel reads it."""
    return nibabel.load(path)


def oblique() -> np.ndarray:
    """An affine with a rotation of 20 degrees, spacing (0.8, 0.9, 3) and an offset."""
    turn = np.deg2rad(20)
    rotation = np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([0.8, 0.9, 3.0])
    affine[:3, 3] = (-40, 12.5, 7)
    return affine


def voxels(shape: tuple[int, ...] = (6, 7, 8), seed: int = 0) -> np.ndarray:
    """x, y, z as nibabel has them."""
    return np.random.default_rng(seed).integers(1, 1000, shape).astype(np.int16)


def where_is(volume: Volume, value: float) -> np.ndarray:
    """Millimetres of the voxel that holds a value."""
    z, y, x = np.argwhere(np.asarray(volume.data)[0] == value)[0]
    return np.asarray(volume.affine)[:3] @ [x, y, z, 1]
