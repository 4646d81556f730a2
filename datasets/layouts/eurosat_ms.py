"""EuroSAT, all 13 bands: one folder a class, one 64 x 64 GeoTIFF a sample.

Helber et al., IEEE JSTARS 2019. `EuroSAT_MS/<Class>/<Class>_<n>.tif`, digital numbers = reflectance
x 10,000, bands in the order B01 .. B12, B8A.
"""

from pathlib import Path

import numpy as np

from multimask.datasets.formats.geokeys import epsg_geo, write_geotiff
from multimask.datasets.formats.spectral import SpectralReader
from multimask.datasets.sensors import EUROSAT, centres
from multimask.datasets.table import Table

CLASSES = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture",
    "PermanentCrop", "Residential", "River", "SeaLake",
)  # fmt: skip
READER = SpectralReader(wavelengths=centres(EUROSAT), names=EUROSAT, scale=1e-4)


def eurosat_ms(folder: str | Path, reader: SpectralReader = READER) -> Table:
    """Columns `cube`, `label` (class name), `id`. The authors state no split: use `split_off`.

    Raises: ValueError where none of the class folders is there.
    """
    root = Path(folder)
    there = [name for name in CLASSES if (root / name).is_dir()]
    files = [file for name in there for file in sorted((root / name).glob("*.tif"))]
    if not files:
        raise ValueError(
            f"{root}: expected folders {', '.join(CLASSES[:3])} ... with .tif files, found none."
        )
    columns = {
        "cube": [file.relative_to(root).as_posix() for file in files],
        "label": [file.parent.name for file in files],
        "id": [file.stem for file in files],
    }
    return Table.of(columns, {"cube": reader}, root)


def write_fake(folder: str | Path, per_class: int = 2, size: int = 64) -> None:
    """A made set in the same folders: noise around a level of each class and band."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (Path(folder) / name).mkdir(parents=True, exist_ok=True)
        for sample in range(1, per_class + 1):
            level = 500 + 200 * number + 50 * np.arange(13)[:, None, None]
            pixels = (level + rng.integers(0, 100, (13, size, size))).astype(np.uint16)
            geo = epsg_geo((10.0, 0.0, 5e5, 0.0, -10.0, 5e6 + 640 * sample), 32632)
            write_geotiff(Path(folder) / name / f"{name}_{sample}.tif", pixels, geo)
