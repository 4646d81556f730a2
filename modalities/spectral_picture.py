"""Pictures of cubes: composites of three bands chosen by wavelength, and sheets of all bands."""

import math

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

GREY = 0.5  # of what is missing or hidden


def nearest_bands(
    wavelengths: Float[Tensor, " c"], colours: tuple[float, float, float]
) -> tuple[int, int, int]:
    """Indices of the bands nearest to three wavelengths (nm). Where no band has a wavelength: the
    first three, the last one repeated.

    >>> nearest_bands(torch.tensor([443.0, 490, 560, 665, 842]), (665.0, 560.0, 490.0))
    (3, 2, 1)
    """
    if wavelengths.isnan().all():
        last = len(wavelengths) - 1
        return 0, min(1, last), min(2, last)
    red, green, blue = (
        int((wavelengths - nm).abs().nan_to_num(torch.inf).argmin()) for nm in colours
    )
    return red, green, blue


def composite(
    pixels: Float[Tensor, "c h w"],
    wavelengths: Float[Tensor, " c"],
    colours: tuple[float, float, float],
) -> UInt8[np.ndarray, "h w 3"]:
    """The bands nearest to `colours` (nm) as red, green and blue; 0 is black, 1 is full, NaN is
    mid-grey in its plane."""
    chosen = pixels[list(nearest_bands(wavelengths, colours))]
    levels = chosen.nan_to_num(GREY).clamp(0, 1) * 255
    return levels.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def stretched(
    pixels: Float[Tensor, "c h w"], low: float = 0.02, high: float = 0.98
) -> Float[Tensor, "c h w"]:
    """Each band stretched to 0..1 between two of its quantiles; NaN stays NaN."""
    flat = pixels.flatten(1)
    bottom, top = (flat.nanquantile(q, dim=1)[:, None, None] for q in (low, high))
    return (pixels - bottom) / (top - bottom).clamp(min=1e-12)


def band_sheet(
    pixels: Float[Tensor, "c h w"], columns: int | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """All bands side by side in grey, in their own order, a pixel of white between them."""
    count, height, width = pixels.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    sheet = torch.ones(rows * (height + 1) - 1, columns * (width + 1) - 1)
    for place, band in enumerate(pixels):
        top, left = (place // columns) * (height + 1), (place % columns) * (width + 1)
        sheet[top : top + height, left : left + width] = band.nan_to_num(GREY).clamp(0, 1)
    levels = (sheet * 255).round().to(torch.uint8)
    return levels[..., None].expand(-1, -1, 3).contiguous().numpy()
