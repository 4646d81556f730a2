"""LAS and LAZ (airborne lidar), through laspy: the extra `points`."""

import os
import struct
from types import ModuleType
from typing import Any

import numpy as np

from multimask.datasets.formats.clouds import (
    Cloud,
    Header,
    check_count,
    check_limit,
    from_table,
)
from multimask.datasets.formats.files import AnyPath, File, decoding
from multimask.tokens import BadSample

MAGIC = b"LASF"
WHAT = "a whole LAS or LAZ file"
CHUNK = 1_000_000  # points decoded at a time: a header that lies cannot make us allocate more
VLR = 54  # bytes of a variable-length record's own header


def header(file: File, path: AnyPath) -> Header:
    check_header(file, path)
    with decoding(path, WHAT), laspy(path).open(file, closefd=False) as opened:
        names = tuple(n for n in opened.header.point_format.dimension_names if n not in "XYZ")
        kind = "LAZ" if opened.header.are_points_compressed else "LAS"
        return Header(kind, int(opened.header.point_count), names)


def load(file: File, path: AnyPath, max_points: int, wanted: tuple[str, ...] | int) -> Cloud:
    """The points, and of the other dimensions those that are wanted (by name, or the first)."""
    check_header(file, path)
    pieces: list[dict[str, np.ndarray]] = []
    with decoding(path, WHAT), laspy(path).open(file, closefd=False) as opened:
        count = int(opened.header.point_count)
        check_limit(path, count, max_points)
        names = [n for n in opened.header.point_format.dimension_names if n not in "XYZ"]
        kept = names[:wanted] if isinstance(wanted, int) else [n for n in names if n in wanted]
        pieces.extend(columns(chunk, kept) for chunk in opened.chunk_iterator(CHUNK))
    found = sum(len(piece["x"]) for piece in pieces)
    if found != count:
        raise BadSample(f"{path}: the header claims {count:,} points, but {found:,} could be read.")
    if not count:
        raise BadSample(f"{path}: the file holds no points.")
    table = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    return from_table(path, list(table), table)


def columns(chunk: Any, names: list[str]) -> dict[str, np.ndarray]:
    return {name: np.array(chunk[name]) for name in ("x", "y", "z", *names)}


def laspy(path: AnyPath) -> ModuleType:
    try:
        import laspy as module  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            f"{path}: LAS and LAZ files need laspy and lazrs: pip install 'multimask[points]'."
        ) from error
    return module


def check_header(file: File, path: AnyPath) -> None:
    """What the library trusts: records that fit before the points, and points that fit the file."""
    start = file.read(375)
    size = os.fstat(file.fileno()).st_size
    if len(start) < 227:
        raise BadSample(f"{path}: the LAS header is cut short.")
    header_size, offset, records, kind, width, legacy = struct.unpack_from("<HIIBHI", start, 94)
    if offset > size or header_size < 227 or header_size > offset:
        raise BadSample(
            f"{path}: the header says that points begin at byte {offset:,}, but the file has "
            f"{size:,} bytes and a header of {header_size:,}."
        )
    at = header_size
    for index in range(records):
        if at + VLR > offset:
            raise BadSample(
                f"{path}: the header claims {records:,} variable-length records, but only {index} "
                "fit before the points."
            )
        file.seek(at + 20)
        at += VLR + struct.unpack("<H", file.read(2))[0]
    if at > offset:
        raise BadSample(f"{path}: the variable-length records reach into the points.")
    newer = start[25] >= 4 and len(start) >= 255 and header_size >= 255
    count = struct.unpack_from("<Q", start, 247)[0] if newer else legacy
    if not kind & 0xC0:  # plain; what compressed points take is not known before
        check_count(path, count, "points", count * width, size - offset)
    file.seek(0)
