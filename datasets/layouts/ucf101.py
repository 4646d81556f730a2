"""UCF101 (Soomro et al. 2012): 101 human actions, 13,320 clips, three official splits.

UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi
ucfTrainTestlist/{classInd,trainlist01,testlist01,...}.txt
"""

import re
from pathlib import Path

import numpy as np

from multimask.datasets.formats.video_write import write_clip
from multimask.datasets.formats.videos import VideoReader
from multimask.datasets.table import Table

CLIP = re.compile(r"v_.+_g(\d+)_c\d+\.avi")
VIDEOS, LISTS = "UCF-101", "ucfTrainTestlist"


def ucf101(root: str | Path, split: int = 1, reader: VideoReader | None = None) -> Table:
    """Clips of one official split: `video`, `label`, `subject` (the group that was filmed
    together, never in both parts) and `split`.

    Raises: ValueError for folders and lists that are not as published.
    """
    root = Path(root)
    files, labels, subjects, splits = [], [], [], []
    for part, listing in (("train", "trainlist"), ("test", "testlist")):
        path = root / LISTS / f"{listing}{split:02d}.txt"
        for number, line in enumerate(lines_of(path), start=1):
            name = line.split(" ")[0]
            label, _, file = name.partition("/")
            match = CLIP.fullmatch(file)
            if match is None:
                raise ValueError(
                    f"{path}: line {number} should name a clip as Class/v_Class_g01_c01.avi, "
                    f"found {line!r}."
                )
            files.append(f"{VIDEOS}/{name}")
            labels.append(label)
            subjects.append(f"{label}/g{match[1]}")
            splits.append(part)
    columns = {"video": files, "label": labels, "subject": subjects, "split": splits}
    return Table.of(columns, {"video": reader or VideoReader()}, root)


def lines_of(path: Path) -> list[str]:
    """Lines of a list that are not blank. Raises ValueError for one that cannot be read."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        found = getattr(error, "strerror", None) or "something else"
        raise ValueError(f"{path}: expected a list of clips, found: {found}.") from error
    lines = [line.strip() for line in lines if line.strip()]
    if not lines:
        raise ValueError(f"{path}: expected a list of clips, found no lines.")
    return lines


def write_fake_ucf101(root: str | Path, classes: int = 2, groups: int = 3) -> None:
    """A tiny copy of noise in the published folders, a clip a class and group: for tests."""
    root = Path(root)
    names = ["ApplyEyeMakeup", "ApplyLipstick", "Archery", "BabyCrawling"][:classes]
    lists: dict[str, list[str]] = {"trainlist01.txt": [], "testlist01.txt": []}
    draw = np.random.default_rng(0)
    for index, name in enumerate(names, start=1):
        (root / VIDEOS / name).mkdir(parents=True, exist_ok=True)
        for group in range(1, groups + 1):
            file = f"{name}/v_{name}_g{group:02d}_c01.avi"
            frames = draw.integers(0, 256, (8, 32, 48, 3), dtype=np.uint8)
            write_clip(root / VIDEOS / file, frames, codec="mpeg4")
            test = group == 1  # as published: the first groups are the first split's test part
            lists["testlist01.txt" if test else "trainlist01.txt"].append(
                file if test else f"{file} {index}"
            )
    (root / LISTS).mkdir(exist_ok=True)
    for file, lines in lists.items():
        (root / LISTS / file).write_text("\n".join(lines) + "\n")
    indices = [f"{index} {name}" for index, name in enumerate(names, start=1)]
    (root / LISTS / "classInd.txt").write_text("\n".join(indices) + "\n")
