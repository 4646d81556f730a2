"""Any file of bands to what the spectral tokenizer takes: pixels, wavelengths, names."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Num
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
from multimask.datasets.formats.envi import open_envi
from multimask.datasets.formats.files import AnyPath, opened
from multimask.datasets.formats.geotiff import Backend, open_tiff_cube
from multimask.datasets.formats.matlab import open_hdf5, open_matlab
from multimask.datasets.formats.numpy_cubes import open_npy, open_npz
from multimask.datasets.transforms import WindowCrop
from multimask.tokens import BadSample

SUFFIXES = (
    ".tif", ".tiff", ".jp2", ".hdr", ".raw", ".bil", ".bip", ".bsq", ".mat", ".h5", ".hdf5",
    ".npy", ".npz",
)  # fmt: skip


@dataclass(frozen=True)
class SpectralReader:
    """Read GeoTIFF, multi-page and OME-TIFF, ENVI, MATLAB, HDF5, NPY and NPZ cubes.

    Gives `pixels (bands, height, width)` float32 = number * scale + offset, NaN where the file says
    nodata or holds NaN; `wavelengths`, nm, NaN for none; `names` where known. A scale that the file
    itself states comes first. Cells may name a window or an index (`datasets.formats.cubes`), or
    be arrays, also with wavelengths of their own (`{"pixels": ..., "wavelengths": ...}`); of a file
    no more is read than the sample needs.

    Args:
        wavelengths, names: of the file's bands, where the file does not say or says it wrongly.
        bands: which bands, in which order, by name or index; () takes all.
        scale, offset: to physical units (1e-4 for reflectance stored as 0..10000).
        nodata: one more number that means "missing" (before scaling).
        size: height and width of a crop of what the cell names: random with a generator, else
            centred; None takes it all.
        flips: with a generator, mirror top-bottom, left-right and along the diagonal at random.
        variable: the array in MATLAB, HDF5 and NPZ files that hold several.
        layout: order of axes, "chw" or "hwc"; default MATLAB and HDF5 "hwc", NumPy "chw".
        backend: of TIFFs: "auto" takes tifffile where it can unpack them, else rasterio.
        max_numbers: the most that one sample may hold.
    Raises: BadSample.
    """

    wavelengths: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    bands: tuple[int | str, ...] = ()
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    size: int | tuple[int, int] | None = None
    flips: bool = True
    variable: str | None = None
    layout: Literal["chw", "hwc"] | None = None
    backend: Backend = "auto"
    max_numbers: int = 2**28

    packs_as = "arrays"  # one sample may be several files, or a part of one
    suffixes = SUFFIXES

    @classmethod
    def fitted(cls, tokenizer: Any, augment: bool) -> "SpectralReader":
        """The reader that gives a tokenizer its `size`, with the scale and nodata it remembers;
        mirrored at random where `augment`."""
        return cls(
            scale=tokenizer.scale, nodata=tokenizer.nodata, size=tokenizer.size, flips=augment
        )

    @classmethod
    def suggests(cls, path: FilePath) -> dict[str, Any]:
        """What a file says of its bands and size, and their mean and spread, as a tokenizer's
        arguments; of a folder, its first file. Nothing of a table."""
        from multimask.datasets.formats.suggested_bands import suggested

        return suggested(path, cls())

    def open(self, source: Any) -> CubeFile:
        """The file's header, of the sample's index where the cell names one; or an array's."""
        if not isinstance(source, str | os.PathLike):
            return in_memory(source, self.layout or "chw")
        path = os.fspath(source)
        text, _, index = placed(path)
        suffix = FilePath(text).suffix.lower()
        if index is not None and suffix not in (".h5", ".hdf5", ".npy"):
            raise BadSample(f"{path}: expected HDF5 or NPY before #index, found {suffix!r}.")
        match suffix:
            case ".tif" | ".tiff":
                return open_tiff_cube(text, self.backend)
            case ".jp2":
                return open_tiff_cube(text, "rasterio")
            case ".hdr" | ".raw" | ".bil" | ".bip" | ".bsq":
                return open_envi(text)
            case ".mat":
                return open_matlab(text, self.variable, self.layout or "hwc")
            case ".h5" | ".hdf5":
                return open_hdf5(text, self.variable, self.layout or "hwc", index)
            case ".npy":
                return open_npy(text, self.layout or "chw", index)
            case ".npz":
                return open_npz(text, self.variable, self.layout or "chw")
        with opened(text, "a cube of bands"):
            raise BadSample(
                f"{path}: expected a cube of bands ({', '.join(SUFFIXES)}), found the ending "
                f"{suffix!r}."
            )

    def probe(self, source: Any) -> dict[str, Any]:
        """Header facts: bands, height, width, number type, format, place and wavelengths."""
        file, path, box = self.located(source)
        nm = self.stated_wavelengths(file, path)
        known = [x for x in nm or () if np.isfinite(x)]
        return {
            "bands": len(self.chosen(file, path)),
            "height": box.height,
            "width": box.width,
            "dtype": str(file.dtype),
            "format": file.format,
            "epsg": file.geo.epsg if file.geo else None,
            "pixel_size": abs(file.geo.transform[0]) if file.geo else None,
            "shortest_nm": min(known, default=None),
            "longest_nm": max(known, default=None),
        }

    def read(self, source: Any, generator: Generator | None = None) -> dict[str, Any]:
        file, path, box = self.located(source)
        bands = self.chosen(file, path)
        check_box(path, box, file.shape)
        if self.size is not None:
            box = cropped(path, box, self.size, generator)
        check_amount(path, len(bands) * box.height * box.width, self.max_numbers)
        pixels = self.physical(file, file.read(box, bands), bands)
        if generator is not None and self.flips:
            pixels = flipped(pixels, generator)
        sample: dict[str, Any] = {"pixels": pixels}
        nm, names = self.stated_wavelengths(file, path), self.stated_names(file, path)
        if nm is not None:
            sample["wavelengths"] = torch.tensor([nm[band] for band in bands], dtype=torch.float32)
        if names is not None:
            sample["names"] = tuple(names[band] for band in bands)
        return sample

    def located(self, source: Any) -> tuple[CubeFile, AnyPath, Box]:
        """The opened file, what to call it, and the window that is meant."""
        file = self.open(source)
        if not isinstance(source, str | os.PathLike):
            return file, file.path, file.whole
        return file, source, placed(source)[1] or file.whole

    def physical(
        self, file: CubeFile, raw: np.ndarray, bands: Sequence[int]
    ) -> Float[Tensor, "c h w"]:
        missing = np.zeros(raw.shape, dtype=bool)
        for nodata in (file.nodata, self.nodata):
            if nodata is not None and np.isfinite(nodata):
                missing |= raw == np.asarray(nodata, dtype=np.result_type(raw.dtype, np.float32))
        scaled = raw.astype(np.float64 if raw.dtype.itemsize > 2 else np.float32)
        for own, neutral, apply in ((file.scale, 1.0, np.multiply), (file.offset, 0.0, np.add)):
            if own is not None:
                per_band = np.array([own[band] for band in bands], dtype=scaled.dtype)
                if (per_band != neutral).any():
                    scaled = apply(scaled, per_band[:, None, None])
        scaled = scaled * self.scale + self.offset
        scaled[missing] = np.nan
        return torch.from_numpy(np.ascontiguousarray(scaled, dtype=np.float32))

    def stated_wavelengths(self, file: CubeFile, path: AnyPath) -> tuple[float, ...] | None:
        return self.stated("wavelengths", self.wavelengths, file.wavelengths, file, path)

    def stated_names(self, file: CubeFile, path: AnyPath) -> tuple[str, ...] | None:
        return self.stated("names", self.names, file.names, file, path)

    @staticmethod
    def stated(
        what: str,
        own: tuple[Any, ...],
        files: tuple[Any, ...] | None,
        file: CubeFile,
        path: AnyPath,
    ) -> tuple[Any, ...] | None:
        if own and len(own) != file.shape[0]:
            raise BadSample(
                f"{path}: expected {len(own)} bands, as many as the reader's {what}, found "
                f"{file.shape[0]}."
            )
        return own or files

    def chosen(self, file: CubeFile, path: AnyPath) -> list[int]:
        """Indices of the wanted bands in the file."""
        names = self.stated_names(file, path) or ()
        found = []
        for band in self.bands or range(file.shape[0]):
            if isinstance(band, str):
                if band not in names:
                    raise BadSample(
                        f"{path}: expected a band named {band!r}, found "
                        f"{', '.join(names) or 'no names; give the reader names=...'}."
                    )
                band = names.index(band)
            if not 0 <= band < file.shape[0]:
                raise BadSample(f"{path}: expected a band {band}, found {file.shape[0]} bands.")
            found.append(band)
        return found


