"""What tests of motion share: small files, written here, and the numbers of a sample."""

import json
from pathlib import Path

import numpy as np
import torch

from multimask.datasets.formats.skeletons import SkeletonReader
from multimask.datasets.layouts.ntu import write_fake_ntu
from multimask.tokens import sample_generator

READER = SkeletonReader(bodies=None)


def ntu_file(folder: Path, index: int) -> Path:
    name = write_fake_ntu(folder)[index]
    return folder / "nturgb+d_skeletons" / name


def single(numbers: list[float]) -> np.ndarray:
    return np.array(numbers, dtype=np.float32)


def person(x: float, joints: int = 25, confidence: float = 0.9) -> dict:
    flat = [value for joint in range(joints) for value in (x + joint, 10.0 * joint, confidence)]
    return {"person_id": [-1], "pose_keypoints_2d": flat}


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def generator(name: str = "a") -> torch.Generator:
    return sample_generator(0, 0, name, "augment")
