"""TIFFs of bands: GeoTIFF, multi-page and OME-TIFF microscopy; only the needed parts are read.

tifffile parses and unpacks; what it cannot unpack (LZW, JPEG, JPEG 2000 ...) goes to rasterio where
that is installed (`pip install multimask[geo]`).
"""

import importlib.util
import logging
import os
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from jaxtyping import Num

from multimask.datasets.formats.cubes import Box, CubeFile, check_claim
from multimask.datasets.formats.files import AnyPath, decoding, opened
from multimask.datasets.formats.geokeys import (
    GDAL_METADATA,
    GDAL_NODATA,
    Geo,
    epsg_geo,
    geo_from_tags,
)
from multimask.tokens import BadSample

Backend = Literal["auto", "tifffile", "rasterio"]
WHAT = "a whole TIFF of bands"
UNPACKS = {1, 8, 32946, 32773}  # none, deflate (two codes), PackBits: without imagecodecs
BANDS = set("CIQS")  # letters of tifffile's axes that may stand for bands
MAX_METADATA = 2**20  # characters of XML that are looked at
NM = {"nm": 1.0, "nanometers": 1.0, "nanometer": 1.0, "um": 1e3, "µm": 1e3, "micrometers": 1e3}


def open_tiff_cube(path: AnyPath, backend: Backend = "auto") -> CubeFile:
    """A TIFF's header as a `CubeFile`. Raises BadSample for what is no stack of bands."""
    import tifffile  # slow to import

    with opened(path, WHAT) as file:
        stored = os.fstat(file.fileno()).st_size
    if backend == "rasterio":
        return open_with_rasterio(path)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # else a line per odd tag
    with decoding(path, WHAT), tifffile.TiffFile(path, _multifile=False) as tiff:
        series = tiff.series[0]
        pages = [None if page is None else page.keyframe for page in series.pages]
        page = series.keyframe
        check_axes(path, series.axes, series.shape)
        codec, dtype = int(page.compression), np.dtype(page.dtype)
        shape = (page.samplesperpixel * len(pages), page.imagelength, page.imagewidth)
        tags = {tag.code: tag.value for tag in page.tags}
        ome = tiff.ome_metadata if tiff.is_ome else None
        labels = (tiff.imagej_metadata or {}).get("Labels") if tiff.is_imagej else None
        total = int(np.prod(series.shape))
    if backend == "auto" and codec not in UNPACKS and not installed("imagecodecs"):
        if installed("rasterio") and len(pages) == 1:
            return open_with_rasterio(path)
        raise BadSample(
            f"{path}: expected a TIFF that can be unpacked, found compression {codec}, which needs "
            "`pip install imagecodecs` (or rasterio, for one-page files)."
        )
    if total != int(np.prod(shape)) or dtype.kind not in "uif":
        raise BadSample(
            f"{path}: expected pages of one size holding real numbers, found {shape} of {dtype} in "
            f"pages and {tuple(series.shape)} in the header."
        )
    check_claim(path, shape, dtype.itemsize, stored)
    facts = metadata_facts(tags, shape[0])
    if ome is not None:
        facts |= ome_facts(ome, shape[0])
    if isinstance(labels, list) and len(labels) == shape[0]:
        facts["names"] = tuple(map(str, labels))

    def read(box: Box, bands: Sequence[int]) -> Num[np.ndarray, "c h w"]:
        with decoding(path, WHAT), tifffile.TiffFile(path, _multifile=False) as tiff:
            return read_window(tiff, box, bands, dtype)

    form = "OME-TIFF" if ome is not None else "TIFF"
    geo = geo_from_tags(tags)
    return CubeFile(str(path), "GeoTIFF" if geo else form, shape, dtype, read, geo=geo, **facts)


def check_axes(path: AnyPath, axes: str, shape: Sequence[int]) -> None:
    strange = [
        f"{letter} of {size}"
        for letter, size in zip(axes, shape, strict=True)
        if letter not in BANDS | {"Y", "X"} and size > 1
    ]
    if strange or not {"Y", "X"} <= set(axes):
        raise BadSample(
            f"{path}: expected bands, height and width, found axes {axes} {tuple(shape)}; "
            f"{', '.join(strange) or 'no rows and columns'} cannot be taken for bands."
        )


