"""Bands of public sensors: name to centre wavelength in nm.

Sentinel-2A: ESA's MSI user guide, rounded; Landsat 7 ETM+: USGS. Radar and stains have no entry:
they are told apart by name.
"""

from collections.abc import Sequence

SENTINEL2 = {
    "B01": 443.0, "B02": 490.0, "B03": 560.0, "B04": 665.0, "B05": 705.0, "B06": 740.0,
    "B07": 783.0, "B08": 842.0, "B8A": 865.0, "B09": 945.0, "B10": 1375.0, "B11": 1610.0,
    "B12": 2190.0,
}  # fmt: skip
LANDSAT7 = {"B1": 485.0, "B2": 560.0, "B3": 660.0, "B4": 835.0, "B5": 1650.0, "B7": 2220.0}
# the order of its GeoTIFFs: B8A stands last
EUROSAT = (
    "B01",
    "B02",
    "B03",
    "B04",
    "B05",
    "B06",
    "B07",
    "B08",
    "B09",
    "B10",
    "B11",
    "B12",
    "B8A",
)
BIGEARTHNET = (
    "B01",
    "B02",
    "B03",
    "B04",
    "B05",
    "B06",
    "B07",
    "B08",
    "B8A",
    "B09",
    "B11",
    "B12",
)
SO2SAT = (
    "B02",
    "B03",
    "B04",
    "B05",
    "B06",
    "B07",
    "B08",
    "B8A",
    "B11",
    "B12",
)
# its three groups, in order
SATMAE = (
    "B02",
    "B03",
    "B04",
    "B08",
    "B05",
    "B06",
    "B07",
    "B8A",
    "B11",
    "B12",
)
# bands in the order of a set's files, by what `--bands` and readers call them
ORDERS: dict[str, tuple[str, ...]] = {
    "sentinel2": BIGEARTHNET,
    "eurosat": EUROSAT,
    "so2sat": SO2SAT,
    "landsat7": tuple(LANDSAT7),
}


def centres(names: Sequence[str], sensor: dict[str, float] = SENTINEL2) -> tuple[float, ...]:
    """Centre wavelengths of bands, in their order. Raises ValueError for a name it does not have.

    >>> centres(("B04", "B03", "B02"))
    (665.0, 560.0, 490.0)
    """
    missing = [name for name in names if name not in sensor]
    if missing:
        raise ValueError(f"centres: no band {', '.join(missing)}; there are {', '.join(sensor)}.")
    return tuple(sensor[name] for name in names)


def stated_bands(words: Sequence[str]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Names and wavelengths (nm, NaN for none) of what a user calls the bands of a file: a sensor
    of `ORDERS`, or one word a band, which is its wavelength or, else, its name.

    >>> stated_bands(["490", "VV"])
    (('490', 'VV'), (490.0, nan))
    """
    if len(words) == 1 and words[0] in ORDERS:
        names = ORDERS[words[0]]
        return names, centres(names, LANDSAT7 if words[0] == "landsat7" else SENTINEL2)
    return tuple(words), tuple(wavelength(word) for word in words)


def wavelength(word: str) -> float:
    """A number as nm; NaN for a name."""
    try:
        return float(word)
    except ValueError:
        return float("nan")
