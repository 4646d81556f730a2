"""Writing pictures and maps in the format of files that are there already."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num
from PIL import Image

from multimask.datasets.formats.cubes import placed
from multimask.datasets.formats.files import opened
from multimask.datasets.formats.geokeys import Geo, write_geotiff
from multimask.datasets.formats.geotiff import open_tiff_cube
from multimask.datasets.formats.pictures import picture_header
from multimask.tokens import BadSample

TIFFS = (".tif", ".tiff")
PILLOWS = {  # what Pillow writes, and modes of the numbers and channels that it can hold
    ".png": ("1", "L", "LA", "RGB", "RGBA", "P", "I;16", "I"),
    ".jpg": ("L", "RGB"),
    ".jpeg": ("L", "RGB"),
    ".webp": ("RGB", "RGBA"),
    ".bmp": ("1", "L", "RGB", "P"),
    ".pgm": ("L", "I;16"),
}
MODES = {("u1", 1): "L", ("u1", 2): "LA", ("u1", 3): "RGB", ("u1", 4): "RGBA", ("u2", 1): "I;16"}
QUALITY = 95  # of JPEG and WebP
ANY_SIZE = 2**62


@dataclass(frozen=True)
class RasterFormat:
    """What a file is like, but for its numbers: ending, number type, palette, bands, nodata."""

    suffix: str = ".tif"
    dtype: str = "f4"
    palette: tuple[int, ...] = ()
    names: tuple[str, ...] | None = None
    wavelengths: tuple[float, ...] | None = None
    nodata: float | None = None

    @property
    def whole(self) -> bool:
        """Whether it holds whole numbers only."""
        return np.dtype(self.dtype).kind in "uib"

    def typed(self, numbers: Num[np.ndarray, "c h w"], unknown: float) -> Num[np.ndarray, "c h w"]:
        """Numbers as the file's type: whole ones rounded and limited to its range, NaN as nodata,
        else `unknown`."""
        if not self.whole:
            return numbers.astype(self.dtype)
        limits = np.iinfo(self.dtype)
        hole = unknown if self.nodata is None else self.nodata
        filled = np.where(np.isnan(numbers), hole, np.rint(numbers.astype(np.float64)))
        return np.clip(filled, limits.min, limits.max).astype(self.dtype)


def format_of(source: Any) -> RasterFormat | None:
    """Of a file, or of the file of a cell that names a part; None for arrays and other sources.

    Raises: BadSample for a file that cannot be opened.
    """
    if not isinstance(source, str | os.PathLike):
        return None
    path = placed(source)[0]
    suffix = Path(path).suffix.lower()
    if suffix in TIFFS:
        file = open_tiff_cube(path)
        dtype = file.dtype.newbyteorder("=").str[1:]
        return RasterFormat(suffix, dtype, (), file.names, file.wavelengths, file.nodata)
    if suffix == ".npy":
        try:
            dtype = np.load(path, mmap_mode="r", allow_pickle=False).dtype
        except (OSError, ValueError) as error:
            raise BadSample(f"{path}: expected a NPY array, found another thing.") from error
        dtype = np.dtype("u1") if dtype.kind == "b" else dtype  # true or false: no room for unknown
        return RasterFormat(suffix, dtype.newbyteorder("=").str[1:])
    if suffix not in PILLOWS:
        return None
    with opened(path, "a picture") as file:
        image = picture_header(file, path, ANY_SIZE)
        palette = tuple(image.getpalette() or ()) if image.mode == "P" else ()
        return RasterFormat(suffix, "u2" if image.mode.startswith("I") else "u1", palette)


def write_raster(
    path: Path, pixels: Num[np.ndarray, "c h w"], like: RasterFormat, geo: Geo | None = None
) -> None:
    """Write numbers that are of the format's type already, whole or not at all.

    GeoTIFFs get the place on the ground; other formats cannot hold it.

    Raises: ValueError for what the format cannot hold.
    """
    if like.suffix in TIFFS:
        count = len(pixels)
        facts = {"names": like.names, "wavelengths": like.wavelengths}
        fitting = {n: v for n, v in facts.items() if v is not None and len(v) == count}
        write_geotiff(path, pixels, geo, nodata=like.nodata, **fitting)
        return
    handle, temporary = tempfile.mkstemp(suffix=like.suffix, dir=path.parent)
    os.close(handle)
    try:
        if like.suffix == ".npy":
            np.save(temporary, pixels[0] if len(pixels) == 1 else pixels)
        else:
            picture(pixels, like).save(temporary, quality=QUALITY)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def holds(like: RasterFormat, channels: int) -> bool:
    """Whether a file of this format can hold so many channels of its number type."""
    if like.suffix in (*TIFFS, ".npy"):
        return True
    return MODES.get((like.dtype, channels)) in PILLOWS.get(like.suffix, ())


def picture(pixels: Num[np.ndarray, "c h w"], like: RasterFormat) -> Image.Image:
    found = pixels.dtype.newbyteorder("=").str[1:]
    if MODES.get((found, len(pixels))) is None:
        raise ValueError(
            f"write_raster: {like.suffix} holds 1 to 4 channels of 8 bit or one of 16, not "
            f"{len(pixels)} of {pixels.dtype}."
        )
    made = Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, 2))
    if like.palette:
        made.putpalette(like.palette)
    return made