def read_window(
    tiff: Any, box: Box, bands: Sequence[int], dtype: np.dtype
) -> Num[np.ndarray, "c h w"]:
    """Only the strips or tiles that the window touches are read and unpacked."""
    pages = tiff.series[0].pages
    samples = tiff.series[0].keyframe.samplesperpixel
    out = np.zeros((len(bands), box.height, box.width), dtype)
    wanted: dict[int, list[tuple[int, int]]] = {}
    for place, band in enumerate(bands):
        wanted.setdefault(band // samples, []).append((place, band % samples))
    for number, places in wanted.items():
        page = pages[number].aspage()
        for plane in planes(page):
            at = [(place, s if plane is None else 0) for place, s in places if plane in (None, s)]
            if at:
                fill(out, tiff.filehandle, page, box, plane or 0, at)
    return out


def planes(page: Any) -> list[int | None]:
    """Planar files keep each sample in parts of its own; None: all samples stand together."""
    separate = page.samplesperpixel > 1 and int(page.planarconfig) == 2
    return list(range(page.samplesperpixel)) if separate else [None]


def fill(
    out: np.ndarray, file: Any, page: Any, box: Box, plane: int, at: list[tuple[int, int]]
) -> None:
    """Copy what the parts of one plane hold of the window; `at` is (place in out, sample)."""
    tall = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
    wide = page.tilewidth if page.is_tiled else page.imagewidth
    if min(tall, wide) < 1:
        raise ValueError("a TIFF whose parts have no size")
    down, across = -(-page.imagelength // tall), -(-page.imagewidth // wide)
    for row in range(box.top // tall, (box.top + box.height - 1) // tall + 1):
        for column in range(box.left // wide, (box.left + box.width - 1) // wide + 1):
            index = plane * down * across + row * across + column
            start, count = page.dataoffsets[index], page.databytecounts[index]
            if count == 0:  # a part that was never written: GDAL's sparse files
                blank = np.full((tall, wide), nothing(page))
                for place, _ in at:
                    paste(out[place], box, row * tall, column * wide, blank)
                continue
            if start + count > file.size:
                raise ValueError("a part lies beyond the end of the file")
            file.seek(start)
            part, _, _ = page.decode(file.read(count), index)
            rows = tall if page.is_tiled else min(tall, page.imagelength - row * tall)
            if part is None or part.shape[1] < rows or part.shape[2] < wide:
                raise ValueError("a part that holds less than it should")
            for place, sample in at:
                paste(out[place], box, row * tall, column * wide, part[0, :, :, sample])


def nothing(page: Any) -> float:
    """What stands where a file holds nothing: its nodata value, else zero."""
    stated = page.tags.get(GDAL_NODATA)
    return 0.0 if stated is None else float(stated.value)


def paste(band: np.ndarray, box: Box, top: int, left: int, part: np.ndarray) -> None:
    first, last = max(top, box.top), min(top + part.shape[0], box.top + box.height)
    start, stop = max(left, box.left), min(left + part.shape[1], box.left + box.width)
    here = part[first - top : last - top, start - left : stop - left]
    band[first - box.top : last - box.top, start - box.left : stop - box.left] = here


# --- what headers say about bands -----------------------------------------------------------------


def parsed(xml: str) -> ElementTree.Element | None:
    """XML that is small and declares no entities; metadata that cannot be read says nothing."""
    if len(xml) > MAX_METADATA or "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        return None
    try:
        return ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", xml))
    except ElementTree.ParseError:
        return None


def metadata_facts(tags: dict[int, Any], count: int) -> dict[str, Any]:
    """Names, wavelengths, scale and nodata from GDAL's tags."""
    facts: dict[str, Any] = {}
    if GDAL_NODATA in tags:
        try:
            facts["nodata"] = float(str(tags[GDAL_NODATA]).strip("\x00 "))
        except ValueError as error:
            raise BadSample(
                f"GeoTIFF: expected a number as nodata, found {tags[GDAL_NODATA]!r}."
            ) from error
    root = parsed(str(tags.get(GDAL_METADATA, "")))
    if root is None:
        return facts
    found: dict[str, dict[int, str]] = {}
    for item in root.iter("Item"):
        sample, text = item.get("sample", ""), (item.text or "").strip()
        if sample.isdigit() and int(sample) < count and text:
            role = item.get("role") or item.get("name", "").lower()
            found.setdefault(role, {})[int(sample)] = text
    return facts | described(found, count)


def described(found: dict[str, dict[int, str]], count: int) -> dict[str, Any]:
    """Per-band texts as facts. Names count where every band has one, wavelengths where any has."""
    facts: dict[str, Any] = {}
    if len(found.get("description", {})) == count:
        facts["names"] = tuple(found["description"][band] for band in range(count))
    units = found.get("wavelength_units", {})
    nm = {
        band: float(text) * NM.get(units.get(band, "nm").lower(), np.nan)
        for band, text in found.get("wavelength", {}).items()
        if is_number(text)
    }
    nm |= {
        band: float(text) * 1e3
        for band, text in found.get("central_wavelength_um", {}).items()
        if is_number(text)
    }
    if nm:
        facts["wavelengths"] = tuple(nm.get(band, float("nan")) for band in range(count))
    for name in ("scale", "offset"):
        texts = found.get(name, {})
        if len(texts) == count and all(map(is_number, texts.values())):
            facts[name] = tuple(float(texts[band]) for band in range(count))
    return facts


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def ome_facts(xml: str, count: int) -> dict[str, Any]:
    """Channel names and emission wavelengths of an OME-TIFF with one sample a channel."""
    root = parsed(xml)
    if root is None:
        return {}
    channels = [element for element in root.iter() if element.tag.rpartition("}")[2] == "Channel"]
    if len(channels) != count:
        return {}
    facts: dict[str, Any] = {}
    names = [element.get("Name") or element.get("Fluor") for element in channels]
    if all(names):
        facts["names"] = tuple(names)
    nm = [
        float(text) * NM.get(element.get("EmissionWavelengthUnit", "nm").lower(), np.nan)
        if is_number(text := element.get("EmissionWavelength", ""))
        else float("nan")
        for element in channels
    ]
    if any(np.isfinite(nm)):
        facts["wavelengths"] = tuple(nm)
    return facts


# --- rasterio -------------------------------------------------------------------------------------


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@contextmanager
def quiet() -> Iterator[None]:
    """That a picture lies nowhere on the ground is no reason to warn."""
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def open_with_rasterio(path: AnyPath) -> CubeFile:
    """The same header through GDAL: any format and compression that it knows."""
    if not installed("rasterio"):
        raise BadSample(
            f"{path}: expected rasterio to read it with, found none; `pip install multimask[geo]`."
        )
    import rasterio
    from rasterio.windows import Window

    with decoding(path, WHAT), quiet(), rasterio.open(path) as source:
        shape = (source.count, source.height, source.width)
        kinds = {np.dtype(name) for name in source.dtypes}
        dtype = np.result_type(*kinds)
        texts: dict[str, dict[int, str]] = {}
        for band in range(source.count):
            for key, text in source.tags(band + 1).items():
                texts.setdefault(key.lower(), {})[band] = text
            if source.descriptions[band]:
                texts.setdefault("description", {})[band] = source.descriptions[band]
        facts = described(texts, source.count)
        if any(scale != 1 for scale in source.scales) or any(source.offsets):
            facts |= {"scale": tuple(source.scales), "offset": tuple(source.offsets)}
        facts["nodata"] = source.nodata
        wkt = source.crs.to_wkt() if source.crs else ""
        epsg = source.crs.to_epsg() if source.crs else None
        transform = tuple(source.transform)[:6]
        placed = source.crs is not None or not source.transform.is_identity
    if dtype.kind not in "uif":
        raise BadSample(f"{path}: expected real numbers, found {dtype}.")
    check_claim(path, shape, dtype.itemsize, os.stat(path).st_size)
    geo = None
    if placed:
        geo = epsg_geo(transform, epsg) if epsg else Geo(transform, wkt=wkt)

    def read(box: Box, bands: Sequence[int]) -> Num[np.ndarray, "c h w"]:
        window = Window(box.left, box.top, box.width, box.height)  # type: ignore[call-arg]
        with decoding(path, WHAT), quiet(), rasterio.open(path) as source:
            return source.read([band + 1 for band in bands], window=window)

    return CubeFile(str(path), "GDAL", shape, dtype, read, geo=geo, **facts)
