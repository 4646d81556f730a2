"""Listing a folder: several million files in minutes, none of them opened."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from multimask.datasets.columns import Column

SPLITS = {"train", "val", "test"}


def folder_columns(root: Path, modality: str, suffixes: Sequence[str]) -> dict[str, Column]:
    """Columns of the files under a folder: id, the modality, and what folders' names say.

    Raises: ValueError for a folder that is missing, unreadable or without such files.
    """
    endings = tuple(suffix.lower() for suffix in suffixes)
    files, others = [], set[str]()
    try:
        for name in files_below(root):
            if name.lower().endswith(endings):
                files.append(name)
            else:
                others.add(os.path.splitext(name)[1] or "no suffix")
    except OSError as error:
        found = error.strerror or "something else"
        raise ValueError(
            f"{error.filename}: expected a folder that can be listed, found: {found}."
        ) from error
    if not files:
        found = f"only files with {', '.join(sorted(others)[:8])}" if others else "no files"
        raise ValueError(
            f"{root}: expected files ending in {', '.join(suffixes)} in this folder or below, "
            f"found {found}."
        )
    paths = Column.of(files)
    return {"id": paths, modality: paths, **said_by_folders(files)}


def files_below(root: Path) -> Iterator[str]:
    """Paths of all files below, relative, with /; sorted within a folder, hidden ones left out.

    Links to folders are followed, each real folder once.
    """
    seen, folders = set[tuple[int, int]](), [""]
    while folders:
        folder = folders.pop()
        status = os.stat(root / folder)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(root / folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
        below = []
        for entry in sorted(visible, key=lambda entry: entry.name):
            if entry.is_dir():
                below.append(f"{folder}{entry.name}/")
            else:
                yield f"{folder}{entry.name}"
        folders.extend(reversed(below))


def said_by_folders(files: Sequence[str]) -> dict[str, Column]:
    """Label: the top folder, or, where all top folders are splits, the one below."""
    columns, folders = {}, [name.split("/")[:-1] for name in files]
    if {path[0] if path else "" for path in folders} <= SPLITS:
        columns["split"] = Column.of([path[0] for path in folders])
        folders = [path[1:] for path in folders]
    if any(folders):
        columns["label"] = Column.of([path[0] if path else None for path in folders])
    return columns
