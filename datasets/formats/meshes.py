"""OFF and OBJ: meshes as text."""

import re

import numpy as np

from multimask.datasets.formats.clouds import (
    WORD_BYTES,
    Cloud,
    Header,
    check_count,
    check_limit,
    checked_faces,
    fans,
    from_table,
    unnamed,
)
from multimask.datasets.formats.files import AnyPath, File
from multimask.tokens import BadSample

# the word may carry prefixes, and ModelNet glues the counts to it: "OFF490 518 0"
OFF = re.compile(rb"(ST)?(C)?(N)?(4)?OFF")


def is_off(start: bytes) -> bool:
    return any(OFF.match(line.strip()) for line in start.split(b"\n")[:1])


def off_header(file: File, path: AnyPath) -> Header:
    count, faces, _ = off_counts(off_lines(file.read(65536), path), path)
    return Header("OFF", count, (), faces)


def load_off(file: File, path: AnyPath, max_points: int) -> Cloud:
    lines = off_lines(file.read(), path)
    count, num_faces, lines = off_counts(lines, path)
    check_count(path, count, "points", count * 3 * WORD_BYTES, sum(map(len, lines)) + len(lines))
    check_limit(path, count, max_points)
    if count + num_faces > len(lines):
        raise BadSample(
            f"{path}: the header claims {count:,} points and {num_faces:,} faces, but "
            f"{len(lines):,} lines follow; the file is cut short or its header is wrong."
        )
    table = rectangular(lines[:count], path, "points")
    if count and table.shape[1] < 3:
        raise BadSample(f"{path}: expected 3 numbers a point, found {table.shape[1]}.")
    names = unnamed(max(table.shape[1], 3))
    columns = {name: table[:, i] for i, name in enumerate(names)} if count else {}
    faces = off_faces(lines[count : count + num_faces], path, count)
    if not count:
        raise BadSample(f"{path}: the file holds no points.")
    return from_table(path, names, columns, faces)


def off_lines(body: bytes, path: AnyPath) -> list[bytes]:
    """Lines with something on them, comments taken off; the first begins with the counts."""
    lines = [line.partition(b"#")[0].strip() for line in body.split(b"\n")]
    lines = [line for line in lines if line]
    magic = OFF.match(lines[0]) if lines else None
    if magic is None:
        raise BadSample(f"{path}: expected a file that begins with OFF.")
    if magic.group(4) or magic.group(1):
        raise BadSample(f"{path}: OFF with a fourth coordinate or texture is not supported.")
    rest = lines[0][magic.end() :].strip()
    if rest.upper().startswith(b"BINARY"):
        raise BadSample(f"{path}: binary OFF is not supported; save it as text.")
    return ([rest] if rest else []) + lines[1:]


def off_counts(lines: list[bytes], path: AnyPath) -> tuple[int, int, list[bytes]]:
    words = lines[0].split() if lines else []
    try:
        count, faces = int(words[0]), int(words[1])
    except (ValueError, IndexError) as error:
        raise BadSample(
            f"{path}: expected numbers of points and faces behind OFF, found "
            f"{b' '.join(words).decode('latin-1')[:60]!r}."
        ) from error
    if count < 0 or faces < 0:
        raise BadSample(f"{path}: the header claims {count} points and {faces} faces.")
    return count, faces, lines[1:]


def off_faces(lines: list[bytes], path: AnyPath, count: int) -> np.ndarray:
    rows = [line.split() for line in lines]
    try:
        if rows and all(len(row) == 4 and row[0] == b"3" for row in rows):
            triangles = np.array(rows)[:, 1:].astype(np.int64)
            return checked_faces(path, triangles, count)
        sizes = [int(row[0]) for row in rows]
        polygons = [
            [int(word) for word in row[1 : 1 + size]] for row, size in zip(rows, sizes, strict=True)
        ]
    except BadSample:
        raise
    except ValueError as error:
        raise BadSample(f"{path}: a face holds what is no whole number.") from error
    for size, polygon in zip(sizes, polygons, strict=True):
        if len(polygon) != size:
            raise BadSample(f"{path}: a face of {size} corners lists {len(polygon)}.")
    return fans(path, polygons, count)


def rectangular(lines: list[bytes], path: AnyPath, what: str) -> np.ndarray:
    """Lines of equally many numbers."""
    rows = [line.split() for line in lines]
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise BadSample(
            f"{path}: expected equally many numbers in every line of {what}, found "
            f"{min(widths)} and {max(widths)}."
        )
    try:
        return np.array(rows, dtype="S").astype(np.float64).reshape(len(rows), -1)
    except ValueError as error:
        raise BadSample(f"{path}: a line of {what} holds what is no number.") from error


def obj_header(file: File, path: AnyPath) -> Header:
    points = faces = 0
    for line in file:
        points += line.startswith((b"v ", b"v\t"))
        faces += line.startswith((b"f ", b"f\t"))
    return Header("OBJ", points, (), faces)


def load_obj(file: File, path: AnyPath, max_points: int) -> Cloud:
    """Vertices (and their colours, where lines have six numbers) and faces; no more."""
    points, polygons = [], []
    for line in file:
        if line.startswith((b"v ", b"v\t")):
            points.append(line[1:].strip())
            check_limit(path, len(points), max_points)
        elif line.startswith((b"f ", b"f\t")):
            try:
                corners = [int(word.partition(b"/")[0]) for word in line.split()[1:]]
            except ValueError as error:
                said = line.decode("latin-1").strip()[:60]
                raise BadSample(f"{path}: {said!r} is no face of an OBJ file.") from error
            # counted from 1, or backwards from the last point so far
            polygons.append([c - 1 if c > 0 else len(points) + c if c else -1 for c in corners])
    if not points:
        raise BadSample(f"{path}: expected an OBJ file with lines 'v x y z', found none.")
    table = rectangular(points, path, "points")
    if table.shape[1] not in (3, 4, 6, 7):
        raise BadSample(f"{path}: expected 3 numbers a point, found {table.shape[1]}.")
    names = ("x", "y", "z") + (("red", "green", "blue") if table.shape[1] >= 6 else ())
    used = [0, 1, 2] + [table.shape[1] - 3 + i for i in range(3)] * (table.shape[1] >= 6)
    columns = {name: table[:, i] for name, i in zip(names, used, strict=True)}
    return from_table(path, names, columns, fans(path, polygons, len(points)))
