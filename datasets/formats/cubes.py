"""A cube of bands in a file: what its header says, a window of it, and guards against lying ones.

A table's cell is a path, or a path and a place in the file: `scene.tif#window=0,64,32,32` (top,
left, height, width; pixels) or `training.h5#index=7`.
"""

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Num

from multimask.datasets.formats.files import AnyPath
from multimask.datasets.formats.geokeys import Geo
from multimask.tokens import BadSample

PLACE = re.compile(r"^(?P<path>.+)#(?P<how>window|index)=(?P<numbers>\d+(?:,\d+)*)$", re.DOTALL)
MOST_PACKED = 1100  # bytes that one byte of a deflate stream can stand for; other codecs pack less


@dataclass(frozen=True)
class Box:
    """A window of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class CubeFile:
    """What a file's header says, and how to get a window of its bands.

    shape: (bands, height, width). wavelengths: nm, NaN for a band without; None where the file
    says nothing. names: one a band, or None. nodata: the number that means "missing". scale,
    offset: per band, what the file says its numbers must be multiplied by and added to.
    `read(box, bands)` gives `(bands, height, width)` in the file's own numbers and reads no more
    of the file than it must.
    """

    path: str
    format: str
    shape: tuple[int, int, int]
    dtype: np.dtype
    read: Callable[[Box, Sequence[int]], Num[np.ndarray, "c h w"]]
    wavelengths: tuple[float, ...] | None = None
    names: tuple[str, ...] | None = None
    nodata: float | None = None
    scale: tuple[float, ...] | None = None
    offset: tuple[float, ...] | None = None
    geo: Geo | None = None

    @property
    def whole(self) -> Box:
        return Box(0, 0, *self.shape[1:])


def placed(cell: AnyPath) -> tuple[str, Box | None, int | None]:
    """A cell as path, window and index.

    >>> placed("a/scene.tif#window=0,64,32,32")
    ('a/scene.tif', Box(top=0, left=64, height=32, width=32), None)
    """
    text = os.fspath(cell)
    found = PLACE.match(text)
    if found is None:
        return text, None, None
    numbers = [int(number) for number in found["numbers"].split(",")]
    if found["how"] == "index" and len(numbers) == 1:
        return found["path"], None, numbers[0]
    if found["how"] == "window" and len(numbers) == 4 and min(numbers[2:]) > 0:
        return found["path"], Box(*numbers), None
    raise BadSample(
        f"{text}: expected #window=top,left,height,width or #index=number behind the path, found "
        f"{found['how']}={found['numbers']}."
    )


def check_box(path: AnyPath, box: Box, shape: tuple[int, int, int]) -> None:
    _, height, width = shape
    if box.top + box.height > height or box.left + box.width > width:
        raise BadSample(
            f"{path}: expected a window inside {height} x {width} pixels, found one of "
            f"{box.height} x {box.width} at row {box.top}, column {box.left}."
        )


def check_claim(path: AnyPath, shape: Sequence[int], itemsize: int, stored: int) -> None:
    """Refuse a header that claims more than its file can hold, before anything is allocated."""
    claimed = math.prod(shape) * itemsize
    if min(shape, default=0) < 1 or claimed > max(stored, 1) * MOST_PACKED:
        raise BadSample(
            f"{path}: expected a file that can hold what its header says, found "
            f"{' x '.join(map(str, shape))} numbers, {claimed:,} bytes, in a file of {stored:,}."
        )


def check_amount(path: AnyPath, numbers: int, max_numbers: int) -> None:
    """Refuse, before anything is decoded, what would not fit into memory."""
    if numbers > max_numbers:
        raise BadSample(
            f"{path}: expected at most {max_numbers:,} numbers in one sample, found {numbers:,}; "
            "read a window of it, choose bands, or raise max_numbers."
        )


def as_bands_first(
    shape: Sequence[int], layout: str, path: AnyPath
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """(bands, height, width) of an array stored in this order of axes ("chw" or "hwc"), and which
    of its axes these are. A two-axis array is one band, its band axis then -1."""
    if len(shape) == 2:
        return (1, shape[0], shape[1]), (-1, 0, 1)
    if len(shape) != 3:
        raise BadSample(
            f"{path}: expected an array of two or three axes, found shape {tuple(shape)}."
        )
    axes = (0, 1, 2) if layout == "chw" else (2, 0, 1)
    return (shape[axes[0]], shape[axes[1]], shape[axes[2]]), axes


def window_of(
    array: Any, axes: tuple[int, ...], box: Box, bands: Sequence[int]
) -> Num[np.ndarray, "c h w"]:
    """A window of an array or an HDF5 data set, which is then read no further."""
    rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
    if axes[0] < 0:
        return np.asarray(array[rows, columns])[None]
    index: list[slice] = [slice(None)] * 3
    index[axes[1]], index[axes[2]] = rows, columns
    if len(bands) and list(bands) == list(range(bands[0], bands[-1] + 1)):
        index[axes[0]] = slice(bands[0], bands[-1] + 1)
        return np.asarray(array[tuple(index)]).transpose(axes)
    return np.asarray(array[tuple(index)]).transpose(axes)[list(bands)]