def in_memory(source: Any, layout: str) -> CubeFile:
    """An array as if it were a file, or a mapping of `pixels` and their `wavelengths`."""
    name, nm = "an array", None
    if isinstance(source, Mapping):
        if not {"pixels", "wavelengths"} <= set(source):
            raise BadSample(
                f"a mapping: expected pixels and wavelengths, found {', '.join(map(str, source))}."
            )
        nm, source = tuple(map(float, source["wavelengths"])), source["pixels"]
    array = np.asarray(source)
    if array.dtype.kind not in "uif":
        raise BadSample(f"{name}: expected real numbers, found {array.dtype}.")
    shape, axes = as_bands_first(array.shape, layout, name)
    if nm is not None and len(nm) != shape[0]:
        raise BadSample(f"{name}: expected {len(nm)} bands, as many as wavelengths, not {shape}.")

    def read(box: Box, bands: Sequence[int]) -> Num[np.ndarray, "c h w"]:
        return window_of(array, axes, box, bands)

    return CubeFile(name, "array", shape, array.dtype, read, nm)


def cropped(
    path: AnyPath, box: Box, size: int | tuple[int, int], generator: Generator | None
) -> Box:
    """A window of the wanted size within the box: drawn from the generator, else the middle."""
    try:
        crop = WindowCrop(size)(box.height, box.width, generator)
    except BadSample as error:
        raise BadSample(f"{path}: {error}") from error
    return Box(box.top + crop.top, box.left + crop.left, crop.height, crop.width)


def flipped(pixels: Num[Tensor, "c h w"], generator: Generator) -> Num[Tensor, "c tall wide"]:
    """One of the eight ways to lay a picture that seen from above has no upper side; of four where
    it is not square."""
    down, right, across = (torch.rand(3, generator=generator) < 0.5).tolist()
    axes = [axis for axis, wanted in ((1, down), (2, right)) if wanted]
    pixels = pixels.flip(axes) if axes else pixels
    if across and pixels.shape[1] == pixels.shape[2]:
        pixels = pixels.transpose(1, 2)
    return pixels.contiguous()
