"""Kinetics-style sets: the official CSV beside folders of clips, and lists of `path label`.

annotations/train.csv          label,youtube_id,time_start,time_end,split
train/<label>/<youtube_id>_<start, 6 digits>_<end, 6 digits>.mp4   (also without <label>/)
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from multimask.datasets.cells import csv_cells
from multimask.datasets.formats.video_write import write_clip
from multimask.datasets.formats.videos import VideoReader
from multimask.datasets.layouts.ucf101 import lines_of
from multimask.datasets.table import Table

COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
SPLITS = {"train": "train", "validate": "val", "val": "val", "test": "test"}
ENDINGS = (".mp4", ".mkv", ".webm", ".avi")


def kinetics(root: str | Path, reader: VideoReader | None = None) -> Table:
    """All clips named by `annotations/*.csv` (or `*.csv`) that are there: `video`, `label`,
    `subject` (the video that clips were cut from) and `split`. Clips that the CSV names and the
    folders lack, as most copies do, are left out; test labels may be blank.

    Raises: ValueError for other columns, and where no clip at all is found.
    """
    root = Path(root)
    listings = sorted((root / "annotations").glob("*.csv")) or sorted(root.glob("*.csv"))
    if not listings:
        raise ValueError(f"{root}: expected annotations/train.csv or train.csv, found no CSV.")
    rows: list[tuple[str, str | None, str, str]] = []
    named = 0
    for listing in listings:
        for label, video, stem, split in _named(listing):
            named += 1
            file = _found(root, stem, label, split)
            if file is not None:
                rows.append((file, label or None, video, split))
    if not rows:
        raise ValueError(
            f"{root}: none of the {named} clips that {listings[0].name} and others name is in "
            "train/, val/ or test/, as <label>/<id>_<start>_<end>.mp4 or without <label>/."
        )
    files, labels, videos, splits = map(list, zip(*rows, strict=True))
    columns = {"video": files, "label": labels, "subject": videos, "split": splits}
    return Table.of(columns, {"video": reader or VideoReader()}, root)


def _named(listing: Path) -> Iterator[tuple[str, str, str, str]]:
    """(label, youtube id, file's stem, split) of a CSV's rows."""
    cells = csv_cells(listing)
    missing = [name for name in COLUMNS if name not in cells and name != "label"]
    if missing:
        raise ValueError(f"{listing}: expected the columns {COLUMNS}, found no {missing[0]!r}.")
    labels = cells.get("label", [""] * len(cells["split"]))
    others = (cells[name] for name in COLUMNS[1:])
    for number, (label, video, start, end, split) in enumerate(
        zip(labels, *others, strict=True), start=2
    ):
        if split not in SPLITS or not (start.isdigit() and end.isdigit()):
            raise ValueError(
                f"{listing}: line {number} should hold whole seconds and a split of "
                f"{sorted(SPLITS)}, found {start!r}, {end!r} and {split!r}."
            )
        yield label, video, f"{video}_{int(start):06d}_{int(end):06d}", SPLITS[split]


def _found(root: Path, stem: str, label: str, split: str) -> str | None:
    folders = [f"{split}/{label}", split] if label else [split]
    choices = (f"{folder}/{stem}{ending}" for folder in folders for ending in ENDINGS)
    return next((choice for choice in choices if (root / choice).is_file()), None)


def listed_clips(
    path: str | Path, root: str | Path | None = None, reader: VideoReader | None = None
) -> Table:
    """A text file of lines `path label`, parted at the last space, comma or tab: paths may hold
    spaces. `video`, `label` (whole numbers where all are). The paths are relative to `root`, else
    to the list's folder.

    Raises: ValueError for lines without a label.
    """
    path = Path(path)
    files, labels = [], []
    for number, line in enumerate(lines_of(path), start=1):
        cut = max(line.rfind(mark) for mark in " ,\t")
        if cut < 1:
            raise ValueError(f"{path}: line {number} should be `path label`, found {line!r}.")
        files.append(line[:cut].rstrip(" ,\t"))
        labels.append(line[cut + 1 :])
    whole = all(label.isdigit() for label in labels)
    columns = {"video": files, "label": [int(x) for x in labels] if whole else labels}
    return Table.of(columns, {"video": reader or VideoReader()}, root or path.parent)


def write_fake_kinetics(root: str | Path, clips: int = 2) -> None:
    """A tiny copy of noise in the published folders, one named clip missing: for tests."""
    root, draw = Path(root), np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, named in (("train", "train"), ("val", "validate")):
        rows = []
        for label in ("air drumming", "zumba"):
            (root / split / label).mkdir(parents=True, exist_ok=True)
            for number in range(clips):
                video = f"{label[0]}{split}-{number:05d}"[:11]
                stem = f"{video}_{7 * number:06d}_{7 * number + 10:06d}"
                rows.append([label, video, 7 * number, 7 * number + 10, named])
                if (split, label, number) == ("train", "zumba", clips - 1):
                    continue  # no copy of the set is complete
                frames = draw.integers(0, 256, (8, 32, 48, 3), dtype=np.uint8)
                write_clip(root / split / label / f"{stem}.mp4", frames)
        with open(root / "annotations" / f"{split}.csv", "w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
