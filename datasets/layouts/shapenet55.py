"""ShapeNet55 as Point-BERT lists it (Yu et al., CVPR 2022): what Point-MAE is pre-trained on.

`shapenet_pc/<synset>-<model>.npy` (8,192 points each) beside `ShapeNet-55/{train,test}.txt`, a file
name a line. The synset, a WordNet number such as 02691156 (aeroplane), is the class. y is up.
"""

from pathlib import Path

import numpy as np

from multimask.datasets.formats.points import PointReader
from multimask.datasets.layouts.files import lines_of
from multimask.datasets.readers import Reader
from multimask.datasets.table import Table


def shapenet55(
    folder: str | Path, reader: Reader | None = None, lists: str = "ShapeNet-55"
) -> Table:
    """Columns `points`, `label` (synset), `split`, `id` (synset-model).

    `lists` is the folder of the lists: "ShapeNet-55", or another of Point-BERT's.

    Raises: ValueError for lists that are missing and names without a synset.
    """
    root = Path(folder)
    columns: dict[str, list[str]] = {"points": [], "label": [], "split": [], "id": []}
    for split in ("train", "test"):
        for name in lines_of(root / lists / f"{split}.txt"):
            synset, dash, _ = name.partition("-")
            if not (dash and synset.isdigit() and name.endswith(".npy")):
                raise ValueError(
                    f"{root / lists / split}.txt: expected names like 02691156-1a04e3.npy, "
                    f"found {name!r}."
                )
            row = (f"shapenet_pc/{name}", synset, split, name.removesuffix(".npy"))
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
    return Table.of(columns, {"points": reader or PointReader()}, root)


def write_fake(folder: str | Path, points: int = 64) -> None:
    """Two classes with two clouds for training and one for testing each."""
    root, draw = Path(folder), np.random.default_rng(0)
    for place in ("shapenet_pc", "ShapeNet-55"):
        (root / place).mkdir(parents=True, exist_ok=True)
    for split, models in (("train", ("1a04e3ea", "2b77c1f0")), ("test", ("3c9d20aa",))):
        names = [f"{synset}-{m}.npy" for synset in ("02691156", "04379243") for m in models]
        (root / "ShapeNet-55" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            cloud = draw.normal(size=(points, 3)).astype(np.float32)
            np.save(root / "shapenet_pc" / name, cloud)
