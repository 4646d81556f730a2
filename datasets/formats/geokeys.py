"""Where a raster lies on the ground: GeoTIFF's keys, kept as they are, and its transform.

Source: the GeoTIFF standard (OGC 19-008) and GDAL's own two tags.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from jaxtyping import Num

from multimask.datasets.formats.files import AnyPath

SCALE, TIEPOINT, MATRIX, KEYS, DOUBLES, TEXT = 33550, 33922, 34264, 34735, 34736, 34737
GDAL_METADATA, GDAL_NODATA = 42112, 42113
RASTER_TYPE, GEOGRAPHIC, PROJECTED, IS_POINT, USER_DEFINED = 1025, 2048, 3072, 2, 32767

Affine = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Geo:
    """x = a column + b row + c, y = d column + e row + f of a pixel's upper left corner, in the
    units of the coordinate system, which `keys`, `doubles` and `text` (the GeoTIFF tags, verbatim)
    and, for files of other formats, `wkt` describe."""

    transform: Affine
    keys: tuple[int, ...] = ()
    doubles: tuple[float, ...] = ()
    text: str = ""
    wkt: str = ""

    def key(self, wanted: int) -> int | None:
        """A key's number, where it is stored in the directory itself."""
        for place in range(4, len(self.keys) - 3, 4):
            number, where, _, value = self.keys[place : place + 4]
            if number == wanted and where == 0:
                return value
        return None

    @property
    def epsg(self) -> int | None:
        """The coordinate system's EPSG code, None where the keys name none."""
        code = self.key(PROJECTED) or self.key(GEOGRAPHIC)
        return None if code in (None, 0, USER_DEFINED) else code

    def at(self, top: int, left: int) -> "Geo":
        """The same ground seen from a window that begins at this row and column."""
        a, b, c, d, e, f = self.transform
        moved = (a, b, c + a * left + b * top, d, e, f + d * left + e * top)
        return replace(self, transform=moved)

    def bounds(self, height: int, width: int) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) of a raster of this size."""
        a, b, c, d, e, f = self.transform
        corners = [(0, 0), (0, width), (height, 0), (height, width)]
        xs = [a * column + b * row + c for row, column in corners]
        ys = [d * column + e * row + f for row, column in corners]
        return min(xs), min(ys), max(xs), max(ys)


def geo_from_tags(tags: Mapping[int, Any]) -> Geo | None:
    """From a TIFF's tags; None where they place it nowhere."""
    keys = tuple(int(number) for number in tags.get(KEYS, ()))
    matrix, scale, tie = (
        tuple(map(float, tags.get(code, ()))) for code in (MATRIX, SCALE, TIEPOINT)
    )
    if len(matrix) == 16:
        transform = (matrix[0], matrix[1], matrix[3], matrix[4], matrix[5], matrix[7])
    elif len(scale) >= 2 and len(tie) >= 6:
        column, row, _, x, y, _ = tie[:6]
        transform = (scale[0], 0.0, x - column * scale[0], 0.0, -scale[1], y + row * scale[1])
    else:
        return None
    geo = Geo(
        transform,
        keys,
        tuple(map(float, np.atleast_1d(tags.get(DOUBLES, ())))),
        str(tags.get(TEXT, "")),
    )
    return shifted(geo, -0.5) if geo.key(RASTER_TYPE) == IS_POINT else geo


def shifted(geo: Geo, pixels: float) -> Geo:
    """Files whose coordinates mean a pixel's middle are moved to its corner and back."""
    a, b, c, d, e, f = geo.transform
    return replace(geo, transform=(a, b, c + (a + b) * pixels, d, e, f + (d + e) * pixels))


def tags_of(geo: Geo) -> list[tuple[int, int, int, Any, bool]]:
    """As tifffile's extra tags."""
    stored = shifted(geo, 0.5) if geo.key(RASTER_TYPE) == IS_POINT else geo
    a, b, c, d, e, f = stored.transform
    if b == 0 and d == 0 and a > 0 and e < 0:
        places = [(SCALE, (a, -e, 0.0)), (TIEPOINT, (0.0, 0.0, 0.0, c, f, 0.0))]
    else:
        matrix = (a, b, 0.0, c, d, e, 0.0, f, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
        places = [(MATRIX, matrix)]
    tags: list[tuple[int, int, int, Any, bool]] = [
        (code, 12, len(numbers), numbers, True) for code, numbers in places
    ]
    if geo.keys:
        tags.append((KEYS, 3, len(geo.keys), geo.keys, True))
    if geo.doubles:
        tags.append((DOUBLES, 12, len(geo.doubles), geo.doubles, True))
    if geo.text:
        tags.append((TEXT, 2, 0, geo.text, True))
    return tags


def epsg_geo(transform: Affine, epsg: int) -> Geo:
    """A place in a coordinate system named by its EPSG code (geographic ones are 4000-4999)."""
    geographic = 4000 <= epsg < 5000
    kind, code = (2, GEOGRAPHIC) if geographic else (1, PROJECTED)
    keys = (1, 1, 0, 3, 1024, 0, 1, kind, RASTER_TYPE, 0, 1, 1, code, 0, 1, epsg)
    return Geo(transform, keys)


def write_geotiff(
    path: AnyPath,
    pixels: Num[np.ndarray, "c h w"],
    geo: Geo | None = None,
    wavelengths: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
    nodata: float | None = None,
    compress: bool = True,
) -> None:
    """Write bands with their place, wavelengths (nm) and names, whole or not at all.

    Floats with NaN state NaN as nodata. Raises: ValueError where counts do not agree.
    """
    import tifffile  # slow to import

    pixels = np.ascontiguousarray(pixels)
    for field, given in (("wavelengths", wavelengths), ("names", names)):
        if given is not None and len(given) != len(pixels):
            raise ValueError(
                f"write_geotiff: {len(given)} {field} for {len(pixels)} bands; give one a band."
            )
    tags = [] if geo is None else tags_of(geo)
    if nodata is None and pixels.dtype.kind == "f" and np.isnan(pixels).any():
        nodata = float("nan")
    if nodata is not None:
        tags.append((GDAL_NODATA, 2, 0, f"{nodata:g}", True))
    if wavelengths is not None or names is not None:
        tags.append((GDAL_METADATA, 2, 0, band_metadata(wavelengths, names), True))
    folder = os.path.dirname(os.path.abspath(path))
    handle, temporary = tempfile.mkstemp(suffix=".tif", dir=folder)
    try:
        os.close(handle)
        with open(temporary, "wb") as file:
            tifffile.imwrite(
                file,
                pixels,
                photometric="minisblack",
                planarconfig="separate" if len(pixels) > 1 else None,
                compression="zlib" if compress else None,
                extratags=tags,
                metadata=None,
            )
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def band_metadata(wavelengths: Sequence[float] | None, names: Sequence[str] | None) -> str:
    """GDAL's XML: a description and a wavelength a band."""
    items = []
    for band, name in enumerate(names or ()):
        items.append(
            f'<Item name="DESCRIPTION" sample="{band}" role="description">{escape(name)}</Item>'
        )
    for band, nm in enumerate(wavelengths or ()):
        if np.isfinite(nm):
            items.append(f'<Item name="wavelength" sample="{band}">{nm:g}</Item>')
            items.append(f'<Item name="wavelength_units" sample="{band}">nm</Item>')
    return "<GDALMetadata>" + "".join(items) + "</GDALMetadata>"
