"""So2Sat LCZ42: one HDF5 file a split, 32 x 32 patches of Sentinel-1 and Sentinel-2.

Zhu et al., IEEE GRSM 2020. `training.h5`, `validation.h5`, `testing.h5` hold `sen1` (n, 32, 32, 8),
`sen2` (n, 32, 32, 10; reflectance) and `label` (n, 17), one-hot. Needs h5py, the extra `hdf5`.
"""

from pathlib import Path
from typing import Any

import numpy as np

from multimask.datasets.formats.files import decoding, opened
from multimask.datasets.formats.spectral import SpectralReader
from multimask.datasets.sensors import SO2SAT, centres
from multimask.datasets.table import Table
from multimask.tokens import BadSample

SPLITS = {"training": "train", "validation": "val", "testing": "test"}
RADAR = (
    "VH real", "VH imaginary", "VV real", "VV imaginary", "VH intensity", "VV intensity",
    "covariance real", "covariance imaginary",
)  # fmt: skip
OPTICAL_READER = SpectralReader(
    variable="sen2", layout="hwc", wavelengths=centres(SO2SAT), names=SO2SAT
)
RADAR_READER = SpectralReader(variable="sen1", layout="hwc", names=RADAR)


def so2sat(folder: str | Path) -> Table:
    """Columns `s2`, `s1` (a file and a row), `label` (local climate zone 0..16), `split`, `id`.

    Raises: ValueError where none of the files is there; BadSample for one that is another thing.
    """
    root = Path(folder)
    columns: dict[str, list[Any]] = {name: [] for name in ("s2", "s1", "label", "split", "id")}
    for stem, split in SPLITS.items():
        if not (root / f"{stem}.h5").exists():
            continue
        zones = labels(root / f"{stem}.h5")
        cells = [f"{stem}.h5#index={row}" for row in range(len(zones))]
        columns["s2"] += cells
        columns["s1"] += cells
        columns["label"] += zones
        columns["split"] += [split] * len(zones)
        columns["id"] += [f"{stem}/{row:06d}" for row in range(len(zones))]
    if not columns["id"]:
        raise ValueError(
            f"{root}: expected {', '.join(f'{stem}.h5' for stem in SPLITS)}, found none."
        )
    return Table.of(columns, {"s2": OPTICAL_READER, "s1": RADAR_READER}, root)


def labels(path: Path) -> list[int]:
    """The zone of every sample, from its one-hot row."""
    try:
        import h5py
    except ImportError as error:
        raise ValueError(
            f"{path}: reading HDF5 needs h5py; `pip install 'multimask[hdf5]'` brings it."
        ) from error
    what = "a So2Sat file with sen1, sen2 and label"
    with opened(path, what):
        pass
    with decoding(path, what), h5py.File(path, "r") as file:
        lengths = {name: len(file[name]) for name in ("sen1", "sen2", "label")}  # type: ignore[arg-type]
        if len(set(lengths.values())) != 1:
            raise BadSample(f"{path}: expected as many labels as patches, found {lengths}.")
        one_hot = np.asarray(file["label"])
    if one_hot.ndim != 2 or not (one_hot.astype(bool).sum(axis=1) == 1).all():
        raise BadSample(f"{path}: expected one zone a sample, found shape {one_hot.shape}.")
    return one_hot.argmax(axis=1).tolist()


def write_fake(folder: str | Path, samples: int = 6) -> None:
    """Made files of the same names, shapes and types."""
    import h5py

    rng = np.random.default_rng(0)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for stem in SPLITS:
        with h5py.File(Path(folder) / f"{stem}.h5", "w") as file:
            file["sen1"] = rng.normal(size=(samples, 32, 32, 8))
            file["sen2"] = rng.random((samples, 32, 32, 10))
            file["label"] = np.eye(17)[np.arange(samples) % 17]
