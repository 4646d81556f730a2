"""ENVI cubes: a text header (.hdr) beside a file of raw numbers, in three orders of axes."""

import os
from collections.abc import Sequence
from pathlib import Path as FilePath

import numpy as np
from jaxtyping import Num

from multimask.datasets.formats.cubes import Box, CubeFile, window_of
from multimask.datasets.formats.files import AnyPath, decoding, opened
from multimask.datasets.formats.geokeys import Geo
from multimask.tokens import BadSample

WHAT = "an ENVI cube"
TYPES = {1: "u1", 2: "i2", 3: "i4", 4: "f4", 5: "f8", 12: "u2", 13: "u4", 14: "i8", 15: "u8"}
# of each stored order, which axes are (bands, rows, columns)
ORDERS = {"bsq": (0, 1, 2), "bil": (1, 0, 2), "bip": (2, 0, 1)}
BODIES = ("", ".raw", ".img", ".dat", ".bin", ".bil", ".bip", ".bsq")
MAX_HEADER = 2**24  # bytes
UNITS = {
    **dict.fromkeys(("nm", "nanometers", "nanometer"), 1.0),
    **dict.fromkeys(("um", "µm", "micrometers", "micrometer", "microns"), 1e3),
    **dict.fromkeys(("mm", "millimeters"), 1e6),
}
LONGEST_MICROMETRES = 100.0  # wavelengths without a unit that stay below are micrometres


def open_envi(path: AnyPath) -> CubeFile:
    """A cube by its header or its body. Raises BadSample where the two disagree."""
    header, body = both_files(FilePath(path))
    fields = header_fields(header)
    lines, samples, bands = (
        whole_number(header, fields, key) for key in ("lines", "samples", "bands")
    )
    offset = whole_number(header, fields, "header offset", 0)
    order = fields.get("interleave", "bsq").lower()
    if order not in ORDERS:
        raise BadSample(f"{header}: expected interleave bsq, bil or bip, found {order!r}.")
    kind = whole_number(header, fields, "data type")
    if kind not in TYPES or min(lines, samples, bands) < 1:
        raise BadSample(
            f"{header}: expected real numbers in at least one line, sample and band, found data "
            f"type {kind}, {lines} lines, {samples} samples, {bands} bands."
        )
    big = whole_number(header, fields, "byte order", 0) == 1
    dtype = np.dtype(TYPES[kind]).newbyteorder(">" if big else "<")
    stored = os.path.getsize(body)
    needed = offset + lines * samples * bands * dtype.itemsize
    if stored != needed:
        raise BadSample(
            f"{body}: expected {needed:,} bytes, as {header.name} says ({bands} bands of {lines} x "
            f"{samples}), found {stored:,}."
        )
    sizes = {"bsq": (bands, lines, samples), "bil": (lines, bands, samples)}
    shape = sizes.get(order, (lines, samples, bands))

    def read(box: Box, chosen: Sequence[int]) -> Num[np.ndarray, "c h w"]:
        with decoding(body, WHAT):
            stored = np.memmap(body, dtype, "r", offset, shape)
            cut = np.ascontiguousarray(window_of(stored, ORDERS[order], box, chosen))
            return cut.astype(dtype.newbyteorder("="), copy=False)

    factor = number(header, fields, "reflectance scale factor")
    return CubeFile(
        str(path),
        "ENVI",
        (bands, lines, samples),
        dtype.newbyteorder("="),
        read,
        wavelengths=wavelengths(header, fields, bands),
        names=names(header, fields, bands),
        nodata=number(header, fields, "data ignore value"),
        scale=(1 / factor,) * bands if factor else None,
        geo=geo(fields),
    )


