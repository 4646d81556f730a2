"""PLY (Stanford polygons), ascii and binary, either byte order."""

from dataclasses import dataclass

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
    left,
)
from multimask.datasets.formats.files import AnyPath, File
from multimask.tokens import BadSample

MAGIC = b"ply"
TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}
ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
MAX_HEADER_LINES = 10_000
FACES = ("vertex_indices", "vertex_index")


@dataclass(frozen=True)
class Property:
    """`length` is the type of a list's length, None for a single number."""

    name: str
    type: str
    length: str | None = None


@dataclass(frozen=True)
class Element:
    name: str
    count: int
    properties: tuple[Property, ...]

    @property
    def plain(self) -> bool:
        return all(p.length is None for p in self.properties)


def header(file: File, path: AnyPath) -> Header:
    order, elements = parsed(file, path)
    vertices = element(path, elements, "vertex")
    names = tuple(p.name for p in vertices.properties if p.name not in "xyz")
    faces = sum(e.count for e in elements if e.name == "face")
    return Header("PLY " + ("ascii" if not order else "binary"), vertices.count, names, faces)


def load(file: File, path: AnyPath, max_points: int) -> Cloud:
    order, elements = parsed(file, path)
    vertices = element(path, elements, "vertex")
    if not vertices.plain:
        raise BadSample(f"{path}: points with lists as properties are not supported in PLY.")
    sizes = [np.dtype(p.type).itemsize if order else WORD_BYTES for p in vertices.properties]
    least = vertices.count * sum(sizes) - (not order)  # the last line may lack its end
    check_count(path, vertices.count, "vertex rows", least, left(file))
    check_limit(path, vertices.count, max_points)
    body = file.read()
    read = AsciiBody(body, path) if not order else BinaryBody(body, path, order)
    columns: dict[str, np.ndarray] = {}
    faces = None
    for e in elements:
        if e.plain:
            table = read.table(e)
            if e.name == "vertex":
                columns = table
        elif e.name == "face":
            faces = read.faces(e, vertices.count)
        elif columns:
            break  # nothing of use behind
        else:
            raise BadSample(f"{path}: lists before the points are not supported in PLY.")
    return from_table(path, [p.name for p in vertices.properties], columns, faces)


def parsed(file: File, path: AnyPath) -> tuple[str, list[Element]]:
    """Byte order ("" for ascii) and elements; the file then stands at its body."""
    order: str | None = None
    elements: list[Element] = []
    for index in range(MAX_HEADER_LINES):
        line = file.readline(4096)
        words = line.decode("latin-1").split()
        if not line.endswith(b"\n"):
            raise BadSample(f"{path}: the PLY header is cut short: it has no end_header.")
        if index == 0 or not words or words[0] in ("comment", "obj_info"):
            continue
        if words == ["end_header"]:
            if order is None:
                raise BadSample(f"{path}: the PLY header states no format.")
            return order, elements
        try:
            if words[0] == "format":
                order = ORDERS[words[1]]
            elif words[0] == "element":
                elements.append(Element(words[1], int(words[2]), ()))
            elif words[0] == "property":
                last = elements.pop()
                made = (
                    Property(words[4], TYPES[words[3]], TYPES[words[2]])
                    if words[1] == "list"
                    else Property(words[2], TYPES[words[1]])
                )
                elements.append(Element(last.name, last.count, (*last.properties, made)))
            else:
                raise ValueError(words[0])
        except (ValueError, KeyError, IndexError) as error:
            said = line.decode("latin-1").strip()[:60]
            raise BadSample(f"{path}: the PLY header has a line that is none: {said!r}.") from error
    raise BadSample(f"{path}: the PLY header has no end within {MAX_HEADER_LINES:,} lines.")


def element(path: AnyPath, elements: list[Element], name: str) -> Element:
    for e in elements:
        if e.name == name:
            return e
    found = ", ".join(e.name for e in elements) or "none"
    raise BadSample(f"{path}: expected an element {name!r} in the PLY header, found {found}.")


