"""NTU RGB+D 60 and 120: file names say camera, subject, setup and action; three official splits."""

import os
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

Protocol = Literal["xsub", "xview", "xset"]

NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})\.skeleton", re.IGNORECASE)

# subjects of the training sets: Shahroudy et al. 2016 (60 classes), Liu et al. 2020 (120 classes)
SUBJECTS_60 = (1, 2, 4, 5, 8, 9, *range(13, 20), 25, 27, 28, 31, 34, 35, 38)
SUBJECTS_120 = (
    *SUBJECTS_60,
    *(45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86),
    *(89, 91, 92, 93, 94, 95, 97, 98, 100, 103),
)
TRAIN_CAMERAS = (2, 3)


def ntu(
    root: str | Path,
    protocol: Protocol = "xsub",
    classes: Literal[60, 120] = 60,
    modality: str = "skeleton",
) -> dict[str, list[Any]]:
    """Columns of a table: id, the modality's file (relative to root), label (action from 0), split,
    subject, camera, setup, repetition.

    Files may lie in any folders below `root`. With 60 classes actions above 60 are left out.
    protocol: "xsub" cross-subject; "xview" cross-view (60: cameras 2 and 3 train, 1 tests);
    "xset" cross-setup (120: even setups train).

    Raises: ValueError for a folder without such files and for a protocol that the set does not
    have. Files without a body are listed like all others; the reader says which they are.
    """
    if (protocol, classes) not in {("xsub", 60), ("xview", 60), ("xsub", 120), ("xset", 120)}:
        raise ValueError(
            f"ntu: protocol={protocol!r} does not exist with classes={classes}; there are xsub "
            "and xview of 60, xsub and xset of 120."
        )
    base = Path(root)
    found = (
        sorted(
            (os.path.relpath(os.path.join(folder, file), base).replace(os.sep, "/"), match)
            for folder, _, files in os.walk(base)
            for file in files
            if (match := NAME.fullmatch(file))
        )
        if base.is_dir()
        else []
    )
    rows = []
    for file, match in found:
        setup, camera, subject, repetition, action = (int(text) for text in match.groups())
        if action > classes:
            continue
        trains = {
            "xsub": subject in (SUBJECTS_60 if classes == 60 else SUBJECTS_120),
            "xview": camera in TRAIN_CAMERAS,
            "xset": setup % 2 == 0,
        }[protocol]
        split = "train" if trains else "test"
        rows.append((match[0][:20], file, action - 1, split, subject, camera, setup, repetition))
    if not rows:
        raise ValueError(
            f"{root}: expected files named like S001C001P001R001A001.skeleton in this folder or "
            "below, found none."
        )
    names = ("id", modality, "label", "split", "subject", "camera", "setup", "repetition")
    return {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def write_fake_ntu(root: str | Path, frames: int = 6, seed: int = 0) -> list[str]:
    """A tiny copy in the real layout: 12 takes of noise, one with two bodies, one with empty
    frames, one whose body id changes, one without any body. Returns the file names."""
    generator = np.random.default_rng(seed)
    folder = Path(root) / "nturgb+d_skeletons"
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for index in range(12):
        setup, camera, subject = 1 + index % 3, 1 + index % 3, (1, 3, 2, 106)[index % 4]
        action = (1, 60, 61, 120)[index // 3]
        name = f"S{setup:03}C{camera:03}P{subject:03}R{1 + index // 6:03}A{action:03}.skeleton"
        counts = [1] * frames
        if index == 1:
            counts = [2] * frames
        elif index == 2:
            counts[2:4] = [0, 0]
        elif index == 4:
            counts = [0] * frames
        ids = ["72057594037927910", "72057594037927999"]
        lines = [str(frames)]
        still = generator.normal(size=(2, 25, 3)) * 0.4 + [0, 0, 3]
        still[1] += [2, 0, 0]  # beside the first
        for frame, count in enumerate(counts):
            lines.append(str(count))
            for body in range(count):
                changed = index == 3 and frame >= frames // 2
                name_of_body = "72057594037928555" if changed else ids[body]
                lines += [f"{name_of_body} 0 1 1 1 1 0 0.01 -0.02 2", "25"]
                pose = still[body] + 0.01 * frame
                lines += [
                    f"{x:.5g} {y:.5g} {z:.5g} 250.1 200.2 960.5 540.5 0 0 0 0 2" for x, y, z in pose
                ]
        (folder / name).write_text("\n".join(lines) + "\n")
        names.append(name)
    return names
