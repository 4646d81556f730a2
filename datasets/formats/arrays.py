"""Pictures stored as arrays: NPY files and arrays in memory."""

from io import BytesIO
from typing import Literal

import numpy as np
from jaxtyping import Shaped

from multimask.datasets.formats.files import FileBytes, Named, Picture, check_size, decoding
from multimask.tokens import BadSample

Layout = Literal["auto", "chw", "hwc"]


def open_npy(path: Named, layout: Layout, max_pixels: int) -> Picture:
    """A NPY file, memory-mapped: the header is checked now, the numbers are read on use."""
    with decoding(path, "a whole NPY array of numbers"):
        if isinstance(path, FileBytes):
            array = np.load(BytesIO(path.data), allow_pickle=False)
        else:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    return open_array(array, layout, max_pixels, path, "NPY")


def open_array(
    array: Shaped[np.ndarray, "..."],
    layout: Layout,
    max_pixels: int,
    name: Named = "array",
    kind: str = "array",
) -> Picture:
    """An array as a picture; its mode says channels and number type: "5 x float32"."""
    picture = channels_first(array, layout, name)
    channels, height, width = picture.shape
    check_size(name, height, width, channels, max_pixels)
    return Picture(height, width, f"{channels} x {array.dtype}", kind, lambda shrink: picture)


def channels_first(
    array: Shaped[np.ndarray, "..."], layout: Layout, name: Named = "array"
) -> Shaped[np.ndarray, "c h w"]:
    """Put channels first. (height, width) is one channel; of three axes "auto" takes the shorter
    of first and last, the first when they are equal.

    >>> channels_first(np.zeros((20, 30, 5)), "auto").shape
    (5, 20, 30)
    """
    if array.ndim == 2 and array.size:
        return array[None]
    if array.ndim != 3 or not array.size:
        raise BadSample(
            f"{name}: expected an array (channels, height, width), (height, width, channels) or "
            f"(height, width), found shape {array.shape}."
        )
    last = layout == "hwc" or (layout == "auto" and array.shape[2] < array.shape[0])
    return np.moveaxis(array, 2, 0) if last else array
