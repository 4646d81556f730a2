"""Scenes seen by several sensors on one grid: a folder a scene, a raster a sensor, in windows.

As TerraMesh's examples come (Blumenstiel et al., 2025): `TILE/S2L2A.tif`, `S1RTC_dB_x100.tif`,
`DEM.tif`, `LULC.tif`. Neighbouring windows are much alike, so train and test come from different
blocks of a scene, and no window crosses the border of its block.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from multimask.datasets.formats.geokeys import epsg_geo, write_geotiff
from multimask.datasets.formats.geotiff import open_tiff_cube
from multimask.datasets.formats.spectral import SpectralReader
from multimask.datasets.holdout import held_out
from multimask.datasets.readers import Reader
from multimask.datasets.sensors import BIGEARTHNET, centres
from multimask.datasets.table import Table
from multimask.tokens import BadSample

TIFFS = (".tif", ".tiff")


def sensor_tiles(
    folder: str | Path,
    sensors: Sequence[str],
    window: int = 16,
    block: int = 32,
    test: float = 0.4,
    seed: int = 0,
    classes: str | None = None,
    readers: Mapping[str, Reader] | None = None,
) -> Table:
    """A column a sensor (file and window), `scene`, `block`, `split`, `id`, and `label`, the class
    that fills most of a window, where a map of classes is named.

    A scene that lacks a sensor's file has blank cells. Windows do not overlap.

    Args:
        sensors: a column each; the file is that whose name begins so (case does not count), or what
            is written behind an equals sign: `s2`, `height=DEM.tif`.
        window, block: pixels a side; a block is train or test as a whole.
        test: share of the windows held out, as nearly as whole blocks allow.
        classes: the class map, found like a sensor.
        readers: by sensor; else `SpectralReader`, told the bands where `stated` knows them.
    Raises: ValueError where nothing is found, for ambiguous names and sizes that leave nothing;
        BadSample for rasters of a scene that are not on one grid.
    """
    root = Path(folder)
    if block % window:
        raise ValueError(
            f"sensor_tiles: block={block} must be a multiple of window={window}, or windows would "
            "cross its border."
        )
    named = dict(named_file(text) for text in sensors)
    scenes = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    found = {
        scene: {name: file_of(scene, wanted) for name, wanted in named.items()} for scene in scenes
    }
    found = {scene: files for scene, files in found.items() if any(files.values())}
    for name in named:
        if not any(files[name] for files in found.values()):
            raise ValueError(
                f"{root}: no scene has a TIFF for the sensor {name!r}; found "
                f"{', '.join(sorted({f.name for s in scenes for f in s.iterdir()})) or 'none'}."
            )
    columns: dict[str, list[Any]] = {
        name: [] for name in (*named, "scene", "block", "id", *(["label"] if classes else []))
    }
    for scene, files in found.items():
        labels = None if classes is None else class_map(scene, classes)
        height, width = grid_of(scene, files, labels)
        for top in range(0, height - window + 1, window):
            for left in range(0, width - window + 1, window):
                for name, file in files.items():
                    place = f"#window={top},{left},{window},{window}"
                    columns[name].append(file and f"{scene.name}/{file.name}{place}")
                columns["scene"].append(scene.name)
                columns["block"].append(f"{scene.name}/{top // block},{left // block}")
                columns["id"].append(f"{scene.name}/{top:05d},{left:05d}")
                if labels is not None:
                    inside = labels[top : top + window, left : left + window].ravel()
                    columns["label"].append(int(np.bincount(inside).argmax()))
    if len(set(columns["block"])) < 2:
        raise ValueError(f"{root}: scenes hold fewer than two blocks of {block} pixels a side.")
    held = held_out(columns["id"], test, seed, None, columns["block"])
    columns["split"] = np.where(held, "test", "train").tolist()
    given = dict(readers or {})
    for name in named:
        given.setdefault(name, stated(name, next(f[name] for f in found.values() if f[name])))
    return Table.of(columns, {name: given[name] for name in named}, root)


def named_file(text: str) -> tuple[str, str]:
    """A sensor's name, and how its files begin.

    >>> named_file("s2"), named_file("height=DEM.tif")
    (('s2', 's2'), ('height', 'DEM.tif'))
    """
    name, _, wanted = text.partition("=")
    return name, wanted or name


def file_of(scene: Path, wanted: str) -> Path | None:
    """The scene's one TIFF that begins so."""
    files = [f for f in scene.iterdir() if f.suffix.lower() in TIFFS]
    fitting = [f for f in files if f.name.lower().startswith(wanted.lower())]
    exact = [f for f in fitting if wanted.lower() in (f.name.lower(), f.stem.lower())]
    fitting = exact or fitting
    if len(fitting) > 1:
        raise ValueError(
            f"{scene}: several files begin with {wanted!r}: "
            f"{', '.join(sorted(f.name for f in fitting))}; write name=FILE."
        )
    return fitting[0] if fitting else None


