"""Clouds as tables of numbers: text, NPY, NPZ, HDF5."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.lib import format as npy

from multimask.datasets.formats.clouds import (
    Cloud,
    Header,
    check_count,
    check_limit,
    from_array,
    from_table,
    unnamed,
)
from multimask.datasets.formats.files import AnyPath, File, decoding
from multimask.datasets.formats.meshes import rectangular
from multimask.tokens import BadSample

NPY, ZIP, HDF5 = b"\x93NUMPY", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"
POINTS = ("points", "xyz", "data", "pc")  # what the array in an archive may be called
NORMALS = ("normal", "normals")

# --- text -----------------------------------------------------------------------------------------


def text_header(file: File, path: AnyPath) -> Header:
    names, lines = text_lines(file, path, first=3)
    rest = sum(bool(line.strip()) and not line.startswith(b"#") for line in file)
    width = len(lines[0].split()) if lines else 0
    names = names or unnamed(width)
    return Header("text", len(lines) + rest, tuple(n for n in names if n not in "xyz"))


def load_text(file: File, path: AnyPath, max_points: int) -> Cloud:
    """Lines of numbers, x, y, z first; separated by blanks, commas or semicolons. A first line of
    words names the columns; a first line of one number (PTS) is the count."""
    names, lines = text_lines(file, path)
    check_limit(path, len(lines), max_points)
    if not lines:
        raise BadSample(f"{path}: the file holds no points.")
    table = rectangular(lines, path, "points")
    if table.shape[1] < 3:
        raise BadSample(f"{path}: expected at least 3 numbers a line, found {table.shape[1]}.")
    if names and len(names) != table.shape[1]:
        raise BadSample(
            f"{path}: the first line names {len(names)} columns, the next has {table.shape[1]}."
        )
    names = names or unnamed(table.shape[1])
    return from_table(path, names, {name: table[:, i] for i, name in enumerate(names)})


def text_lines(
    file: File, path: AnyPath, first: int | None = None
) -> tuple[tuple[str, ...], list[bytes]]:
    """Names of columns if the file has them, and its lines, separators made blanks."""
    body = file.read() if first is None else b"".join(file.readline(4096) for _ in range(first))
    if b"\0" in body[:4096]:
        raise BadSample(f"{path}: expected lines of numbers, found binary data.")
    plain = body.replace(b",", b" ").replace(b";", b" ").split(b"\n")
    lines = [line.strip() for line in plain if line.strip() and not line.startswith(b"#")]
    if not lines:
        return (), []
    words = lines[0].lstrip(b"/").decode("latin-1").split()
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return tuple(word.lower() for word in words), lines[1:]
    if len(numbers) > 1:
        return (), lines
    if first is None and numbers[0] != len(lines) - 1:
        raise BadSample(
            f"{path}: the first line claims {words[0]} points, but {len(lines) - 1:,} lines follow."
        )
    return (), lines[1:]


# --- NPY and NPZ ----------------------------------------------------------------------------------


def npy_shape(
    file: Any, path: AnyPath, what: str = "NPY"
) -> tuple[tuple[int, ...], bool, np.dtype]:
    with decoding(path, f"an {what} array with a whole header"):
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(file)
    if dtype.kind not in "uif" or dtype.hasobject:
        raise BadSample(f"{path}: expected an array of numbers, found {dtype}.")
    return shape, fortran, dtype


def array_header(shape: tuple[int, ...], format: str, path: AnyPath, item: int | None) -> Header:
    shape = one_of(shape, path, item)
    return Header(format, shape[0], unnamed(shape[1])[3:])


def one_of(shape: tuple[int, ...], path: AnyPath, item: int | None) -> tuple[int, int]:
    """The shape of the cloud that is meant."""
    if len(shape) == 3 and item is not None:
        if item >= shape[0]:
            raise BadSample(f"{path}: cloud {item} was asked for, but there are {shape[0]:,}.")
        shape = shape[1:]
    elif len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    elif len(shape) == 3:
        raise BadSample(
            f"{path}: holds {shape[0]:,} clouds; name one as {path}#0 ... #{shape[0] - 1}."
        )
    elif item is not None:
        raise BadSample(f"{path}: cloud {item} was asked for, but the file holds a single one.")
    if len(shape) != 2 or shape[1] < 3:
        raise BadSample(
            f"{path}: expected an array (points, 3 or more numbers), found shape {shape}."
        )
    return shape[0], shape[1]


def load_npy(file: File, path: AnyPath, item: int | None, max_points: int) -> Cloud:
    shape, fortran, dtype = npy_shape(file, path)
    at = file.tell()
    size = file.seek(0, 2) - at
    check_count(path, shape[0] if shape else 0, "rows", count_of(shape) * dtype.itemsize, size)
    rows, width = one_of(shape, path, item)
    check_limit(path, rows, max_points)
    if fortran:
        file.seek(at)
        flat = np.frombuffer(file.read(count_of(shape) * dtype.itemsize), dtype)
        array = flat.reshape(shape, order="F")
        return from_array(path, array[item or 0] if len(shape) == 3 else array)
    file.seek(at + (item or 0) * rows * width * dtype.itemsize)
    flat = np.frombuffer(file.read(rows * width * dtype.itemsize), dtype)
    return from_array(path, flat.reshape(rows, width))


def count_of(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= int(side)
    return total


@contextmanager
def npz_member(file: File, path: AnyPath) -> Iterator[tuple[Any, int]]:
    """The array of points in an archive, opened, and how many bytes it has."""
    with decoding(path, "a whole NPZ archive"), zipfile.ZipFile(file) as archive:
        names = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        name = next((name for name in POINTS if name in names), None)
        if name is None and len(names) == 1:
            (name,) = names
        if name is None:
            raise BadSample(
                f"{path}: expected an array named {', '.join(POINTS)}, found "
                f"{', '.join(sorted(names)[:8]) or 'none'}."
            )
        with archive.open(names[name]) as member:
            yield member, names[name].file_size


def load_npz(file: File, path: AnyPath, item: int | None, max_points: int) -> Cloud:
    with npz_member(file, path) as (member, size):
        shape, fortran, dtype = npy_shape(member, path, "NPZ")
        need = count_of(shape) * dtype.itemsize
        check_count(path, shape[0] if shape else 0, "rows", need, size)
        one_of(shape, path, item)
        check_limit(path, need // (3 * dtype.itemsize), max_points)
        body = member.read(need)
        if len(body) != need:
            raise BadSample(f"{path}: the array is cut short.")
    array = np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")
    return from_array(path, array[item or 0] if len(shape) == 3 else array)


# --- HDF5 -----------------------------------------------------------------------------------------


@contextmanager
def hdf5_arrays(file: File, path: AnyPath) -> Iterator[tuple[Any, Any]]:
    """The datasets of points and of normals (None without)."""
    try:
        import h5py  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            f"{path}: HDF5 files need h5py: pip install 'multimask[points]'."
        ) from error
    with decoding(path, "a whole HDF5 file"), h5py.File(file, "r") as opened:
        arrays = {
            name: opened[name]
            for name in opened
            # links into other files are not followed
            if isinstance(opened.get(name, getlink=True), h5py.HardLink)
            and isinstance(opened[name], h5py.Dataset)
        }
        name = next((name for name in POINTS if name in arrays), None)
        if name is None:
            raise BadSample(
                f"{path}: expected a dataset named {', '.join(POINTS)}, found "
                f"{', '.join(sorted(arrays)[:8]) or 'none'}."
            )
        normals = next((arrays[n] for n in NORMALS if n in arrays), None)
        for array in (arrays[name], normals):
            if array is not None and (array.external or array.is_virtual):
                raise BadSample(f"{path}: datasets that lie in other files are not supported.")
        yield arrays[name], normals


def hdf5_header(file: File, path: AnyPath, item: int | None) -> Header:
    with hdf5_arrays(file, path) as (points, normals):
        made = array_header(tuple(points.shape), "HDF5", path, item)
        names = ("nx", "ny", "nz") if normals is not None else ()
        return Header("HDF5", made.count, (*made.features, *names))


def load_hdf5(file: File, path: AnyPath, item: int | None, max_points: int) -> Cloud:
    with hdf5_arrays(file, path) as (points, normals):
        rows, width = one_of(tuple(points.shape), path, item)
        check_limit(path, rows, max_points)
        if points.dtype.kind not in "uif" or width > 1000:
            raise BadSample(f"{path}: expected numbers, found {width} x {points.dtype} a point.")
        where = (item or 0) if points.ndim == 3 else slice(None)
        cloud = from_array(path, np.asarray(points[where]))
        if normals is None:
            return cloud
        if normals.shape[:-1] != points.shape[:-1] or normals.shape[-1] != 3:
            raise BadSample(
                f"{path}: normals {tuple(normals.shape)} do not fit points {tuple(points.shape)}."
            )
        found = np.asarray(normals[where], dtype=np.float64)
    named = dict(zip(("nx", "ny", "nz"), found.T, strict=True))
    return Cloud(cloud.xyz, {**cloud.features, **named})
