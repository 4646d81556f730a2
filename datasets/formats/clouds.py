"""A cloud or mesh as its file states it, and what every format checks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from multimask.datasets.formats.files import AnyPath, File
from multimask.tokens import BadSample

WORD_BYTES = 2  # the least a number takes in a text file, its separator included


@dataclass(frozen=True)
class Cloud:
    """Points as stored, and what the file says beside.

    xyz: in the file's unit, double precision. features: one column a name; 8-bit and 16-bit
    colours are brought to 0..1, all else is as stored. faces: triangles, by index of their points.
    """

    xyz: Float[np.ndarray, "n 3"]
    features: Mapping[str, Float[np.ndarray, " n"]] = field(default_factory=dict)
    faces: Int[np.ndarray, "f 3"] | None = None


@dataclass(frozen=True)
class Header:
    """What is known before the points are read. `count` None: the format does not say."""

    format: str
    count: int | None
    features: tuple[str, ...] = ()
    faces: int = 0

    def report(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "points": self.count,
            "features": " ".join(self.features) or None,
            "faces": self.faces,
        }


def check_count(path: AnyPath, count: int, what: str, need: int, have: int) -> None:
    """Refuse a header that claims more than the file can hold, before anything is allocated."""
    if count < 0:
        raise BadSample(f"{path}: expected a number of {what}, found {count} in the header.")
    if need > have:
        raise BadSample(
            f"{path}: the header claims {count:,} {what} (at least {need:,} bytes), but only "
            f"{have:,} bytes follow; the file is cut short or its header is wrong."
        )


def left(file: File) -> int:
    """Bytes from here to the end of the file."""
    at = file.tell()
    end = file.seek(0, 2)
    file.seek(at)
    return end - at


def check_limit(path: AnyPath, count: int, max_points: int) -> None:
    if count > max_points:
        raise BadSample(
            f"{path}: expected at most {max_points:,} points, the file states {count:,}; raise "
            "max_points if that is true."
        )


def from_table(
    path: AnyPath, names: Sequence[str], columns: Mapping[str, np.ndarray], faces: Any = None
) -> Cloud:
    """A cloud from named columns, x, y and z among them."""
    lacking = [axis for axis in "xyz" if axis not in names]
    if lacking:
        raise BadSample(
            f"{path}: expected columns x, y, z, found {' '.join(names) or 'none'}: "
            f"{', '.join(lacking)} missing."
        )
    xyz = np.stack([np.asarray(columns[axis], dtype=np.float64) for axis in "xyz"], axis=1)
    features = {name: scaled(name, columns[name]) for name in names if name not in "xyz"}
    return Cloud(xyz, features, faces)


COLOURS = {"red", "green", "blue", "alpha", "r", "g", "b"}


def scaled(name: str, column: np.ndarray) -> np.ndarray:
    """Colours stored as unsigned integers in 0..1; everything else as it is."""
    if name in COLOURS and column.dtype.kind == "u" and column.dtype.itemsize <= 2:
        return column.astype(np.float64) / np.iinfo(column.dtype).max
    return column.astype(np.float64)


def unnamed(columns: int) -> tuple[str, ...]:
    """Names of a plain table's columns: x, y, z, then c3, c4, ...

    >>> unnamed(5)
    ('x', 'y', 'z', 'c3', 'c4')
    """
    return ("x", "y", "z", *(f"c{index}" for index in range(3, columns)))


def from_array(path: AnyPath, array: np.ndarray) -> Cloud:
    """A cloud from rows of numbers, coordinates first."""
    if array.ndim != 2 or array.shape[1] < 3:
        raise BadSample(
            f"{path}: expected an array (points, 3 or more numbers), found shape {array.shape}."
        )
    if array.dtype.kind not in "uif":
        raise BadSample(f"{path}: expected numbers, found {array.dtype}.")
    names = unnamed(array.shape[1])
    return from_table(path, names, {name: array[:, i] for i, name in enumerate(names)})


def fans(path: AnyPath, polygons: Sequence[Sequence[int]], count: int) -> Int[np.ndarray, "f 3"]:
    """Polygons as triangles around their first corner; corners must be points that exist."""
    triangles = [
        (polygon[0], polygon[i], polygon[i + 1])
        for polygon in polygons
        for i in range(1, len(polygon) - 1)
    ]
    return checked_faces(path, np.array(triangles, dtype=np.int64).reshape(-1, 3), count)


def checked_faces(path: AnyPath, faces: np.ndarray, count: int) -> Int[np.ndarray, "f 3"]:
    if len(faces) and (faces.min() < 0 or faces.max() >= count):
        wrong = int(faces.min()) if faces.min() < 0 else int(faces.max())
        raise BadSample(f"{path}: a face names point {wrong}, but there are {count} points.")
    return faces.astype(np.int64)
