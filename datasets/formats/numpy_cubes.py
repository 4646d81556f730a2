"""Cubes in NumPy files: NPY memory-mapped, NPZ with its wavelengths and names beside."""

import os
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Num

from multimask.datasets.formats.cubes import Box, CubeFile, as_bands_first, check_claim, window_of
from multimask.datasets.formats.files import AnyPath, decoding, opened
from multimask.datasets.formats.matlab import chosen
from multimask.tokens import BadSample

WHAT = "a NumPy file with a cube"
MAX_NAMES = 65_536  # bytes


def open_npy(path: AnyPath, layout: str = "chw", index: int | None = None) -> CubeFile:
    """(bands, rows, columns) unless `layout` is "hwc". With `index` one entry of the first axis:
    of an array (samples, bands) one spectrum, a cube of 1 x 1 pixel."""
    with opened(path, WHAT):
        pass

    def mapped() -> Num[np.ndarray, "..."]:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "uif":
            raise BadSample(f"{path}: expected one array of real numbers, found another thing.")
        if index is None:
            return array
        if array.ndim not in (2, 4) or index >= len(array):
            raise BadSample(
                f"{path}: expected at least {index + 1} spectra (samples, bands) or cubes of three "
                f"axes, found shape {array.shape}."
            )
        return array[index].reshape(-1, 1, 1) if array.ndim == 2 else array[index]

    with decoding(path, WHAT):
        array = mapped()
    order = "chw" if index is not None and array.shape[1:] == (1, 1) else layout
    shape, axes = as_bands_first(array.shape, order, path)

    def read(box: Box, bands: Sequence[int]) -> Num[np.ndarray, "c h w"]:
        with decoding(path, WHAT):
            return np.ascontiguousarray(window_of(mapped(), axes, box, bands))

    return CubeFile(str(path), "NPY", shape, array.dtype, read)


def open_npz(path: AnyPath, variable: str | None = None, layout: str = "chw") -> CubeFile:
    """The array named `variable`, else `pixels`, else the only one of three axes; `wavelengths`
    (nm) and `names` are read beside it where they are there."""
    with opened(path, WHAT):
        pass
    with decoding(path, WHAT), zipfile.ZipFile(path) as archive:
        headers = {
            info.filename.removesuffix(".npy"): header_of(archive, info)
            for info in archive.infolist()
            if info.filename.endswith(".npy")
        }
        packed = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        numbers = {
            name: shape
            for name, (shape, dtype) in headers.items()
            if dtype.kind in "uif" and name != "wavelengths"
        }
        name = variable or ("pixels" if "pixels" in numbers else None)
        name = chosen(path, numbers, name)
        shape, axes = as_bands_first(numbers[name], layout, path)
        dtype = headers[name][1]
        stored = min(packed[name].compress_size, os.path.getsize(path))
        check_claim(path, numbers[name], dtype.itemsize, stored)
        facts: dict[str, Any] = {}
        for key, kinds in (("wavelengths", "uif"), ("names", "U")):
            if key in headers and headers[key][1].kind in kinds:
                check_list(path, key, headers[key], shape[0])
                with archive.open(f"{key}.npy") as member:
                    facts[key] = tuple(
                        np.lib.format.read_array(member, allow_pickle=False).tolist()
                    )

    def read(box: Box, bands: Sequence[int]) -> Num[np.ndarray, "c h w"]:
        with decoding(path, WHAT), np.load(path, allow_pickle=False) as archive:
            return np.ascontiguousarray(window_of(archive[name], axes, box, bands))

    return CubeFile(str(path), "NPZ", shape, dtype, read, **facts)


def header_of(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype]:
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        readers = {(1, 0): np.lib.format.read_array_header_1_0}
        shape, _, dtype = readers.get(version, np.lib.format.read_array_header_2_0)(member)
        return shape, dtype


def check_list(
    path: AnyPath, key: str, header: tuple[tuple[int, ...], np.dtype], bands: int
) -> None:
    shape, dtype = header
    if shape != (bands,) or bands * dtype.itemsize > MAX_NAMES:
        raise BadSample(f"{path}: expected {bands} {key}, one a band, found shape {shape}.")
