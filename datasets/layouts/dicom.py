"""Folders of DICOM series, as archives export them: a folder a series, at any depth."""

import os
from pathlib import Path
from typing import Any

from multimask.datasets.formats.dicom import is_dicom
from multimask.datasets.formats.volumes import VolumeReader
from multimask.datasets.readers import Reader
from multimask.datasets.table import Table


def dicom_series(root: str | Path, reader: Reader | None = None, slices: int = 2) -> Table:
    """A row a folder with at least this many DICOM files: scan, `subject` (the top folder), id.

    Only the first bytes of one file a folder are read. A folder that holds several series is
    refused when it is read, with their names; `VolumeReader(series=...)` takes one.
    Raises: ValueError where there is no such folder.
    """
    root = Path(root)
    found = []
    for folder, _, files in sorted(os.walk(root)):
        visible = sorted(f for f in files if not f.startswith(".") and f.upper() != "DICOMDIR")
        if len(visible) >= slices and any(
            name.lower().endswith((".dcm", ".ima")) or is_dicom(Path(folder) / name)
            for name in visible[:1]
        ):
            found.append(Path(folder).relative_to(root).as_posix())
    if not found:
        raise ValueError(
            f"{root}: expected folders with at least {slices} DICOM files, found none."
        )
    columns: dict[str, list[Any]] = {
        "scan": found,
        "id": [root.name if name == "." else name for name in found],
        "subject": [root.name if name == "." else name.split("/")[0] for name in found],
    }
    return Table.of(columns, {"scan": reader or VolumeReader()}, root)
