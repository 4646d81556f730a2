"""BIDS, the layout of OpenNeuro: `sub-01/[ses-02/]anat/sub-01_[ses-02_]T1w.nii.gz`."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from multimask.datasets.formats.nifti import write_nifti
from multimask.datasets.formats.volumes import VolumeReader
from multimask.datasets.readers import Reader
from multimask.datasets.table import Table
from multimask.datasets.volumes import new_volume

FILE = re.compile(
    r"(?P<stem>sub-[A-Za-z0-9]+(?:_[a-z]+-[A-Za-z0-9+]+)*)_(?P<suffix>\w+)\.nii(\.gz)?"
)
ANATOMY = ("T1w", "T2w", "FLAIR", "PDw", "T2starw", "inplaneT2", "UNIT1")


def bids(
    root: str | Path, suffixes: tuple[str, ...] = ANATOMY, reader: Reader | None = None
) -> Table:
    """A row a subject and session, a column a suffix ("T1w" becomes t1w; blank where missing),
    subject, session, and all columns of `participants.tsv`.

    Where a session holds several files of one suffix (runs, acquisitions) the first in name order
    is in its row; each further one gets a row of its own, named by its file. `derivatives` and
    `sourcedata` are left out. Files that are only pointers (not fetched) are listed; reading says
    that they are not there.

    Raises: ValueError for a folder without such files.
    """
    root = Path(root)
    rows: dict[tuple[str, str | None, int], dict[str, Any]] = {}
    seen: dict[tuple[str, str | None, str], int] = {}
    for file in sorted(root.glob("sub-*/**/anat/*.nii*")):
        found = FILE.fullmatch(file.name)
        if not found or found["suffix"] not in suffixes:
            continue
        said = dict(part.split("-", 1) for part in found["stem"].split("_"))
        subject, session = f"sub-{said['sub']}", said.get("ses")
        place = seen.get((subject, session, found["suffix"]), 0)
        seen[subject, session, found["suffix"]] = place + 1
        name = subject if session is None else f"{subject}_ses-{session}"
        row = rows.setdefault(
            (subject, session, place),
            {"id": name if place == 0 else found["stem"], "subject": subject, "session": session},
        )
        row[found["suffix"].lower()] = file.relative_to(root).as_posix()
    if not rows:
        raise ValueError(
            f"{root}: expected files like sub-01/anat/sub-01_T1w.nii.gz with one of the suffixes "
            f"{', '.join(suffixes)}, found none."
        )
    kept = [s.lower() for s in suffixes if any(s.lower() in row for row in rows.values())]
    made = list(rows.values())
    columns: dict[str, list[Any]] = {
        name: [row.get(name) for row in made] for name in ["id", "subject", *kept]
    }
    if any(row["session"] for row in made):
        columns["session"] = [row["session"] for row in made]
    for name, values in participants(root).items():
        if name not in columns:
            columns[name] = [values.get(row["subject"]) for row in made]
    return Table.of(columns, {name: reader or VolumeReader() for name in kept}, root)


def participants(root: Path) -> dict[str, dict[str, Any]]:
    """Columns of `participants.tsv` by subject; "n/a" is missing, numbers are numbers."""
    file = root / "participants.tsv"
    if not file.is_file():
        return {}
    with open(file, newline="", encoding="utf-8-sig") as lines:
        people = [row for row in csv.DictReader(lines, delimiter="\t") if row.get("participant_id")]
    columns: dict[str, dict[str, Any]] = {}
    for name in people[0] if people else ():
        if name and name != "participant_id":
            cells = {
                p["participant_id"]: p[name] for p in people if p[name] not in ("n/a", "", None)
            }
            columns[name] = numbers(cells)
    return columns


def numbers(cells: dict[str, str]) -> dict[str, Any]:
    try:
        return {key: float(cell) for key, cell in cells.items()}
    except ValueError:
        return dict(cells)


def write_fake(root: str | Path, size: int = 8) -> None:
    """A tiny copy in the real folders, of noise: sessions, runs, a missing contrast."""
    root, random = Path(root), np.random.default_rng(0)
    files = (
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_T2w.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_run-1_T1w.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_run-2_T1w.nii.gz",
        "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii",
        "derivatives/fmriprep/sub-01/anat/sub-01_T1w.nii.gz",
    )
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_nifti(root / name, new_volume(random.integers(0, 1000, (1, size, size, size))))
    text = "participant_id\tage\tsex\nsub-01\t34\tF\nsub-02\tn/a\tM\n"
    (root / "participants.tsv").write_text(text)
    said = {"Name": "made", "BIDSVersion": "1.8.0"}
    (root / "dataset_description.json").write_text(json.dumps(said))
