"""A folder with one TIFF a band, of differing resolution, as one cube on the finest grid."""

from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from multimask.datasets.formats.cubes import Box, CubeFile, check_amount
from multimask.datasets.formats.files import AnyPath
from multimask.datasets.formats.geotiff import open_tiff_cube
from multimask.datasets.formats.spectral import SpectralReader, cropped, flipped
from multimask.tokens import BadSample

WHAT = "a folder with one TIFF a band"


@dataclass(frozen=True)
class BandFolder:
    """Read `<folder>/*_<band>.tif`, one file a band (BigEarthNet, Sentinel products).

    Coarser bands are repeated, pixel by pixel, onto the grid of the finest band read, which must be
    a whole multiple of theirs: no value is made up. Where files say where they lie, all must cover
    the same ground. To keep each resolution at its own size read them as modalities of their own,
    each with a reader of its bands.

    Args:
        bands: names, as they end the files' names. wavelengths: nm, one a band, NaN for none; ()
            says that none has one.
        scale, offset, nodata, size, flips, max_numbers: as `SpectralReader`; size counts pixels of
            the finest band.
    Raises: BadSample.
    """

    bands: tuple[str, ...]
    wavelengths: tuple[float, ...] = ()
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    size: int | tuple[int, int] | None = None
    flips: bool = True
    max_numbers: int = 2**28

    packs_as = "arrays"  # one sample may be several files, or a part of one
    suffixes = ("",)

    def __post_init__(self) -> None:
        if not self.bands or len(self.wavelengths) not in (0, len(self.bands)):
            raise ValueError(
                f"BandFolder: {len(self.bands)} bands and {len(self.wavelengths)} wavelengths; "
                "give at least one band, and a wavelength for each or none."
            )

    def probe(self, source: AnyPath) -> dict[str, Any]:
        files = self.files(source)
        finest = max(files, key=lambda file: file.shape[1])
        return {
            "bands": len(files),
            "height": finest.shape[1],
            "width": finest.shape[2],
            "dtype": str(finest.dtype),
            "format": "folder of TIFF",
            "epsg": finest.geo.epsg if finest.geo else None,
            "pixel_size": abs(finest.geo.transform[0]) if finest.geo else None,
            "resolutions": len({file.shape for file in files}),
        }

    def read(self, source: AnyPath, generator: Generator | None = None) -> dict[str, Any]:
        files = self.files(source)
        height = max(file.shape[1] for file in files)
        width = max(file.shape[2] for file in files)
        check_amount(source, len(files) * height * width, self.max_numbers)
        reader = SpectralReader(scale=self.scale, offset=self.offset, nodata=self.nodata)
        pixels = torch.cat(
            [
                spread(reader.physical(file, file.read(file.whole, [0]), [0]), height, width, file)
                for file in files
            ]
        )
        if self.size is not None:
            box = cropped(source, Box(0, 0, height, width), self.size, generator)
            rows = slice(box.top, box.top + box.height)
            pixels = pixels[:, rows, box.left : box.left + box.width]
        if generator is not None and self.flips:
            pixels = flipped(pixels, generator)
        sample: dict[str, Any] = {"pixels": pixels.contiguous(), "names": self.bands}
        if self.wavelengths:
            sample["wavelengths"] = torch.tensor(self.wavelengths, dtype=torch.float32)
        return sample

    def files(self, path: AnyPath) -> list[CubeFile]:
        """One opened file a band; all of one place."""
        folder = FilePath(path)
        if not folder.is_dir():
            found = "a file" if folder.exists() else "nothing there"
            raise BadSample(f"{path}: expected {WHAT}, found {found}.")
        opened = [self.file(folder, band) for band in self.bands]
        placed = [file for file in opened if file.geo is not None]
        for file in placed:
            check_same_ground(file, placed[0])
        return opened

    @staticmethod
    def file(folder: FilePath, band: str) -> CubeFile:
        found = sorted(folder.glob(f"*_{band}.tif")) or sorted(folder.glob(f"{band}.tif"))
        if len(found) != 1:
            raise BadSample(
                f"{folder}: expected one file *_{band}.tif, found {len(found) or 'none'}."
            )
        file = open_tiff_cube(found[0])
        if file.shape[0] != 1:
            raise BadSample(f"{found[0]}: expected one band, found {file.shape[0]}.")
        return file


def spread(
    pixels: Float[Tensor, "1 h w"], height: int, width: int, file: CubeFile
) -> Float[Tensor, "1 tall wide"]:
    down, right = height // pixels.shape[1], width // pixels.shape[2]
    if pixels.shape[1] * down != height or pixels.shape[2] * right != width or down != right:
        raise BadSample(
            f"{file.path}: expected {height} x {width} pixels, the finest band's, or a whole "
            f"fraction of them, found {file.shape[1]} x {file.shape[2]}."
        )
    return pixels.repeat_interleave(down, 1).repeat_interleave(right, 2)


def check_same_ground(file: CubeFile, first: CubeFile) -> None:
    if file.geo is None or first.geo is None:
        return
    here, there = file.geo.bounds(*file.shape[1:]), first.geo.bounds(*first.shape[1:])
    slack = abs(first.geo.transform[0]) / 2
    apart = max(abs(a - b) for a, b in zip(here, there, strict=True))
    if apart > slack or file.geo.epsg != first.geo.epsg:
        raise BadSample(
            f"{file.path}: expected the same ground as {FilePath(first.path).name}, found bounds "
            f"{tuple(round(x, 3) for x in here)} instead of {tuple(round(x, 3) for x in there)}."
        )
