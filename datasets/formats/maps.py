"""Files of one number a pixel: label maps and depth maps, with their place on the ground."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Num, Shaped
from PIL import ImageMode
from torch import Generator, Tensor

from multimask.datasets.formats.cubes import (
    Box,
    CubeFile,
    as_bands_first,
    check_amount,
    check_box,
    placed,
    window_of,
)
from multimask.datasets.formats.files import AnyPath, decoding, opened
from multimask.datasets.formats.geotiff import open_tiff_cube
from multimask.datasets.formats.pictures import picture_header
from multimask.datasets.transforms import Crop, Transform
from multimask.tokens import BadSample

Source = AnyPath | Shaped[np.ndarray, "..."] | Shaped[Tensor, "..."]

SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".bmp", ".gif", ".pgm")
NPY = b"\x93NUMPY"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WAYS_OUT = {  # what a picture of several channels may be
    "a label map": "a picture of colours must be turned into class numbers first",
    "a depth map": "take the channel that holds depth",
}


def open_map(source: Source, what: str, max_pixels: int) -> tuple[CubeFile, Box]:
    """The map's header and the window that is meant. The content decides how it is read.

    PNG, BMP, GIF and PGM by Pillow (a palette's indices, not its colours), TIFF and GeoTIFF, NPY
    and arrays. A cell may name a window, `map.tif#window=0,64,32,32`, or one map of a NPY stack,
    `maps.npy#index=7`. what: what messages call it, "a label map".

    Raises: BadSample for what is no map of one channel, and for what is too large.
    """
    if isinstance(source, np.ndarray | Tensor):
        file, box = array_map(np.asarray(source)), None
    else:
        text, box, index = placed(source)
        file = file_map(text, index, what, max_pixels)
    if file.shape[0] != 1:
        raise BadSample(
            f"{file.path}: expected {what} of one channel, found {file.shape[0]} channels; "
            f"{WAYS_OUT.get(what, 'name one')}."
        )
    box = file.whole if box is None else box
    check_box(file.path, box, file.shape)
    check_amount(file.path, box.height * box.width, max_pixels)
    return file, box


def file_map(path: AnyPath, index: int | None, what: str, max_pixels: int) -> CubeFile:
    with opened(path, what) as file:
        start = file.read(8)
    if start.startswith(NPY):
        return npy_map(path, index, what)
    if index is not None:
        raise BadSample(f"{path}: expected a NPY of several maps before #index, found another.")
    if start.startswith(TIFF):
        return open_tiff_cube(path)
    return pillow_map(path, what, max_pixels)


def npy_map(path: AnyPath, index: int | None, what: str) -> CubeFile:
    """(height, width), also with an axis of one channel on either side; `index`: one of many."""
    with decoding(path, "a whole NPY array of numbers"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if index is None:
        return array_map(array, str(path), "NPY")
    if array.ndim < 3 or index >= len(array):
        raise BadSample(
            f"{path}: expected at least {index + 1} maps, found an array of shape {array.shape}; "
            f"{what} has two axes."
        )
    return array_map(array[index], str(path), "NPY")


def array_map(
    array: Shaped[np.ndarray, "..."], path: str = "array", form: str = "array"
) -> CubeFile:
    if array.dtype.kind not in "buif":
        raise BadSample(f"{path}: expected real numbers, found {array.dtype}.")
    last = array.ndim == 3 and array.shape[2] == 1
    shape, axes = as_bands_first(array.shape, "hwc" if last else "chw", path)

    def read(box: Box, bands: Sequence[int]) -> Num[np.ndarray, "c h w"]:
        return window_of(array, axes, box, bands)

    return CubeFile(path, form, shape, array.dtype, read)


def pillow_map(path: AnyPath, what: str, max_pixels: int) -> CubeFile:
    """Indices of a palette, grey levels, 16- and 32-bit numbers: as stored, never converted."""
    with opened(path, what) as file:
        image = picture_header(file, path, max_pixels)
        mode, form, size = image.mode, image.format or "", (image.height, image.width)
        if form == "JPEG" and what == "a label map":
            raise BadSample(
                f"{path}: expected {what}, found a JPEG, whose packing changes numbers; save label "
                "maps as PNG or TIFF."
            )
    facts = ImageMode.getmode(mode)
    dtype = np.dtype("u1" if mode == "1" else facts.typestr).newbyteorder("=")

    def read(box: Box, bands: Sequence[int]) -> Num[np.ndarray, "c h w"]:
        with opened(path, what) as file, decoding(path, f"a whole {form} picture"):
            stored = np.array(picture_header(file, path, max_pixels))
        axes = (-1, 0, 1) if stored.ndim == 2 else (2, 0, 1)
        return window_of(stored.astype(dtype), axes, box, bands)

    return CubeFile(str(path), form, (len(facts.bands), *size), dtype, read)


def nearest(pixels: Shaped[Tensor, "h w"], crop: Crop) -> Shaped[Tensor, "tall wide"]:
    """The crop, resized by taking the nearest pixel: classes and depths are never mixed."""
    box = pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    for axis, wanted in enumerate(crop.size):
        found = box.shape[axis]
        if found != wanted:
            place = ((torch.arange(wanted) + 0.5) * (found / wanted)).long().clamp(max=found - 1)
            box = box.index_select(axis, place)
    return box.flip(1) if crop.flip else box


def planned(transform: Transform | None, box: Box, generator: Generator | None) -> Crop:
    """What is kept of the window; all of it without a transform."""
    if transform is None:
        return Crop(0, 0, box.height, box.width, size=(box.height, box.width))
    return transform(box.height, box.width, generator)


def header_facts(file: CubeFile, box: Box) -> dict[str, Any]:
    return {
        "height": box.height,
        "width": box.width,
        "dtype": str(file.dtype),
        "format": file.format,
        "epsg": file.geo.epsg if file.geo else None,
    }
