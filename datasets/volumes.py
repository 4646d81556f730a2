"""A volume with its geometry: voxels, where they lie in the body, and how numbers were changed.

World coordinates are millimetres, R+ A+ S+ (x to the right, y to the front, z to the head), as in
NIfTI. Arrays are `(channels, z, y, x)`; an affine takes voxel indices in the order (x, y, z), also
as in NIfTI, so that a file's affine is kept number for number.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import Tensor

from multimask.tokens import BadSample, Movable

Size3 = tuple[int, int, int]
Box = tuple[slice, slice, slice]
Affine = Float[np.ndarray, "4 4"]


@dataclass(frozen=True, eq=False)
class Volume(Movable):
    """What the volume reader makes of a file, and what volume tokenizers take.

    data: `(channels, z, y, x)`; a numpy array on the way through transforms, a tensor in a sample.
    affine: `(4, 4)` float64, voxel index (x, y, z, 1) to mm.
    scale, shift: one number a channel; `data * scale + shift` is what the file says.
    source_shape, source_affine: the file's own grid, (z, y, x), before any transform.
    discrete: label numbers, never interpolated.
    """

    data: Any
    affine: Any
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    source_shape: Size3
    source_affine: Any
    discrete: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    @property
    def size(self) -> Size3:
        z, y, x = self.data.shape[1:]
        return z, y, x

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm, (z, y, x)."""
        return spacing_of(np.asarray(self.affine))

    def tensors(self) -> "Volume":
        """The same with tensors, as a sample holds it. Data become float32, labels int64."""
        dtype = np.int64 if self.discrete else np.float32
        data = torch.from_numpy(np.array(self.data, dtype, order="C"))
        affines = (torch.tensor(np.asarray(a)) for a in (self.affine, self.source_affine))
        affine, source_affine = affines
        return replace(self, data=data, affine=affine, source_affine=source_affine)

    def arrays(self) -> "Volume":
        """The same with numpy arrays, as transforms take it; data that are no tensor (mapped, or
        in a store) stay as they are."""
        if isinstance(self.data, np.ndarray):
            return self
        affines = {name: np.asarray(getattr(self, name)) for name in ("affine", "source_affine")}
        tensor = isinstance(self.data, torch.Tensor)
        return replace(self, data=self.data.numpy(force=True) if tensor else self.data, **affines)

    def in_file_numbers(self) -> Num[np.ndarray, "c z y x"]:
        """The data in the numbers of the file it came from."""
        data = np.asarray(self.data)
        if self.discrete or (set(self.scale) == {1.0} and set(self.shift) == {0.0}):
            return data
        scale, shift = (np.reshape(s, (-1, 1, 1, 1)) for s in (self.scale, self.shift))
        return (data * scale + shift).astype(np.float32)


def new_volume(
    data: Num[np.ndarray, "c z y x"], affine: Affine | None = None, discrete: bool = False
) -> Volume:
    """A volume that nothing was done to yet. Without an affine: voxels of 1 mm, axes R, A, S."""
    affine = np.eye(4) if affine is None else np.asarray(affine, np.float64)
    z, y, x = data.shape[1:]
    ones, zeros = (1.0,) * len(data), (0.0,) * len(data)
    return Volume(data, affine, ones, zeros, (z, y, x), affine, discrete)


def as_volume(array: Num[np.ndarray, "..."] | Num[Tensor, "..."], name: str) -> Volume:
    """An array `(z, y, x)` or `(channels, z, y, x)` without geometry."""
    data = np.asarray(array)
    if data.ndim not in (3, 4) or 0 in data.shape:
        raise BadSample(
            f"{name}: expected an array (z, y, x) or (channels, z, y, x), found {data.shape}."
        )
    return new_volume(data if data.ndim == 4 else data[None])


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Voxel size in mm, (z, y, x).

    >>> spacing_of(np.diag([1.0, 2.0, 3.0, 1.0]))
    (3.0, 2.0, 1.0)
    """
    x, y, z = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0).tolist()
    return z, y, x


def check_affine(affine: Affine, name: object) -> Affine:
    """Raises BadSample for an affine that is not finite or flattens space."""
    affine = np.asarray(affine, np.float64)
    if not np.isfinite(affine).all():
        raise BadSample(f"{name}: expected a finite affine, found NaN or infinity in it.")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not lengths.all() or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-4:
        raise BadSample(
            f"{name}: expected an affine that gives every axis a direction of its own, found a "
            f"singular one with the columns {np.round(affine[:3, :3].T, 4).tolist()}."
        )
    return affine


def world_of(
    affine: Affine, indices_zyx: Float[np.ndarray, "*n three"]
) -> Float[np.ndarray, "*n three"]:
    """Millimetres (R, A, S) of voxel indices given as (z, y, x)."""
    return indices_zyx[..., ::-1] @ affine[:3, :3].T + affine[:3, 3]


def triple(
    value: float | int | tuple[float | int, ...], what: str
) -> tuple[float | int, float | int, float | int]:
    """(z, y, x) of a value that may be one for all three."""
    values = (value,) * 3 if isinstance(value, int | float) else tuple(value)
    if len(values) != 3 or min(values) <= 0:
        raise ValueError(f"{what}={value} must be one positive number or three, (z, y, x).")
    return values[0], values[1], values[2]
