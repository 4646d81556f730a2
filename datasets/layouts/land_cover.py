"""Scenes with a land-cover map beside them: windows that one class fills.

A folder a scene, in it a picture of all bands and a raster of class numbers on the same grid, by
default `S2L2A.tif` and `LULC.tif` (Sentinel-2 and land cover, as the examples of TerraMesh come;
Blumenstiel et al. 2025). Neighbouring windows are much alike, so train and test come from different
blocks of a scene, and no window crosses the border of its block.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num

from multimask.datasets.formats.geokeys import epsg_geo, write_geotiff
from multimask.datasets.formats.geotiff import open_tiff_cube
from multimask.datasets.formats.spectral import SpectralReader
from multimask.datasets.holdout import held_out
from multimask.datasets.sensors import BIGEARTHNET, centres
from multimask.datasets.table import Table
from multimask.tokens import BadSample

READER = SpectralReader(wavelengths=centres(BIGEARTHNET), names=BIGEARTHNET, scale=1e-4)


def land_cover_windows(
    folder: str | Path,
    window: int = 8,
    purity: float = 0.9,
    block: int = 56,
    test: float = 0.4,
    fewest: int = 10,
    seed: int = 0,
    image: str = "S2L2A.tif",
    classes: str = "LULC.tif",
    reader: SpectralReader = READER,
) -> Table:
    """Columns `cube` (file and window), `label` (class number), `purity`, `scene`, `block`,
    `split`, `id`. Windows stand side by side and do not overlap.

    Args: window, pixels a side; purity, share of a window that its class must fill; block, pixels a
        side of the squares that are train or test as a whole; test, share of the windows held out,
        as nearly as whole blocks allow; fewest, windows that a class must have, in train and in
        test, to be kept; image and classes, the files of a scene's folder; reader, of the image.
    Raises: ValueError where there is no scene, and for sizes that leave nothing; BadSample for a
        map that is not on the image's grid.
    """
    root = Path(folder)
    scenes = sorted(path.parent for path in root.glob(f"*/{classes}"))
    if not scenes:
        raise ValueError(f"{root}: expected folders with {image} and {classes}, found none.")
    if block % window:
        raise ValueError(
            f"land_cover_windows: block={block} must be a multiple of window={window}, or windows "
            "would cross its border."
        )
    found = [
        (scene.name, row, column, number, share)
        for scene in scenes
        for row, column, number, share in pure_windows(scene, image, classes, window)
        if share >= purity
    ]
    blocks = [f"{name}/{row // block},{column // block}" for name, row, column, _, _ in found]
    if len(set(blocks)) < 2:
        raise ValueError(
            f"{root}: {len(set(blocks))} blocks of {block} pixels hold a window of {window} of "
            f"which one class fills {purity:.0%}; choose smaller ones."
        )
    ids = [f"{name}/{row:05d},{column:05d}" for name, row, column, _, _ in found]
    held = held_out(ids, test, seed, None, blocks)
    columns: dict[str, list[Any]] = {
        "cube": [
            f"{name}/{image}#window={row},{column},{window},{window}"
            for name, row, column, _, _ in found
        ],
        "label": [number for _, _, _, number, _ in found],
        "purity": [share for _, _, _, _, share in found],
        "scene": [name for name, _, _, _, _ in found],
        "block": blocks,
        "split": np.where(held, "test", "train").tolist(),
        "id": ids,
    }
    table = Table.of(columns, {"cube": reader}, root)
    label = np.array(columns["label"])
    kept = [
        number
        for number in np.unique(label)
        if min((label[~held] == number).sum(), (label[held] == number).sum()) >= fewest
    ]
    if not kept:
        raise ValueError(f"{root}: no class has {fewest} windows in train and in test.")
    return table.select(np.isin(label, kept))


def pure_windows(
    scene: Path, image: str, classes: str, window: int
) -> Iterator[tuple[int, int, int, float]]:
    """(row, column, most frequent class, its share) of every window; class 0 is no class."""
    truth, cube = open_tiff_cube(scene / classes), open_tiff_cube(scene / image)
    if truth.shape != (1, *cube.shape[1:]) or truth.dtype.kind not in "ui":
        raise BadSample(
            f"{scene / classes}: expected one band of whole numbers of {cube.shape[1]} x "
            f"{cube.shape[2]} pixels, as {image} has, found {truth.shape} of {truth.dtype}."
        )
    numbers: Num[np.ndarray, "h w"] = truth.read(truth.whole, [0])[0]
    for row in range(0, numbers.shape[0] - window + 1, window):
        for column in range(0, numbers.shape[1] - window + 1, window):
            here = numbers[row : row + window, column : column + window]
            found, counts = np.unique(here, return_counts=True)
            most = int(counts.argmax())
            if found[most]:
                yield row, column, int(found[most]), float(counts[most] / here.size)


def write_fake(folder: str | Path, scenes: int = 2, size: int = 112) -> None:
    """Made scenes in files of the same names: fields of four classes, one spectrum each."""
    rng = np.random.default_rng(0)
    spectra = rng.integers(500, 5000, (5, 12))
    for number in range(scenes):
        fields = rng.integers(1, 5, (size // 16, size // 16)).repeat(16, 0).repeat(16, 1)
        cube = spectra[fields].transpose(2, 0, 1) + rng.integers(0, 300, (12, size, size))
        geo = epsg_geo((10.0, 0.0, 6e5, 0.0, -10.0, 5e6 - 10.0 * size * number), 32633)
        where = Path(folder) / f"scene_{number}"
        where.mkdir(parents=True, exist_ok=True)
        write_geotiff(where / "S2L2A.tif", cube.astype(np.int16), geo)
        write_geotiff(where / "LULC.tif", fields[None].astype(np.uint8), geo)
