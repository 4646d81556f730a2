"""Drawing a volume: three orthogonal slices side by side, at their true proportions."""

import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor
from torch.nn import functional as F

from multimask.tokens import Grid

HIDDEN = (0.25, 0.35, 0.5)  # a blue that no grey level is: air in z-scores is grey
GAP = 4  # black pixels between the slices


def orthogonal_slices(
    voxels: Float[Tensor, "c z y x"],
    centres: Float[Tensor, "n 3"],
    grid: Grid,
    shown: Bool[Tensor, " n"] | None,
    valid: Bool[Tensor, " n"] | None,
) -> UInt8[ndarray, "h w 3"]:
    """Axial, coronal and sagittal slice through the middle of the valid tokens.

    The first axis of every slice runs upwards (front of the body, head, head), so arrays in the
    frame R A S are drawn as usual, the body's right on the right. Voxels are square on the screen
    where they are cubes; else the picture is stretched along the longer side.
    """
    exists = torch.ones(len(centres), dtype=torch.bool) if valid is None else valid
    patch = [n // cells for n, cells in zip(voxels.shape[1:], grid, strict=True)]
    brightness = windowed(voxels, lattice_voxels(exists, grid, patch))
    if shown is not None:
        visible = lattice_voxels(shown & exists, grid, patch)
        brightness = torch.where(visible, brightness, torch.tensor(torch.nan))
    inside = lattice_voxels(exists, grid, patch)
    brightness = torch.where(inside, brightness, torch.tensor(0.0))
    middles = middle_of(exists, grid, patch)
    millimetres = spacing(centres, grid, patch)
    slices = []
    for axis, (up, across) in ((0, (1, 2)), (1, (0, 2)), (2, (0, 1))):
        plane = brightness.select(1 + axis, middles[axis]).flip(1)
        smallest = min(millimetres[up], millimetres[across])
        height, width = (
            max(1, round(plane.shape[1 + i] * millimetres[side] / smallest))
            for i, side in enumerate((up, across))
        )
        slices.append(F.interpolate(plane[None], (height, width), mode="nearest")[0])
    tallest = max(plane.shape[1] for plane in slices)
    framed = [F.pad(p, (0, GAP, 0, tallest - p.shape[1])) for p in slices]
    colours = coloured(torch.cat(framed, dim=2)[..., :-GAP])
    hidden = torch.tensor(HIDDEN)[:, None, None]
    colours = torch.where(colours.isnan().any(0), hidden, colours)
    return (colours.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def lattice_voxels(cells: Bool[Tensor, " n"], grid: Grid, patch: list[int]) -> Tensor:
    """A bool a token, as a bool a voxel."""
    whole = cells.reshape(grid)
    for axis, side in enumerate(patch):
        whole = whole.repeat_interleave(side, axis)
    return whole


def windowed(voxels: Float[Tensor, "c z y x"], inside: Tensor) -> Float[Tensor, "c z y x"]:
    """0..1 between the 1st and 99th percentile of the voxels inside, channel by channel."""
    out = torch.zeros_like(voxels)
    for channel, into in zip(voxels, out, strict=True):
        values = channel[inside]
        if not len(values):
            continue
        ordered = values.sort().values
        low, high = (ordered[int(q * (len(ordered) - 1))] for q in (0.01, 0.99))
        into.copy_((channel - low) / (high - low).clamp(min=1e-12))
    return out.clamp(0, 1)


def middle_of(exists: Bool[Tensor, " n"], grid: Grid, patch: list[int]) -> list[int]:
    """Index (z, y, x) of the voxel in the middle of the tokens that exist."""
    cells = exists.reshape(grid).nonzero()
    if not len(cells):
        return [0, 0, 0]
    last = (cells.amax(0) + 1).tolist()
    return [(n * side) // 2 for n, side in zip(last, patch, strict=True)]


def spacing(centres: Float[Tensor, "n 3"], grid: Grid, patch: list[int]) -> list[float]:
    """Millimetres (z, y, x) of a voxel, from the distance of neighbouring patches' centres; an
    axis of a single patch counts as the mean of the others."""
    lattice = centres.double().reshape(*grid, 3)
    known = {
        axis: float((lattice.select(axis, 1) - lattice.select(axis, 0)).flatten(0, 1)[0].norm())
        / patch[axis]
        for axis in range(3)
        if grid[axis] > 1
    }
    known = {axis: mm for axis, mm in known.items() if mm > 0}
    usual = sum(known.values()) / len(known) if known else 1.0
    return [known.get(axis, usual) for axis in range(3)]


def coloured(pixels: Float[Tensor, "c h w"]) -> Float[Tensor, "3 h w"]:
    if len(pixels) == 1:
        return pixels.expand(3, -1, -1)
    if len(pixels) == 2:
        return torch.cat((pixels, torch.zeros_like(pixels[:1])))
    return pixels[:3]
