"""Motion in NPY and NPZ files: the user names the axes, none is guessed or silently reordered."""

import zipfile
from io import BufferedIOBase
from typing import Any, cast

import numpy as np
from jaxtyping import Shaped

from multimask.datasets.formats.files import AnyPath, decoding, opened
from multimask.datasets.formats.motion import MAX_BYTES, Motion, check_plain, single
from multimask.tokens import BadSample

WHAT = "an NPY or NPZ file of numbers"


def read_array(
    path: AnyPath, axes: str = "mtvc", confidence: bool = False, entry: str | None = None
) -> Motion:
    """A clip from an array; see `as_motion`. `entry` names the array of an NPZ that holds more."""
    return as_motion(load(path, entry), axes, confidence, path)


def probe_array(
    path: AnyPath, axes: str = "mtvc", confidence: bool = False, entry: str | None = None
) -> dict[str, Any]:
    """Sizes from the header; no numbers are read."""
    shape, _ = shape_of(path, entry)
    sizes = dict(zip(named_axes(shape, axes, path), shape, strict=True))
    return {
        "frames": sizes["t"],
        "joints": sizes["v"],
        "dims": sizes["c"] - confidence,
        "bodies": sizes.get("m", 1),
        "format": "NPY",
    }


def as_motion(
    array: Shaped[np.ndarray, "..."], axes: str, confidence: bool, name: AnyPath = "array"
) -> Motion:
    """An array as motion. `axes` names its axes, m bodies, t frames, v joints, c coordinates:
    "mtvc", "ctvm" (ST-GCN's files); where the array has three, m is left out. With `confidence` the
    last coordinate is a confidence: where it is not above 0 the joint is not known.

    Raises: BadSample for other shapes, other types than numbers, infinite numbers.
    """
    order = named_axes(array.shape, axes, name)
    if array.dtype.kind not in "uif":
        raise BadSample(f"{name}: expected numbers, found {array.dtype}.")
    wanted = [axis for axis in "mtvc" if axis in order]
    data = single(name, np.transpose(array, [order.index(axis) for axis in wanted]))
    data = data if "m" in order else data[None]
    if confidence:
        data = np.where(data[..., -1:] > 0, data[..., :-1], np.float32("nan"))
    if not np.isfinite(data).all(axis=-1).any():
        raise BadSample(f"{name}: expected a joint that is known, found NaN only.")
    return Motion(np.ascontiguousarray(data))


def named_axes(shape: tuple[int, ...], axes: str, name: AnyPath) -> str:
    order = axes if len(shape) == 4 else axes.replace("m", "")
    if len(order) != len(shape) or 0 in shape:
        raise BadSample(f"{name}: expected an array of axes {axes!r}, found shape {shape}.")
    return order


# --- files ----------------------------------------------------------------------------------------


def load(path: AnyPath, entry: str | None = None) -> Shaped[np.ndarray, "..."]:
    shape_of(path, entry)  # refuses pickles and headers that claim more than the file holds
    with decoding(path, WHAT):
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            return found[entry_name(path, list(found.files), entry)]


def shape_of(path: AnyPath, entry: str | None = None) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type from the header, after checking that as many bytes follow."""
    check_plain(path, WHAT)
    with opened(path, WHAT) as file:
        start = file.read(6)
        file.seek(0, 2)
        size = file.tell()
        file.seek(0)
        if start.startswith(b"\x80"):
            raise BadSample(f"{path}: expected {WHAT}, found a pickle; pickles may run code.")
        if start.startswith(b"\x93NUMPY"):
            return checked_header(path, file, size)
        if not start.startswith(b"PK"):
            raise BadSample(f"{path}: expected {WHAT}, found something else.")
        with decoding(path, WHAT), zipfile.ZipFile(file) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            member = archive.getinfo(f"{entry_name(path, names, entry)}.npy")
            if member.file_size > MAX_BYTES:
                raise BadSample(
                    f"{path}: expected at most {MAX_BYTES:,} bytes, found {member.file_size:,}."
                )
            with archive.open(member) as inside:
                return checked_header(path, cast(BufferedIOBase, inside), member.file_size)


def checked_header(
    path: AnyPath, file: BufferedIOBase, size: int
) -> tuple[tuple[int, ...], np.dtype]:
    with decoding(path, WHAT):
        version = np.lib.format.read_magic(file)
        reads = {(1, 0): "read_array_header_1_0", (2, 0): "read_array_header_2_0"}
        shape, _, dtype = getattr(np.lib.format, reads[version])(file)
        at = file.tell()
    if dtype.hasobject:
        raise BadSample(f"{path}: expected numbers, found pickled objects, which may run code.")
    wanted = dtype.itemsize
    for length in shape:
        wanted *= length
    if wanted != size - at or wanted > MAX_BYTES:
        raise BadSample(
            f"{path}: expected {wanted:,} bytes for the shape {shape} of its header (at most "
            f"{MAX_BYTES:,}), found {size - at:,}."
        )
    return shape, dtype


def entry_name(path: AnyPath, names: list[str], entry: str | None) -> str:
    if entry is None and len(names) == 1:
        return names[0]
    if entry in names:
        return str(entry)
    asked = "one array" if entry is None else f"an array {entry!r}"
    raise BadSample(f"{path}: expected {asked}, found {', '.join(names[:8]) or 'none'}.")
