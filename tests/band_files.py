"""What tests of band cubes share: a small cube and its wavelengths."""

import numpy as np

from multimask.datasets.formats.geokeys import epsg_geo

GEO = epsg_geo((10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0), 32632)

NM = (490.0, 560.0, 665.0, 842.0)


def cube(dtype: str = "uint16", shape: tuple[int, int, int] = (4, 37, 53)) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 200, shape).astype(dtype)