class BinaryBody:
    def __init__(self, body: bytes, path: AnyPath, order: str) -> None:
        self.body, self.path, self.order, self.at = body, path, order, 0

    def table(self, e: Element) -> dict[str, np.ndarray]:
        row = np.dtype([(p.name, self.order + p.type) for p in e.properties])
        size = e.count * row.itemsize
        check_count(self.path, e.count, f"{e.name} rows", size, len(self.body) - self.at)
        rows = np.frombuffer(self.body, row, e.count, self.at) if e.count else np.empty(0, row)
        self.at += size
        return {p.name: rows[p.name].astype(p.type) for p in e.properties}

    def faces(self, e: Element, points: int) -> np.ndarray:
        least = sum(np.dtype(p.length or p.type).itemsize for p in e.properties)
        check_count(self.path, e.count, "faces", e.count * least, len(self.body) - self.at)
        found = self.triangles(e)
        if found is not None:
            return checked_faces(self.path, found, points)
        polygons = []
        for _ in range(e.count):
            for p in e.properties:
                length = 1 if p.length is None else int(self.numbers(p.length, 1)[0])
                values = self.numbers(p.type, length)
                if p.name in FACES:
                    polygons.append(values.tolist())
        return fans(self.path, polygons, points)

    def triangles(self, e: Element) -> np.ndarray | None:
        """All at once where every list has three entries; None where not."""
        fields: list[tuple[str, str, tuple[int, ...]]] = []
        for p in e.properties:
            if p.length is not None:
                if p.name not in FACES:
                    return None
                fields.append(("number of corners", self.order + p.length, ()))
            fields.append((p.name, self.order + p.type, () if p.length is None else (3,)))
        row = np.dtype(fields)
        name = next((p.name for p in e.properties if p.name in FACES), None)
        if name is None or self.at + e.count * row.itemsize > len(self.body):
            return None
        rows = np.frombuffer(self.body, row, e.count, self.at) if e.count else np.empty(0, row)
        if (rows["number of corners"] != 3).any():
            return None
        self.at += e.count * row.itemsize
        return rows[name].astype(np.int64)

    def numbers(self, type: str, count: int) -> np.ndarray:
        size = np.dtype(type).itemsize * count
        if count < 0 or self.at + size > len(self.body):
            raise BadSample(f"{self.path}: the faces are cut short or damaged.")
        values = np.frombuffer(self.body, self.order + type, count, self.at)
        self.at += size
        return values


class AsciiBody:
    """Rows are lines."""

    def __init__(self, body: bytes, path: AnyPath) -> None:
        self.lines = [line for line in body.split(b"\n") if line.strip()]
        self.path, self.at = path, 0

    def rows(self, e: Element) -> list[bytes]:
        have = len(self.lines) - self.at
        if e.count < 0 or e.count > have:
            raise BadSample(
                f"{self.path}: the header claims {e.count:,} {e.name} rows, but {have:,} lines "
                "follow; the file is cut short or its header is wrong."
            )
        self.at += e.count
        return self.lines[self.at - e.count : self.at]

    def table(self, e: Element) -> dict[str, np.ndarray]:
        rows = [line.split() for line in self.rows(e)]
        short = next((row for row in rows if len(row) != len(e.properties)), None)
        if short is not None:
            raise BadSample(
                f"{self.path}: expected {len(e.properties)} numbers in every {e.name} row, found "
                f"a row of {len(short)}."
            )
        made = {}
        for index, p in enumerate(e.properties):
            try:
                column = np.array([row[index] for row in rows], dtype="S").astype(np.float64)
            except ValueError as error:
                raise BadSample(f"{self.path}: {p.name!r} holds what is no number.") from error
            made[p.name] = self.typed(column, p)
        return made

    def typed(self, column: np.ndarray, p: Property) -> np.ndarray:
        if p.type[0] == "f":
            return column.astype(p.type)
        bounds = np.iinfo(p.type)
        if not ((column >= bounds.min) & (column <= bounds.max)).all():
            raise BadSample(f"{self.path}: {p.name!r} holds numbers outside its type.")
        return column.astype(p.type)

    def faces(self, e: Element, points: int) -> np.ndarray:
        polygons = []
        for line in self.rows(e):
            words, at = line.split(), 0
            try:
                for p in e.properties:
                    length = 1 if p.length is None else int(words[at])
                    at += p.length is not None
                    if p.name in FACES:
                        corners = [int(word) for word in words[at : at + length]]
                        if len(corners) != length:
                            raise IndexError
                        polygons.append(corners)
                    at += length
            except (ValueError, IndexError) as error:
                said = line.decode("latin-1")[:60]
                raise BadSample(f"{self.path}: {said!r} is no row of a face.") from error
        return fans(self.path, polygons, points)
