"""BraTS, 2018 to 2024: a folder a case, four contrasts and a segmentation on one grid.

`BraTS2021_00000/BraTS2021_00000_t1ce.nii.gz` (to 2021), `BraTS-GLI-00000-000/
BraTS-GLI-00000-000-t1c.nii.gz` (from 2023). Numbers in the segmentation are as in the files: the
enhancing tumour is 4 until 2021 and 3 after it.
"""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np

from multimask.datasets.formats.nifti import write_nifti
from multimask.datasets.formats.volumes import VolumeReader
from multimask.datasets.readers import Reader
from multimask.datasets.table import Table
from multimask.datasets.volumes import new_volume

CONTRASTS = {
    "t1": ("t1", "t1n"),
    "t1ce": ("t1ce", "t1c"),
    "t2": ("t2", "t2w"),
    "flair": ("flair", "t2f"),
}
FILE = re.compile(r"(?P<case>.+)[_-](?P<what>t1|t1n|t1ce|t1c|t2|t2w|flair|t2f|seg)\.nii(\.gz)?")
MAPPING = "name_mapping.csv"


def brats(
    root: str | Path, reader: Reader | None = None, label_reader: Reader | None = None
) -> Table:
    """A row a case: t1, t1ce, t2, flair (what is not there is blank), seg, subject, and `label`
    (HGG or LGG) where folders or `name_mapping.csv` say it.

    Cases may lie at any depth. From 2023 a subject may have several cases (time points): split by
    `subject`. Raises: ValueError where there is no case.
    """
    root = Path(root)
    cases: dict[str, dict[str, str]] = {}
    names = {theirs: ours for ours, all_ in CONTRASTS.items() for theirs in all_} | {"seg": "seg"}
    for file in sorted(root.rglob("*.nii*")):
        found = FILE.fullmatch(file.name)
        if found and found["case"] == file.parent.name:
            case = cases.setdefault(found["case"], {"folder": str(file.parent)})
            case[names[found["what"]]] = file.relative_to(root).as_posix()
    if not cases:
        raise ValueError(
            f"{root}: expected folders like BraTS2021_00000 with BraTS2021_00000_t1.nii.gz or "
            "BraTS-GLI-00000-000 with BraTS-GLI-00000-000-t1n.nii.gz, found none."
        )
    grades = grades_of(root)
    kept = [name for name in CONTRASTS if any(name in case for case in cases.values())]
    columns: dict[str, list[Any]] = {
        name: [case.get(name) for case in cases.values()] for name in [*kept, "seg"]
    }
    columns["id"] = list(cases)
    columns["subject"] = [subject_of(name) for name in cases]
    labels = [grades.get(name) or grade_in(Path(c["folder"]), root) for name, c in cases.items()]
    readers: dict[str, Reader | None] = {name: reader or VolumeReader() for name in kept}
    if any(columns["seg"]):
        readers["seg"] = label_reader or VolumeReader(labels=True)
    else:
        del columns["seg"]
    if any(labels):
        columns["label"] = labels
    return Table.of(columns, readers, root)


def subject_of(case: str) -> str:
    """BraTS-GLI-00005-101 is time point 101 of subject BraTS-GLI-00005."""
    match = re.fullmatch(r"(BraTS-\w+-\w+)-\d{3}", case)
    return match[1] if match else case


def grade_in(folder: Path, root: Path) -> str | None:
    parts = folder.relative_to(root).parts
    return next((part for part in parts if part in ("HGG", "LGG")), None)


def grades_of(root: Path) -> dict[str, str]:
    """Case to HGG or LGG, from a `name_mapping.csv` at any depth."""
    grades = {}
    for listing in root.rglob(MAPPING):
        with open(listing, newline="") as file:
            for row in csv.DictReader(file):
                case = next((row[k] for k in row if k and k.lower().endswith("subject_id")), None)
                if case and row.get("Grade"):
                    grades[case] = row["Grade"]
    return grades


def write_fake(root: str | Path, year: int = 2021, cases: int = 3, size: int = 8) -> None:
    """A tiny copy in the real folders, of noise. The second case lacks its T2."""
    random = np.random.default_rng(0)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = 239
    for i in range(cases):
        case = f"BraTS-GLI-{i:05d}-000" if year >= 2023 else f"BraTS{year}_{i:05d}"
        folder = Path(root) / case
        folder.mkdir(parents=True)
        for contrast in (*CONTRASTS, "seg"):
            if contrast == "t2" and i == 1:
                continue
            theirs = CONTRASTS.get(contrast, ("seg", "seg"))[int(year >= 2023)]
            name = f"{case}{'-' if year >= 2023 else '_'}{theirs}.nii.gz"
            data = random.integers(0, 4 if contrast == "seg" else 1000, (1, size, size, size))
            write_nifti(folder / name, new_volume(data, affine, discrete=contrast == "seg"))
