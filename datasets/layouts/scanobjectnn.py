"""ScanObjectNN (Uy et al., ICCV 2019): real scanned objects of 15 classes, 2,048 points each.

`h5_files/main_split/{training,test}_objectdataset.h5` (OBJ-BG), the same under `main_split_nobg`
(OBJ-ONLY), and `..._objectdataset_augmentedrot_scale75.h5` (PB-T50-RS, the hardest). Datasets
`data`, `label`, `mask`. Clouds are published, and read here by default, without normalisation.
"""

from pathlib import Path
from typing import Literal

import numpy as np

from multimask.datasets.formats.points import PointReader
from multimask.datasets.layouts.files import hdf5_numbers
from multimask.datasets.readers import Reader
from multimask.datasets.table import Table

CLASSES = (
    "bag", "bin", "box", "cabinet", "chair", "desk", "display", "door", "shelf", "table", "bed",
    "pillow", "sink", "sofa", "toilet",
)  # fmt: skip
VARIANTS = {
    "obj_bg": ("main_split", "objectdataset.h5"),
    "obj_only": ("main_split_nobg", "objectdataset.h5"),
    "pb_t50_rs": ("main_split", "objectdataset_augmentedrot_scale75.h5"),
}
Variant = Literal["obj_bg", "obj_only", "pb_t50_rs"]


def scanobjectnn(
    folder: str | Path, variant: Variant = "pb_t50_rs", reader: Reader | None = None
) -> Table:
    """Columns `points` (a cloud of a file, `training_objectdataset.h5#17`), `label`, `split`.

    Raises: ValueError for an unknown variant, files that are missing, labels outside the classes.
    """
    if variant not in VARIANTS:
        raise ValueError(f"scanobjectnn: variant={variant!r} must be one of {', '.join(VARIANTS)}.")
    root = Path(folder)
    if (root / "h5_files").is_dir():
        root = root / "h5_files"
    place, name = VARIANTS[variant]
    columns: dict[str, list[str]] = {"points": [], "label": [], "split": []}
    for split, prefix in (("train", "training"), ("test", "test")):
        file = f"{place}/{prefix}_{name}"
        labels = hdf5_numbers(root / file, "label")
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(CLASSES):
            raise ValueError(f"{root / file}: labels outside the {len(CLASSES)} classes.")
        columns["points"] += [f"{file}#{row}" for row in range(len(labels))]
        columns["label"] += [CLASSES[label] for label in labels]
        columns["split"] += [split] * len(labels)
    plain = PointReader(num_points=2048, normalise="none")
    return Table.of(columns, {"points": reader or plain}, root)


def write_fake(folder: str | Path, points: int = 2048) -> None:
    """All three variants with three clouds for training and two for testing."""
    import h5py  # pyright: ignore[reportMissingImports]

    draw = np.random.default_rng(0)
    for place, name in VARIANTS.values():
        here = Path(folder) / "h5_files" / place
        here.mkdir(parents=True, exist_ok=True)
        for prefix, count in (("training", 3), ("test", 2)):
            with h5py.File(here / f"{prefix}_{name}", "w") as file:
                clouds = draw.normal(size=(count, points, 3)).astype(np.float32)
                file["data"] = clouds
                file["label"] = (np.arange(count) * 7 % 15).astype(np.int32)
                file["mask"] = np.zeros((count, points), dtype=np.int32)
