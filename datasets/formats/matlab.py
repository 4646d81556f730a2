"""Cubes in MATLAB files: v5 through SciPy, v7.3 (HDF5) through h5py, a window at a time there."""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Num

from multimask.datasets.formats.cubes import Box, CubeFile, as_bands_first, check_claim, window_of
from multimask.datasets.formats.files import AnyPath, decoding, opened
from multimask.tokens import BadSample

WHAT = "a MATLAB file with a cube"
HDF5 = b"\x89HDF\r\n\x1a\n"
NUMBERS = {
    "double",
    "single",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}
STORED = {
    "double": 8,
    "single": 4,
    **{f"{s}int{b}": b // 8 for s in ("", "u") for b in (8, 16, 32, 64)},
}


def open_matlab(path: AnyPath, variable: str | None = None, layout: str = "hwc") -> CubeFile:
    """The array named `variable`, else the only one with three axes. MATLAB's cubes are (rows,
    columns, bands), so "hwc" is the default."""
    with opened(path, WHAT) as file:
        start = file.read(8)
        file.seek(512)
        later = file.read(8)
        stored = os.fstat(file.fileno()).st_size
    if HDF5 in (start, later):
        return open_hdf5(path, variable, layout, reverse=True)
    from scipy.io import whosmat

    with decoding(path, WHAT):
        listed = {name: (shape, kind) for name, shape, kind in whosmat(path)}
    found = {name: shape for name, (shape, kind) in listed.items() if kind in NUMBERS}
    name = chosen(path, found, variable)
    kind = listed[name][1]
    check_claim(path, found[name], STORED[kind], stored)
    shape, axes = as_bands_first(found[name], layout, path)

    def read(box: Box, bands: Sequence[int]) -> Num[np.ndarray, "c h w"]:
        with decoding(path, WHAT):
            array = whole_array(os.fspath(path), name, os.stat(path).st_mtime_ns)
            if array.shape != found[name] or array.dtype.kind not in "uif":
                raise ValueError("another array than the header says")
            return np.ascontiguousarray(window_of(array, axes, box, bands))

    return CubeFile(str(path), "MATLAB 5", shape, np.dtype(kind), read)


@functools.lru_cache(maxsize=2)
def whole_array(path: str, name: str, changed: int) -> np.ndarray:
    """v5 files can only be read whole; two are kept, as scenes are read window by window."""
    from scipy.io import loadmat

    return loadmat(path, variable_names=[name])[name]


def chosen(path: AnyPath, found: Mapping[str, Sequence[int]], variable: str | None) -> str:
    """The variable asked for, else the only one that looks like a cube, else the only one."""
    if variable is not None:
        if variable not in found:
            raise BadSample(
                f"{path}: expected an array of real numbers named {variable!r}, found "
                f"{', '.join(sorted(found)) or 'none'}."
            )
        return variable
    cubes = [name for name, shape in found.items() if len(shape) == 3]
    if len(cubes) == 1:
        return cubes[0]
    if len(found) == 1:
        return next(iter(found))
    listed = ", ".join(f"{name} {tuple(shape)}" for name, shape in sorted(found.items()))
    raise BadSample(
        f"{path}: expected one array of three axes, found {listed or 'none'}; name the one to read "
        "(variable=...)."
    )


def open_hdf5(
    path: AnyPath,
    variable: str | None = None,
    layout: str = "hwc",
    index: int | None = None,
    reverse: bool = False,
) -> CubeFile:
    """An array of an HDF5 file; with `index` one entry of its first axis. `reverse`: MATLAB writes
    axes last to first."""
    try:
        import h5py
    except ImportError as error:
        raise BadSample(
            f"{path}: expected h5py to read HDF5 (MATLAB v7.3) with, found none; "
            "`pip install multimask[hdf5]`."
        ) from error
    with opened(path, WHAT) as file:
        stored = os.fstat(file.fileno()).st_size
    with decoding(path, WHAT), h5py.File(path, "r") as file:
        found = {
            name: tuple(item.shape)
            for name, item in top_level(file)
            if isinstance(item, h5py.Dataset) and item.dtype.kind in "uif"
        }
        name = chosen(path, shapes_of_one(found, index), variable)
        source: Any = file[name]
        dtype, shape = source.dtype, found[name]
    check_claim(path, shape, dtype.itemsize, stored)
    if index is not None:
        if len(shape) != 4 or index >= shape[0]:
            raise BadSample(
                f"{path}: expected at least {index + 1} samples of three axes in {name!r}, found "
                f"shape {shape}."
            )
        shape = shape[1:]
    file_layout = {"hwc": "cwh", "chw": "whc"}[layout] if reverse else layout
    if len(shape) == 2:
        size, axes = (1, *shape), (-1, 0, 1)
        size = (1, shape[1], shape[0]) if reverse else size
    elif len(shape) == 3:
        axes = tuple(file_layout.index(letter) for letter in "chw")
        size = tuple(shape[axis] for axis in axes)
    else:
        raise BadSample(f"{path}: expected {name!r} to have two or three axes, found {shape}.")

    def read(box: Box, bands: Sequence[int]) -> Num[np.ndarray, "c h w"]:
        with decoding(path, WHAT), h5py.File(path, "r") as file:
            source: Any = file[name]
            if reverse and len(shape) == 2:
                flipped = Box(box.left, box.top, box.width, box.height)
                return window_of(source, (-1, 0, 1), flipped, bands).transpose(0, 2, 1)
            view = Entry(source, index) if index is not None else source
            return np.ascontiguousarray(window_of(view, axes, box, bands))

    form = "MATLAB 7.3" if reverse else "HDF5"
    return CubeFile(str(path), form, size, np.dtype(dtype), read)


def top_level(file: Any) -> list[tuple[str, Any]]:
    """Links that lead outside the file are not followed."""
    kept = []
    for name in file:
        link = file.get(name, getlink=True)
        if type(link).__name__ == "HardLink":
            kept.append((name, file[name]))
    return kept


def shapes_of_one(
    found: dict[str, tuple[int, ...]], index: int | None
) -> dict[str, tuple[int, ...]]:
    return found if index is None else {name: shape[1:] for name, shape in found.items()}


class Entry:
    """One entry of the first axis of a data set, sliced without reading the others."""

    def __init__(self, source: Any, index: int) -> None:
        self.source, self.index = source, index

    def __getitem__(self, place: tuple[slice, ...]) -> np.ndarray:
        return self.source[(self.index, *place)]
