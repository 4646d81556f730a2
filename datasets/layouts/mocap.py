"""Folders of motion capture: CMU's library (ASF/AMC), Bandai-Namco's set (BVH)."""

import re
from pathlib import Path
from typing import Any

BANDAI = re.compile(r"dataset-(\d)_(.+)_([^_]+)_(\d+)\.bvh", re.IGNORECASE)

ASF = """:version 1.10
:units
  length 0.45
  angle deg
:root
   order TX TY TZ RX RY RZ
   axis XYZ
   position 0 0 0
   orientation 0 0 0
:bonedata
  begin
     id 1
     name leg
     direction 0 -1 0
     length 9
     axis 0 0 20 XYZ
     dof rx ry rz
  end
  begin
     id 2
     name foot
     direction 0 0 1
     length 2
     axis 0 0 0 XYZ
  end
:hierarchy
  begin
    root leg
    leg foot
  end
"""
BVH = """HIERARCHY
ROOT Hips
{
  OFFSET 0 90 0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT Leg
  {
    OFFSET 0 -40 0
    CHANNELS 3 Zrotation Xrotation Yrotation
    End Site
    {
      OFFSET 0 -40 0
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.0333333
0 90 0 0 0 0 0 0 0
0 90 5 0 0 0 0 90 0
"""


def cmu_mocap(root: str | Path, modality: str = "skeleton") -> dict[str, list[Any]]:
    """Columns of `subjects/NN/NN_MM.amc` with `NN.asf` beside: id, file, subject, take.

    Raises: ValueError where there are none.
    """
    base = Path(root)
    files = sorted(base.glob("subjects/*/*.amc")) or sorted(base.glob("*/*.amc"))
    if not files:
        raise ValueError(f"{root}: expected files like subjects/01/01_01.amc, found none.")
    columns: dict[str, list[Any]] = {name: [] for name in ("id", modality, "subject", "take")}
    for file in files:
        subject, _, take = file.stem.partition("_")
        columns["id"].append(file.stem)
        columns[modality].append(file.relative_to(base).as_posix())
        columns["subject"].append(subject)
        columns["take"].append(take or None)
    return columns


def bandai_namco(root: str | Path, modality: str = "skeleton") -> dict[str, list[Any]]:
    """Columns of Bandai-Namco's research motion sets, `.../data/dataset-2_walk_tired_001.bvh`: id,
    file, label (content), style, take.

    Raises: ValueError where there are none.
    """
    base = Path(root)
    found = [(file, BANDAI.fullmatch(file.name)) for file in sorted(base.rglob("*.bvh"))]
    rows = [
        (file.stem, file.relative_to(base).as_posix(), match[2], match[3], int(match[4]))
        for file, match in found
        if match
    ]
    if not rows:
        raise ValueError(f"{root}: expected files like dataset-2_walk_tired_001.bvh, found none.")
    names = ("id", modality, "label", "style", "take")
    return {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def write_fake_cmu(root: str | Path) -> None:
    """Two subjects of a root and two bones, three takes of two frames."""
    for subject, takes in {"01": ("01", "02"), "02": ("01",)}.items():
        folder = Path(root) / "subjects" / subject
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{subject}.asf").write_text(ASF)
        for take in takes:
            frames = "".join(
                f"{frame}\nroot 0 18 {frame} 0 0 0\nleg {30 * frame} 0 0\n" for frame in (1, 2)
            )
            text = f":FULLY-SPECIFIED\n:DEGREES\n{frames}"
            (folder / f"{subject}_{take}.amc").write_text(text)


def write_fake_bandai(root: str | Path) -> None:
    """Three takes of two joints and two frames."""
    folder = Path(root) / "dataset" / "Bandai-Namco-Research-Motiondataset-2" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("walk_tired_001", "walk_active_002", "raise-up-both-hands_normal_010"):
        (folder / f"dataset-2_{name}.bvh").write_text(BVH)
