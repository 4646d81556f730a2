"""PCD (point cloud library): ascii, binary and binary_compressed."""

import struct
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from multimask.datasets.formats.clouds import (
    WORD_BYTES,
    Cloud,
    Header,
    check_count,
    check_limit,
    from_table,
    left,
)
from multimask.datasets.formats.files import AnyPath, File
from multimask.datasets.formats.lzf import MOST, decompressed
from multimask.datasets.formats.meshes import rectangular
from multimask.tokens import BadSample

KINDS = {"F": "f", "U": "u", "I": "i"}
KEYS = {"VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS"}


@dataclass(frozen=True)
class Layout:
    names: tuple[str, ...]
    types: tuple[str, ...]
    counts: tuple[int, ...]
    points: int
    data: str

    @property
    def itemsize(self) -> int:
        return sum(np.dtype(t).itemsize * c for t, c in zip(self.types, self.counts, strict=True))


def is_pcd(start: bytes) -> bool:
    lines = [line for line in start.split(b"\n") if not line.startswith(b"#")]
    return bool(lines) and lines[0].startswith((b"VERSION", b"FIELDS"))


def header(file: File, path: AnyPath) -> Header:
    layout = parsed(file, path)
    names = tuple(n for n in expanded_names(layout) if n not in "xyz")
    return Header(f"PCD {layout.data}", layout.points, names)


def load(file: File, path: AnyPath, max_points: int) -> Cloud:
    layout = parsed(file, path)
    least = {
        "ascii": layout.points * sum(layout.counts) * WORD_BYTES - 1,
        "binary": layout.points * layout.itemsize,
        "binary_compressed": layout.points * layout.itemsize // MOST,
    }
    check_count(path, layout.points, "points", least[layout.data], left(file))
    check_limit(path, layout.points, max_points)
    body = file.read()
    if layout.data == "ascii":
        columns = from_ascii(body, layout, path)
    elif layout.data == "binary":
        row = np.dtype(
            [
                (str(i), f"<{t}", (c,))
                for i, (t, c) in enumerate(zip(layout.types, layout.counts, strict=True))
            ]
        )
        rows = np.frombuffer(body, row, layout.points)
        columns = [rows[str(index)] for index in range(len(layout.names))]
    else:
        columns = from_compressed(body, layout, path)
    table = expanded(layout, columns)
    return from_table(path, list(table), table)


def parsed(file: File, path: AnyPath) -> Layout:
    said: dict[str, list[str]] = {}
    for _ in range(200):
        line = file.readline(4096)
        words = line.decode("latin-1").split()
        if not line:
            break
        if not words or words[0].startswith("#"):
            continue
        said[words[0]] = words[1:]
        if words[0] == "DATA":
            break
    try:
        names = tuple(said["FIELDS"])
        types = tuple(
            KINDS[kind] + str(int(size))
            for kind, size in zip(said["TYPE"], said["SIZE"], strict=True)
        )
        counts = tuple(int(count) for count in said.get("COUNT", ["1"] * len(names)))
        stated = said.get("POINTS") or [str(int(said["WIDTH"][0]) * int(said["HEIGHT"][0]))]
        points, data = int(stated[0]), said["DATA"][0]
        if not len(names) == len(types) == len(counts) or min(counts, default=1) < 1:
            raise ValueError("columns")
        if [t for t in types if t[1:] not in ("1", "2", "4", "8") or t == "f1"]:
            raise ValueError("types")
    except (KeyError, ValueError, IndexError) as error:
        raise BadSample(
            f"{path}: the PCD header is incomplete or contradicts itself (FIELDS, SIZE, TYPE, "
            "COUNT, POINTS, DATA)."
        ) from error
    if data not in ("ascii", "binary", "binary_compressed") or points < 0:
        raise BadSample(f"{path}: the PCD header states {points} points as DATA {data}.")
    return Layout(names, types, counts, points, data)


def from_ascii(body: bytes, layout: Layout, path: AnyPath) -> list[np.ndarray]:
    width = sum(layout.counts)
    lines = [line for line in body.split(b"\n") if line.strip()]
    if len(lines) < layout.points:
        raise BadSample(
            f"{path}: the header claims {layout.points:,} points, but {len(lines):,} lines follow; "
            "the file is cut short or its header is wrong."
        )
    table = rectangular(lines[: layout.points], path, "points")
    if layout.points and table.shape[1] != width:
        raise BadSample(f"{path}: expected {width} numbers a point, found {table.shape[1]}.")
    edges = np.cumsum((0, *layout.counts))
    pieces = [table[:, a:b] for a, b in pairwise(edges)]
    return [typed(p, kind, path) for p, kind in zip(pieces, layout.types, strict=True)]


def typed(piece: np.ndarray, kind: str, path: AnyPath) -> np.ndarray:
    if kind[0] == "f":
        return piece.astype(kind)
    bounds = np.iinfo(kind)
    if not ((piece >= bounds.min) & (piece <= bounds.max)).all():
        raise BadSample(f"{path}: a column of type {kind} holds numbers outside it.")
    return piece.astype(kind)


def from_compressed(body: bytes, layout: Layout, path: AnyPath) -> list[np.ndarray]:
    """One column after the other, compressed as a whole."""
    if len(body) < 8:
        raise BadSample(f"{path}: the compressed points are cut short.")
    packed, size = struct.unpack("<II", body[:8])
    check_count(path, layout.points, "points", packed, len(body) - 8)
    if size != layout.points * layout.itemsize:
        raise BadSample(
            f"{path}: {layout.points:,} points of {layout.itemsize} bytes do not make the "
            f"{size:,} bytes that the file states."
        )
    raw = decompressed(body[8 : 8 + packed], size, path)
    columns, at = [], 0
    for kind, count in zip(layout.types, layout.counts, strict=True):
        column = np.frombuffer(raw, f"<{kind}", layout.points * count, at)
        columns.append(column.reshape(layout.points, count))
        at += column.nbytes
    return columns


def expanded_names(layout: Layout) -> list[str]:
    names = []
    for name, count in zip(layout.names, layout.counts, strict=True):
        if name in ("rgb", "rgba"):
            names += ["red", "green", "blue"]
        elif name != "_":
            names += [name] if count == 1 else [f"{name}{i}" for i in range(count)]
    return names


def expanded(layout: Layout, columns: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Single columns by name; packed colours are taken apart, padding is left out."""
    table = {}
    for name, column in zip(layout.names, columns, strict=True):
        if name in ("rgb", "rgba") and column.dtype.itemsize in (4, 8):
            packed = column[:, 0]
            if packed.dtype.kind == "f":  # the bits of a float are the colour
                packed = np.ascontiguousarray(packed, dtype=np.float32).view(np.uint32)
            for shift, colour in ((16, "red"), (8, "green"), (0, "blue")):
                table[colour] = (packed.astype(np.uint32) >> shift & 255).astype(np.uint8)
        elif name != "_":
            single = column.shape[1] == 1
            for index in range(column.shape[1]):
                table[name if single else f"{name}{index}"] = column[:, index]
    return table
