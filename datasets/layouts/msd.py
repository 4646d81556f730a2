"""Medical Segmentation Decathlon: `dataset.json` beside imagesTr, labelsTr, imagesTs.

Simpson et al., 2019; Antonelli et al., 2022. Files with several contrasts (Task01, Task05) hold
them along a fourth axis.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from multimask.datasets.formats.nifti import write_nifti
from multimask.datasets.formats.volumes import VolumeReader
from multimask.datasets.readers import Reader
from multimask.datasets.table import Table
from multimask.datasets.volumes import new_volume


def msd(
    root: str | Path, reader: Reader | None = None, label_reader: Reader | None = None
) -> Table:
    """A row a case: scan, seg (blank in the test part), split ("train" or "test"). The default
    reader takes as many channels as `dataset.json` names contrasts; see `contrasts` and `labels`.

    Raises: ValueError for a folder without a `dataset.json` of this kind.
    """
    root = Path(root)
    said = described(root)
    rows: list[tuple[str, str | None, str]] = []
    for entry in said["training"]:
        rows.append((relative(entry["image"]), relative(entry["label"]), "train"))
    for entry in said.get("test", []):
        image = entry["image"] if isinstance(entry, dict) else entry
        rows.append((relative(image), None, "test"))
    columns: dict[str, list[Any]] = {
        "scan": [scan for scan, _, _ in rows],
        "seg": [seg for _, seg, _ in rows],
        "split": [split for _, _, split in rows],
        "id": [Path(scan).name.removesuffix(".gz").removesuffix(".nii") for scan, _, _ in rows],
    }
    readers: dict[str, Reader | None] = {
        "scan": reader or VolumeReader(channels=len(contrasts(root))),
        "seg": label_reader or VolumeReader(labels=True),
    }
    return Table.of(columns, readers, root)


def contrasts(root: str | Path) -> list[str]:
    """Names of the channels, in the files' order."""
    said = described(Path(root))
    named = said.get("modality") or said.get("channel_names") or {"0": "scan"}
    return [named[key] for key in sorted(named, key=int)]


def labels(root: str | Path) -> dict[int, str]:
    """What numbers in the segmentations mean."""
    said = described(Path(root)).get("labels", {})
    return {int(key): str(name) for key, name in said.items()}


def described(root: Path) -> dict[str, Any]:
    file = root / "dataset.json"
    try:
        said = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{file}: expected the JSON file of a Decathlon task, found none."
        ) from error
    good = isinstance(said, dict) and isinstance(said.get("training"), list)
    if not good or not all(
        isinstance(e, dict) and {"image", "label"} <= set(e) for e in said["training"]
    ):
        raise ValueError(f"{file}: expected a list `training` of image and label, found none.")
    return said


def relative(path: str) -> str:
    """`./imagesTr/a.nii.gz` without the dot; nothing outside the folder."""
    clean = Path(path)
    if clean.is_absolute() or ".." in clean.parts:
        raise ValueError(f"dataset.json: expected paths inside the task's folder, found {path!r}.")
    return clean.as_posix()


def write_fake(root: str | Path, channels: int = 1, size: int = 8) -> None:
    """A tiny copy in the real folders, of noise: three training cases, one test case."""
    root, random = Path(root), np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (root / folder).mkdir(parents=True)
    names = [f"organ_{i:03d}.nii.gz" for i in range(4)]
    for name in names:
        data = random.integers(0, 1000, (channels, size, size, size))
        write_nifti(
            root / ("imagesTs" if name == names[3] else "imagesTr") / name, new_volume(data)
        )
        if name != names[3]:
            label = random.integers(0, 3, (1, size, size, size))
            write_nifti(root / "labelsTr" / name, new_volume(label, discrete=True))
    said = {
        "name": "Organ",
        "modality": {str(i): f"contrast {i}" for i in range(channels)},
        "labels": {"0": "background", "1": "anterior", "2": "posterior"},
        "training": [
            {"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names[:3]
        ],
        "test": [f"./imagesTs/{names[3]}"],
    }
    (root / "dataset.json").write_text(json.dumps(said))
