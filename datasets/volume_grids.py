"""Grids of voxels: turning, resampling, and taking a volume from one grid to another."""

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Num
from torch.nn import functional as F

from multimask.datasets.volumes import Affine, Box, Size3, Volume

SLAB = 16  # slices at a time: bounds memory


def turned(volume: Volume, codes: str) -> Volume:
    """The same voxels with axes (x, y, z) running along `codes`, such as RAS or LPS.

    Nothing is interpolated: axes are exchanged and flipped to the nearest ones. No copy is made.
    """
    from nibabel import orientations

    now = orientations.io_orientation(volume.affine)
    wanted = orientations.axcodes2ornt(tuple(codes))
    change = orientations.ornt_transform(now, wanted)
    if (change == [[0, 1], [1, 1], [2, 1]]).all():
        return volume
    data = volume.data.transpose(0, 3, 2, 1)  # c, x, y, z
    order = np.argsort(change[:, 0]).astype(int)  # output axis -> input axis
    data = data.transpose(0, *(1 + order))
    flips = [slice(None, None, -1) if change[axis, 1] < 0 else slice(None) for axis in order]
    data = data[(slice(None), *flips)].transpose(0, 3, 2, 1)
    affine = volume.affine @ orientations.inv_ornt_aff(change, volume.size[::-1])
    return replace(volume, data=data, affine=affine)


def cut(volume: Volume, box: Box) -> Volume:
    """The voxels of a box (z, y, x). No copy is made."""
    starts = np.array([side.indices(n)[0] for side, n in zip(box, volume.size, strict=True)])
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ starts[::-1]
    return replace(volume, data=volume.data[(slice(None), *box)], affine=affine)


def flipped(volume: Volume, axes: tuple[bool, bool, bool]) -> Volume:
    """The array flipped along (z, y, x); the affine follows, so every voxel keeps its place."""
    data, affine = volume.data, volume.affine.copy()
    for axis in (axis for axis, flip in enumerate(axes) if flip):
        data = np.flip(data, 1 + axis)
        affine[:3, 3] += affine[:3, 2 - axis] * (volume.size[axis] - 1)
        affine[:3, 2 - axis] *= -1
    return replace(volume, data=data, affine=affine)


def resampled(volume: Volume, spacing: tuple[float | int, float | int, float | int]) -> Volume:
    """At exactly this spacing (mm, z y x), about the same centre.

    Linear; where the new voxels are larger, averaged over them (no aliasing); label numbers by the
    nearest voxel.
    """
    data, affine = volume.data, volume.affine.copy()
    shift = np.zeros(3)
    for axis, (old, new) in enumerate(zip(volume.spacing, spacing, strict=True)):
        step = new / old
        if abs(step - 1) < 1e-6:
            continue
        size = data.shape[1 + axis]
        count = max(1, round(size / step))
        places = (np.arange(count) - (count - 1) / 2) * step + (size - 1) / 2
        if volume.discrete:
            nearest = np.clip(np.rint(places), 0, size - 1).astype(int)
            data = np.take(data, nearest, axis=1 + axis)
        else:
            weights = linear_weights(places, size, step)
            data = np.moveaxis(np.moveaxis(data, 1 + axis, -1) @ weights.T, -1, 1 + axis)
        shift[axis] = places[0]
        affine[:3, 2 - axis] *= step
    affine[:3, 3] += volume.affine[:3, :3] @ shift[::-1]
    return replace(volume, data=data, affine=affine)


def linear_weights(
    places: Float[np.ndarray, " m"], size: int, step: float
) -> Float[np.ndarray, "m n"]:
    """Rows that take values at 0..size-1 to `places`, `step` apart: the mean of linear
    interpolations spread over a step where it is above 1, so that linear functions stay exact.
    Beyond the first and last voxel their values go on."""
    count = 1 if step <= 1 else 2 * math.ceil(step)
    spread = ((np.arange(count) + 0.5) / count - 0.5) * (step if step > 1 else 0.0)
    at = np.clip(places[:, None] + spread, 0, size - 1)
    away = np.abs(at[..., None] - np.arange(size))
    return np.clip(1 - away, 0, None).mean(axis=1).astype(np.float32)


def onto_grid(
    volume: Volume, shape: Size3, affine: Affine, fill: float | int = 0.0
) -> Num[np.ndarray, "c z y x"]:
    """The volume in its file's numbers, on another grid: linear, label numbers by the nearest.

    Exact where voxels of the two grids coincide (turned or cropped volumes). Voxels whose centre
    lies outside the volume get `fill`.
    """
    data = torch.from_numpy(np.ascontiguousarray(volume.in_file_numbers())).to(torch.float64)
    to_index = np.linalg.inv(volume.affine) @ affine  # other grid's (x, y, z) -> this one's
    last = torch.tensor(volume.size[::-1], dtype=torch.float64) - 1
    mode = "nearest" if volume.discrete else "bilinear"
    slabs = []
    for start in range(0, shape[0], SLAB):
        axes = (torch.arange(start, min(start + SLAB, shape[0])), *map(torch.arange, shape[1:]))
        z, y, x = torch.meshgrid(*axes, indexing="ij")
        there = torch.stack((x, y, z), dim=-1).double() @ torch.from_numpy(to_index[:3, :3].T)
        there += torch.from_numpy(to_index[:3, 3])
        rounded = there.round()
        there = torch.where((there - rounded).abs() < 1e-4, rounded, there)
        inside = ((there >= -0.5) & (there <= last + 0.5)).all(dim=-1)
        scaled = 2 * there / last.clamp(min=1) - 1
        found = F.grid_sample(data[None], scaled[None], mode, "border", align_corners=True)[0]
        slabs.append(torch.where(inside, found, torch.tensor(fill, dtype=found.dtype)).numpy())
    whole = np.concatenate(slabs, axis=1)
    return np.rint(whole).astype(np.int64) if volume.discrete else whole.astype(np.float32)
