"""IXI: healthy heads from three London hospitals; a folder a contrast.

`IXI-T1/IXI002-Guys-0828-T1.nii.gz`, likewise T2, PD, MRA. The contrasts of a subject are not on one
grid. Diffusion files (`-DTI-00.nii.gz`) are left out.
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

FILE = re.compile(r"IXI(\d{3})-(\w+)-(\w+)-(T1|T2|PD|MRA)\.nii(?:\.gz)?")


def ixi(root: str | Path, reader: Reader | None = None) -> Table:
    """A row a subject: t1, t2, pd, mra (blank where missing), `site` (Guys, HH, IOP), subject, and
    from an `IXI.csv` (the project's spreadsheet saved as CSV) `age` and `sex` where it is there.

    Raises: ValueError where there is no such file.
    """
    root = Path(root)
    subjects: dict[str, dict[str, str]] = {}
    for file in sorted(root.rglob("IXI*.nii*")):
        found = FILE.fullmatch(file.name)
        if found:
            name = f"IXI{found[1]}"
            subject = subjects.setdefault(name, {"site": found[2]})
            subject.setdefault(found[4].lower(), file.relative_to(root).as_posix())
    if not subjects:
        raise ValueError(
            f"{root}: expected files like IXI-T1/IXI002-Guys-0828-T1.nii.gz, found none."
        )
    kept = [c for c in ("t1", "t2", "pd", "mra") if any(c in s for s in subjects.values())]
    columns: dict[str, list[Any]] = {
        name: [subject.get(name) for subject in subjects.values()] for name in [*kept, "site"]
    }
    columns |= {"id": list(subjects), "subject": list(subjects)}
    people = people_of(root)
    if people:
        columns["age"] = [people.get(name, (None, None))[0] for name in subjects]
        columns["sex"] = [people.get(name, (None, None))[1] for name in subjects]
    return Table.of(columns, {name: reader or VolumeReader() for name in kept}, root)


def people_of(root: Path) -> dict[str, tuple[float | None, str | None]]:
    """Age and sex by subject. The sheet lists some subjects twice: the first line counts."""
    people: dict[str, tuple[float | None, str | None]] = {}
    for listing in root.glob("IXI.csv"):
        with open(listing, newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                sex_cell = next((v for k, v in row.items() if k and k.startswith("SEX_ID")), "")
                name = f"IXI{int(row['IXI_ID']):03d}"
                age = float(row["AGE"]) if row.get("AGE") else None
                people.setdefault(name, (age, {"1": "m", "2": "f"}.get(sex_cell)))
    return people


def write_fake(root: str | Path, size: int = 8) -> None:
    """A tiny copy in the real folders, of noise; the last subject has no T2."""
    random = np.random.default_rng(0)
    names = ("IXI002-Guys-0828", "IXI012-HH-1211", "IXI035-IOP-0873")
    for contrast in ("T1", "T2"):
        folder = Path(root) / f"IXI-{contrast}"
        folder.mkdir(parents=True)
        for name in names if contrast == "T1" else names[:2]:
            data = random.integers(0, 1000, (1, size, size + (contrast == "T2"), size))
            write_nifti(folder / f"{name}-{contrast}.nii.gz", new_volume(data))
    lines = ['IXI_ID,"SEX_ID (1=m, 2=f)",HEIGHT,AGE', "2,2,164,35.8", "12,1,175,38.78", "12,1,175,"]
    (Path(root) / "IXI.csv").write_text("\n".join(lines) + "\n")
