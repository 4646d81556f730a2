"""Any folder or table of clouds: public sets are known by the files they bring."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from multimask.datasets.cells import csv_names
from multimask.datasets.layouts.modelnet import modelnet, modelnet_hdf5, modelnet_resampled
from multimask.datasets.layouts.scanobjectnn import scanobjectnn
from multimask.datasets.layouts.shapenet55 import shapenet55
from multimask.datasets.readers import Reader
from multimask.datasets.table import Table

Layout = Literal[
    "auto",
    "plain",
    "modelnet",
    "modelnet40-resampled",
    "modelnet10-resampled",
    "modelnet-hdf5",
    "shapenet55",
    "scanobjectnn",
]


def cloud_table(path: str | Path, reader: Reader, layout: str = "auto") -> Table:
    """A table with the column `points`, and label and split where the layout states them.

    "plain" is what `Table.open` makes of a folder or table. "auto" is the public set whose files
    are there, else plain. ModelNet's `<class>/{train,test}/` holds for OFF files of any origin,
    unless the folder has a `labels.csv`.

    Raises: ValueError for an unknown layout, and for files that are missing.
    """
    if layout not in get_args(Layout):
        raise ValueError(
            f"layout {layout!r} is unknown; it is one of {', '.join(get_args(Layout))}."
        )
    root = Path(path)
    name = guessed(root) if layout == "auto" else layout
    loads: dict[str, Callable[[], Table]] = {
        "plain": lambda: Table.open(root, "points", reader),
        "modelnet": lambda: modelnet(root, reader),
        "modelnet40-resampled": lambda: modelnet_resampled(root, reader),
        "modelnet10-resampled": lambda: modelnet_resampled(root, reader, classes=10),
        "modelnet-hdf5": lambda: modelnet_hdf5(root, reader),
        "shapenet55": lambda: shapenet55(root, reader),
        "scanobjectnn": lambda: scanobjectnn(root, reader=reader),
    }
    return loads[name]()


def guessed(root: Path) -> Layout:
    """The layout that a folder's files tell."""
    telling: dict[Layout, tuple[str, ...]] = {
        "modelnet40-resampled": ("modelnet40_shape_names.txt",),
        "modelnet10-resampled": ("modelnet10_shape_names.txt",),
        "modelnet-hdf5": ("shape_names.txt", "train_files.txt"),
        "shapenet55": ("ShapeNet-55/train.txt", "shapenet_pc"),
    }
    for layout, names in telling.items():
        if all((root / name).exists() for name in names):
            return layout
    if any(root.glob("*/*_objectdataset*.h5")) or any(root.glob("h5_files/*/*_objectdataset*.h5")):
        return "scanobjectnn"
    listing = root / "labels.csv"
    if listing.is_file() and "file" in csv_names(listing):
        return "plain"
    return "modelnet" if any(root.glob("*/train/*.off")) else "plain"