def class_map(scene: Path, wanted: str) -> np.ndarray:
    file = file_of(scene, wanted)
    if file is None:
        raise ValueError(f"{scene}: expected a class map {wanted!r}, found none.")
    raster = open_tiff_cube(file)
    if raster.shape[0] != 1 or raster.dtype.kind != "u":
        raise BadSample(f"{file}: expected one band of class numbers, found {raster.shape}.")
    return raster.read(raster.whole, [0])[0].astype(np.int64)


def grid_of(
    scene: Path, files: Mapping[str, Path | None], labels: np.ndarray | None
) -> tuple[int, int]:
    """(height, width) that all rasters of a scene share."""
    sizes = {f.name: open_tiff_cube(f).shape[1:] for f in files.values() if f is not None}
    if labels is not None:
        sizes["the class map"] = labels.shape
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {high} x {wide}" for name, (high, wide) in sizes.items())
        raise BadSample(f"{scene}: expected rasters of one grid, found {told} pixels.")
    return next(iter(sizes.values()))


def stated(name: str, file: Path | None) -> SpectralReader:
    """A reader for files that may not say what their bands are: twelve bands are Sentinel-2's
    without B10, two of a sensor s1 are VV and VH, else bands are named after the sensor."""
    assert file is not None  # of some scene
    raster = open_tiff_cube(file)
    count = raster.shape[0]
    if raster.wavelengths is not None:
        return SpectralReader()
    if count == len(BIGEARTHNET) and name.lower().startswith("s2"):
        return SpectralReader(centres(BIGEARTHNET), BIGEARTHNET, scale=1e-4)
    if count == 2 and name.lower().startswith("s1"):
        return SpectralReader(names=("VV", "VH"))
    if raster.names is not None and len(set(raster.names)) == count > 1:
        return SpectralReader()
    one = (name,) if count == 1 else tuple(f"{name}{band}" for band in range(count))
    return SpectralReader(names=one)


def write_sensor_tiles(folder: Path, scenes: int = 2, size: int = 32, seed: int = 0) -> None:
    """A tiny made set in these folders: heights, two of radar, twelve bands and fields of classes
    that follow from the heights."""
    draw = np.random.default_rng(seed)
    for scene in range(scenes):
        where = folder / f"tile_{scene}"
        where.mkdir(parents=True, exist_ok=True)
        coarse = draw.random((size // 8, size // 8))
        height = np.kron(coarse, np.ones((8, 8)))
        classes = (height * 3).astype(np.uint8)
        noise = draw.normal(0, 0.02, (12, size, size))
        bands = 3000 * (height[None] * np.linspace(0.2, 1, 12)[:, None, None] + noise) + 500
        radar = -1500 + 800 * height[None] + draw.normal(0, 60, (2, size, size))
        geo = epsg_geo((10.0, 0.0, 5e5 + 1e4 * scene, 0.0, -10.0, 6e6), 32632)
        write_geotiff(where / "S2L2A.tif", bands.astype(np.int16), geo)
        write_geotiff(where / "S1RTC_dB_x100.tif", radar.astype(np.int16), geo)
        write_geotiff(where / "DEM.tif", (100 * height[None]).astype(np.int16), geo)
        write_geotiff(where / "LULC.tif", classes[None], geo)
