"""BigEarthNet (first release): a folder a patch, one GeoTIFF a band, labels in a JSON file.

Sumbul et al., IGARSS 2019 and 2021. `<patch>/<patch>_B02.tif` of 120, 60 or 20 pixels a side and
`<patch>/<patch>_labels_metadata.json`; radar patches hold `_VV.tif` and `_VH.tif`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from multimask.datasets.formats.band_folder import BandFolder
from multimask.datasets.formats.geokeys import epsg_geo, write_geotiff
from multimask.datasets.readers import Reader
from multimask.datasets.sensors import BIGEARTHNET, centres
from multimask.datasets.table import Table
from multimask.tokens import BadSample

RESOLUTIONS = {  # metres a pixel
    "10m": ("B02", "B03", "B04", "B08"),
    "20m": ("B05", "B06", "B07", "B8A", "B11", "B12"),
    "60m": ("B01", "B09"),
}
ALL_BANDS = BandFolder(BIGEARTHNET, centres(BIGEARTHNET), scale=1e-4)
RADAR = BandFolder(("VV", "VH"))
LABELS = "_labels_metadata.json"


def bigearthnet(folder: str | Path, by_resolution: bool = False) -> Table:
    """Columns `s2` (a patch's folder; bands on the 10 m grid), `s1` where it is a radar patch,
    `labels` (class names joined by |), `acquired`, `id`.

    With `by_resolution` the optical bands are three modalities `s2_10m`, `s2_20m`, `s2_60m` of 120,
    60 and 20 pixels, nothing repeated. Optical and radar patches of one place share a row where
    the radar's JSON file names its optical patch and that is there.

    Raises: ValueError where there is no patch; BadSample for a JSON file that is none.
    """
    root = Path(folder)
    patches = sorted(path.parent for path in root.glob(f"*/*{LABELS}"))
    if not patches:
        raise ValueError(f"{root}: expected folders with a file *{LABELS}, found none.")
    known = {patch.name: metadata(patch) for patch in patches}
    radar = {name for name in known if name.startswith("S1")}
    optical = [name for name in known if name not in radar]
    partner = {other: name for name in sorted(radar) if (other := optical_of(known[name])) in known}
    alone = [name for name in sorted(radar) if name not in partner.values()]
    names = optical + alone
    readers: dict[str, Reader | None] = {"s1": RADAR}
    own = [name if name in optical else None for name in names]
    columns: dict[str, list[Any]] = {
        "s1": [name if name in radar else partner.get(name) for name in names],
        "labels": ["|".join(map(str, known[name].get("labels", []))) for name in names],
        "acquired": [known[name].get("acquisition_date") for name in names],
        "id": names,
    }
    if by_resolution:
        for step, bands in RESOLUTIONS.items():
            readers[f"s2_{step}"] = BandFolder(bands, centres(bands), scale=1e-4)
            columns[f"s2_{step}"] = own
    else:
        readers["s2"], columns["s2"] = ALL_BANDS, own
    if not radar:
        del readers["s1"], columns["s1"]
    return Table.of(columns, readers, root)


def metadata(patch: Path) -> dict[str, Any]:
    file = patch / f"{patch.name}{LABELS}"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadSample(f"{file}: expected a JSON file with labels, found none.") from error
    if not isinstance(found, dict) or not isinstance(found.get("labels", []), list):
        raise BadSample(f"{file}: expected an object with a list of labels, found another thing.")
    return found


def optical_of(stated: dict[str, Any]) -> str:
    """The optical patch of the same place, as a radar patch's JSON file names it."""
    return str(stated.get("corresponding_s2_patch", ""))


def write_fake(folder: str | Path, patches: int = 2) -> None:
    """Made patches in the same folders and sizes, the first with its radar twin."""
    rng = np.random.default_rng(0)
    for number in range(patches):
        name = f"S2A_MSIL2A_20170617T113321_{number}_55"
        labels = ["Pastures"] if number % 2 else ["Coniferous forest", "Peatbogs"]
        stated = {"labels": labels, "acquisition_date": "2017-06-17 11:33:21"}
        write_patch(Path(folder), name, stated, rng, number, RESOLUTIONS)
        if number == 0:
            stated = stated | {"corresponding_s2_patch": name}
            write_patch(Path(folder), f"S1A_{number}", stated, rng, number, {"10m": ("VV", "VH")})


def write_patch(
    folder: Path,
    name: str,
    stated: dict[str, Any],
    rng: np.random.Generator,
    place: int,
    bands: dict[str, tuple[str, ...]],
) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / f"{name}{LABELS}").write_text(json.dumps(stated))
    for step, of_step in bands.items():
        metres = float(step.removesuffix("m"))
        side = int(1200 / metres)
        geo = epsg_geo((metres, 0.0, 6e5, 0.0, -metres, 7e6 - 1200.0 * place), 32635)
        for band in of_step:
            pixels = rng.integers(200, 4000, (1, side, side)).astype(np.uint16)
            write_geotiff(folder / name / f"{name}_{band}.tif", pixels, geo, compress=False)
