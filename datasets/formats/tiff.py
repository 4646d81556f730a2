"""TIFFs that Pillow reads with loss or not at all: many channels, 16 bit, floats, pages."""

import logging
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import Shaped

from multimask.datasets.formats.files import FileBytes, Named, Picture, check_size, decoding
from multimask.tokens import BadSample

ALPHA = {1, 2}  # of the tag ExtraSamples: transparency; any other extra sample is one more band
INTENSITIES = {"MINISWHITE", "MINISBLACK", "RGB"}  # samples are no palette indices, no inks


def open_tiff(path: Named, channels: int | None, max_pixels: int) -> Picture | None:
    """A TIFF as an array; None where Pillow reads all there is (8-bit grey, colour, palette).

    Pages of one size are channels where the file says so (ImageJ, OME), where exactly `channels`
    are asked for, and where they are deeper than 8 bit. Otherwise the first page is the picture.
    """
    import tifffile  # slow to import, and most tables hold no TIFF

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # else a line per odd tag
    try:
        with tifffile.TiffFile(on_disk_or_in_memory(path)) as file:
            series, page = file.series[0], file.pages.first
            stacked = _pages_are_channels(series, page, channels)
            if not stacked and _pillow_suffices(page):
                return None
            source = series if stacked else page
            shape, axes, dtype = source.shape, source.axes, source.dtype
    except Exception:
        return None  # Pillow may know better, and says what is wrong if it does not
    others = [axis for axis, letter in enumerate(axes) if letter not in "YX"]
    if len(others) > 1 or not {"Y", "X"} <= set(axes):
        raise BadSample(
            f"{path}: expected a picture with one axis beside height and width, found a TIFF of "
            f"axes {axes}, shape {tuple(shape)}."
        )
    tall, wide = shape[axes.index("Y")], shape[axes.index("X")]
    num_channels = shape[others[0]] if others else 1
    check_size(path, tall, wide, num_channels, max_pixels)

    def pixels(shrink: int) -> Shaped[np.ndarray, "c h w"]:
        array = _read(path, stacked)
        order = [*others, axes.index("Y"), axes.index("X")]
        return array.transpose(order).reshape(num_channels, tall, wide)

    return Picture(tall, wide, f"{num_channels} x {dtype}", "TIFF", pixels)


def _pages_are_channels(series: Any, page: Any, channels: int | None) -> bool:
    pages = len(series.pages)
    if pages == 1 or page.samplesperpixel > 1 or page.photometric.name not in INTENSITIES:
        return False
    return "C" in series.axes or pages == channels or page.bitspersample > 8


def _pillow_suffices(page: Any) -> bool:
    extra = page.samplesperpixel - {"RGB": 3, "SEPARATED": 4, "YCBCR": 3, "CIELAB": 3}.get(
        page.photometric.name, 1
    )
    alpha = extra == 1 and set(page.extrasamples) <= ALPHA and len(page.extrasamples) == 1
    return page.bitspersample <= 8 and (extra == 0 or alpha)


def _read(path: Named, stacked: bool) -> Shaped[np.ndarray, "..."]:
    import tifffile

    with decoding(path, "a whole TIFF picture"):
        try:
            with tifffile.TiffFile(on_disk_or_in_memory(path)) as file:
                return file.series[0].asarray() if stacked else file.pages.first.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            raise BadSample(
                f"{path}: expected a TIFF that can be unpacked, found a compression that needs "
                "`pip install imagecodecs`."
            ) from error


def on_disk_or_in_memory(path: Named) -> Any:
    """What tifffile opens."""
    return BytesIO(path.data) if isinstance(path, FileBytes) else path
