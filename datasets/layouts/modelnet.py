"""ModelNet10 and ModelNet40 (Wu et al., CVPR 2015) in the three forms in which they are passed on.

`modelnet`: the authors' meshes, `<class>/{train,test}/<class>_0001.off`.
`modelnet_resampled`: 10,000 points with normals as text (PointNet++, Point-BERT),
`<class>/<class>_0001.txt` beside `modelnet40_{shape_names,train,test}.txt`.
`modelnet_hdf5`: 2,048 points (PointNet), `ply_data_{train,test}0.h5` beside `shape_names.txt`.
"""

from pathlib import Path

import numpy as np

from multimask.datasets.formats.points import PointReader
from multimask.datasets.layouts.files import hdf5_numbers, lines_of
from multimask.datasets.readers import Reader
from multimask.datasets.table import Table

NORMALS = ("c3", "c4", "c5")  # of the resampled text, which names no columns


def modelnet(folder: str | Path, reader: Reader | None = None) -> Table:
    """Columns `points`, `label`, `split`, `id` (airplane_0001). z is up in ModelNet40's files.

    Raises: ValueError where there is no such file.
    """
    root = Path(folder)
    files = sorted(f for s in ("train", "test") for f in root.glob(f"*/{s}/*.off"))
    if not files:
        raise ValueError(f"{root}: expected files like chair/train/chair_0001.off, found none.")
    columns = {
        "points": [file.relative_to(root).as_posix() for file in files],
        "label": [file.parts[-3] for file in files],
        "split": [file.parts[-2] for file in files],
        "id": [file.stem for file in files],
    }
    return Table.of(columns, {"points": reader or PointReader()}, root)


def modelnet_resampled(
    folder: str | Path, reader: Reader | None = None, classes: int = 40
) -> Table:
    """As `modelnet`; classes is 40 or 10, which of the lists is used.

    Raises: ValueError for lists that are missing.
    """
    root = Path(folder)
    names = set(lines_of(root / f"modelnet{classes}_shape_names.txt"))
    columns: dict[str, list[str]] = {"points": [], "label": [], "split": [], "id": []}
    for split in ("train", "test"):
        for name in lines_of(root / f"modelnet{classes}_{split}.txt"):
            label = name.rpartition("_")[0]
            if label not in names:
                raise ValueError(
                    f"{root}: {name!r} in the {split} list is of no class that "
                    f"modelnet{classes}_shape_names.txt names."
                )
            row = (f"{label}/{name}.txt", label, split, name)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
    return Table.of(columns, {"points": reader or PointReader()}, root)


def modelnet_hdf5(folder: str | Path, reader: Reader | None = None) -> Table:
    """As `modelnet`; a row is one cloud of a file, `ply_data_train0.h5#17`. Needs h5py.

    Raises: ValueError for files that are missing or whose labels have no name.
    """
    root = Path(folder)
    names = lines_of(root / "shape_names.txt")
    columns: dict[str, list[str]] = {"points": [], "label": [], "split": []}
    for split in ("train", "test"):
        # the lists name files by where they lay at the authors'
        for listed in lines_of(root / f"{split}_files.txt"):
            file = Path(listed).name
            labels = hdf5_numbers(root / file, "label")
            if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
                raise ValueError(f"{root / file}: labels outside the {len(names)} names.")
            columns["points"] += [f"{file}#{row}" for row in range(len(labels))]
            columns["label"] += [names[label] for label in labels]
            columns["split"] += [split] * len(labels)
    return Table.of(columns, {"points": reader or PointReader()}, root)


def write_fake(folder: str | Path, per_class: int = 2) -> None:
    """A made set of three classes in the authors' folders; one header is glued, as many are."""
    for number, name in enumerate(("chair", "night_stand", "table")):
        for split in ("train", "test"):
            place = Path(folder) / name / split
            place.mkdir(parents=True, exist_ok=True)
            for sample in range(1, per_class + 1):
                (place / f"{name}_{sample + 100 * (split == 'test'):04d}.off").write_text(
                    pyramid(1.0 + number + sample, glued=sample == 1)
                )


def pyramid(height: float, glued: bool) -> str:
    rows = ["0 0 0", "1 0 0", "1 1 0", "0 1 0", f"0.5 0.5 {height}"]
    faces = ["4 3 2 1 0", "3 0 1 4", "3 1 2 4", "3 2 3 4", "3 3 0 4"]
    head = "OFF5 5 0" if glued else "OFF\n5 5 0"
    return "\n".join([head, *rows, *faces]) + "\n"


def write_fake_resampled(folder: str | Path, points: int = 64) -> None:
    """Two classes with a train and a test cloud each."""
    root, draw = Path(folder), np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    names = ("airplane", "night_stand")
    (root / "modelnet40_shape_names.txt").write_text("\n".join(names) + "\n")
    for number, split in enumerate(("train", "test"), start=1):
        listed = [f"{name}_{number:04d}" for name in names]
        (root / f"modelnet40_{split}.txt").write_text("\n".join(listed) + "\n")
        for name, one in zip(names, listed, strict=True):
            (root / name).mkdir(exist_ok=True)
            rows = draw.uniform(-1, 1, (points, 6))
            np.savetxt(root / name / f"{one}.txt", rows, fmt="%.6f", delimiter=",")


def write_fake_hdf5(folder: str | Path, points: int = 64) -> None:
    """Three clouds for training, two for testing, of two classes."""
    import h5py  # pyright: ignore[reportMissingImports]

    root, draw = Path(folder), np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    (root / "shape_names.txt").write_text("airplane\nbathtub\n")
    for split, count in (("train", 3), ("test", 2)):
        name = f"ply_data_{split}0.h5"
        (root / f"{split}_files.txt").write_text(f"data/modelnet40_ply_hdf5_2048/{name}\n")
        with h5py.File(root / name, "w") as file:
            clouds = draw.uniform(-1, 1, (count, points, 3)).astype(np.float32)
            file.create_dataset("data", data=clouds, compression="gzip")
            file.create_dataset("normal", data=clouds, compression="gzip")
            file.create_dataset("label", data=(np.arange(count) % 2).astype(np.uint8)[:, None])
