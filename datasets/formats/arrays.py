"""Pictures stored as arrays: NPY files, and the TIFFs that hold more than 8-bit colour."""

import logging
import math
from typing import Any, Literal

import numpy as np
from jaxtyping import Num, Shaped

from multimask.datasets.formats.files import Path, decoding
from multimask.tokens import BadSample

Layout = Literal["auto", "chw", "hwc"]

ALPHA = {1, 2}  # TIFF's ExtraSamples: transparency; anything else is one more band


def channels_first(
    array: Shaped[np.ndarray, "..."], layout: Layout, name: object
) -> Shaped[np.ndarray, "c h w"]:
    """Put channels first. (height, width) is one channel; of three axes "auto" takes the shorter
    of first and last, the first when they are equal.

    >>> channels_first(np.zeros((20, 30, 5)), "auto", "cube.npy").shape
    (5, 20, 30)
    """
    if array.ndim == 2:
        return array[None]
    if array.ndim != 3 or 0 in array.shape:
        raise BadSample(
            f"{name}: expected an array (channels, height, width), (height, width, channels) or "
            f"(height, width), found shape {array.shape}."
        )
    last = layout == "hwc" or (layout == "auto" and array.shape[2] < array.shape[0])
    return np.moveaxis(array, 2, 0) if last else array


def npy_array(path: Path) -> Shaped[np.ndarray, "..."]:
    """A NPY file, memory-mapped: its header is checked, its numbers are read on use."""
    with decoding(path, "a whole NPY array of numbers"):
        return np.load(path, mmap_mode="r", allow_pickle=False)


class TiffArray:
    """A TIFF that Pillow would read with loss, or not at all: many channels, 16 bit, floats.

    `shape` is (c, h, w), known from the header. Pages count as channels where the file says so
    (ImageJ, OME) or where exactly `channels` are asked for; otherwise the first page is read.
    """

    def __init__(self, path: Path, channels: int | None) -> None:
        import tifffile  # heavy, and most tables hold no TIFF

        logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # prints a line per odd tag
        self.path = path
        with decoding(path, "a whole TIFF picture"), tifffile.TiffFile(path) as file:
            series, page = file.series[0], file.pages[0].keyframe
            self.stacked = _pages_are_channels(series.axes, series.shape, page, channels)
            source = series if self.stacked else page
            self.axes, self.shape = _channel_axes(source.axes, source.shape, path)
            self.dtype, self.needed = page.dtype, self.stacked or _too_much_for_pillow(page)

    def load(self) -> Num[np.ndarray, "c h w"]:
        import tifffile

        with decoding(self.path, "a whole TIFF picture"):
            try:
                with tifffile.TiffFile(self.path) as file:
                    source = file.series[0] if self.stacked else file.pages[0]
                    array = source.asarray()
            except ValueError as error:
                if "imagecodecs" in str(error):
                    raise BadSample(
                        f"{self.path}: expected a TIFF that can be unpacked, found a compression "
                        "that needs `pip install imagecodecs`."
                    ) from error
                raise
            return np.transpose(array.reshape([n for n in array.shape if n > 1] or [1]), self.axes)