def both_files(path: FilePath) -> tuple[FilePath, FilePath]:
    """Header and body, given either: cube.hdr beside cube, cube.raw ..., or cube.raw.hdr."""
    if path.suffix.lower() == ".hdr":
        with opened(path, "an ENVI header"):
            header = path
        stem = path.with_suffix("")
        for suffix in BODIES:
            for body in (
                stem.with_name(stem.name + suffix),
                stem.with_name(stem.name + suffix.upper()),
            ):
                if body.is_file():
                    return header, body
        raise BadSample(
            f"{path}: expected its data file beside it ({stem.name}, or that and one of "
            f"{' '.join(BODIES[1:])}), found none."
        )
    with opened(path, WHAT):
        pass
    for header in (path.with_suffix(".hdr"), path.with_name(path.name + ".hdr")):
        if header.is_file():
            return header, path
    raise BadSample(f"{path}: expected its header {path.stem}.hdr beside it, found none.")


def header_fields(header: FilePath) -> dict[str, str]:
    """`key = value` lines; a value in braces may span several."""
    with opened(header, "an ENVI header") as file:
        raw = file.read(MAX_HEADER + 1)
    text = raw.decode("latin-1")
    if len(raw) > MAX_HEADER or not text.lstrip("\ufeff").startswith("ENVI"):
        raise BadSample(f"{header}: expected an ENVI header, which begins with ENVI, found none.")
    fields: dict[str, str] = {}
    lines = iter(text.splitlines()[1:])
    for line in lines:
        if line.lstrip().startswith(";") or "=" not in line:
            continue
        key, _, value = line.partition("=")
        value = value.strip()
        while value.startswith("{") and "}" not in value:
            more = next(lines, None)
            if more is None:
                raise BadSample(
                    f"{header}: expected {key.strip()!r} to end with }}, found the end."
                )
            value += "\n" + more.strip()
        fields[" ".join(key.lower().split())] = value.strip("{} \n") if value[:1] == "{" else value
    return fields


def whole_number(
    header: FilePath, fields: dict[str, str], key: str, default: int | None = None
) -> int:
    text = fields.get(key)
    if text is None and default is not None:
        return default
    try:
        found = int(text or "")
    except ValueError as error:
        raise BadSample(f"{header}: expected a whole number as {key}, found {text!r}.") from error
    if not 0 <= found < 2**48:
        raise BadSample(f"{header}: expected a sensible {key}, found {found}.")
    return found


def number(header: FilePath, fields: dict[str, str], key: str) -> float | None:
    text = fields.get(key)
    if text is None:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise BadSample(f"{header}: expected a number as {key}, found {text!r}.") from error


def items(value: str) -> list[str]:
    return [item.strip() for item in value.split(",") if item.strip()]


def names(header: FilePath, fields: dict[str, str], bands: int) -> tuple[str, ...] | None:
    if "band names" not in fields:
        return None
    found = items(fields["band names"])
    if len(found) != bands:
        raise BadSample(f"{header}: expected {bands} band names, found {len(found)}.")
    return tuple(found)


def wavelengths(header: FilePath, fields: dict[str, str], bands: int) -> tuple[float, ...] | None:
    """In nm. Without a unit they are micrometres when all lie below 100, else nanometres."""
    if "wavelength" not in fields:
        return None
    try:
        found = [float(item) for item in items(fields["wavelength"])]
    except ValueError as error:
        raise BadSample(f"{header}: expected numbers as wavelength, found others.") from error
    if len(found) != bands:
        raise BadSample(f"{header}: expected {bands} wavelengths, found {len(found)}.")
    unit = fields.get("wavelength units", "unknown").lower()
    if unit in ("unknown", ""):
        unit = "um" if max(found) < LONGEST_MICROMETRES else "nm"
    if unit not in UNITS:
        raise BadSample(
            f"{header}: expected wavelengths in nm or micrometres, found the unit {unit!r}; give "
            "the reader their wavelengths."
        )
    return tuple(nm * UNITS[unit] for nm in found)


def geo(fields: dict[str, str]) -> Geo | None:
    """From `map info` (projection, tie column and row from 1, x, y, pixel sizes); north is up."""
    info = items(fields.get("map info", ""))
    try:
        column, row, x, y, width, height = map(float, info[1:7])
    except ValueError:
        return None
    if any("rotation" in item.lower() for item in info):
        return None  # a turned picture: left out rather than placed wrongly
    transform = (width, 0.0, x - (column - 1) * width, 0.0, -height, y + (row - 1) * height)
    return Geo(transform, wkt=fields.get("coordinate system string", ""))
