"""pyskl annotations in JSON: one file holds all clips of a set and its splits.

pyskl ships pickles, which may run code and are refused here; convert them once, where you trust
them: `json.dump(pickle.load(file), out, default=lambda array: array.tolist())`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from multimask.datasets.formats.keypoints import annotation, loaded, mapping
from multimask.tokens import BadSample


def pyskl(
    path: str | Path,
    train: str = "",
    test: str = "",
    modality: str = "skeleton",
    least: float = 0.0,
) -> dict[str, list[Any]]:
    """Columns: id (`frame_dir`), the clips themselves `(bodies, frames, joints, dims)` float32 with
    NaN where the score is not above `least`, label, split.

    train, test: names of the file's splits, such as "xsub_train" and "xsub_val"; clips of neither
    are left out. If not given the split is the name of the one that lists the clip, None for none.

    Raises: ValueError for other contents, for splits that the file does not have, for damaged
    clips, whose name it says.
    """
    try:
        content = mapping(path, loaded(path))
        annotations = content.get("annotations")
        if not isinstance(annotations, list) or not annotations:
            raise BadSample(f"{path}: expected pyskl annotations, found none.")
        listed = {str(name): set(ids) for name, ids in dict(content.get("split", {})).items()}
    except (BadSample, TypeError, ValueError) as error:
        raise ValueError(str(error)) from error
    if unknown := [name for name in (train, test) if name and name not in listed]:
        raise ValueError(
            f"{path}: has no split {unknown[0]!r}, only {', '.join(listed) or 'none'}."
        )
    wanted = {name: kind for name, kind in ((train, "train"), (test, "test")) if name}
    columns: dict[str, list[Any]] = {name: [] for name in ("id", modality, "label", "split")}
    for index, entry in enumerate(annotations):
        facts = mapping(path, entry)
        name = str(facts.get("frame_dir", index))
        inside = [split for split, ids in listed.items() if name in ids]
        chosen = [wanted[split] for split in inside if split in wanted]
        if wanted and not chosen:
            continue
        try:
            motion = annotation(f"{path}: clip {name}", facts, least)
        except KeyError as error:
            raise ValueError(f"{path}: clip {name}: expected 'keypoint', found none.") from error
        columns["id"].append(name)
        columns[modality].append(motion.data)
        columns["label"].append(facts.get("label"))
        columns["split"].append(chosen[0] if chosen else (inside[0] if inside else None))
    return columns


def write_fake_pyskl(path: str | Path, frames: int = 5, joints: int = 17, seed: int = 0) -> None:
    """Four clips of one or two bodies, two splits, one joint of zero score a clip."""
    generator = np.random.default_rng(seed)
    annotations = []
    for index in range(4):
        bodies, length = 1 + index % 2, frames + index
        score = generator.random((bodies, length, joints)) * 0.9 + 0.1
        score[0, 0, index] = 0
        annotations.append(
            {
                "frame_dir": f"S001C001P00{index}R001A001",
                "label": index % 2,
                "img_shape": [1080, 1920],
                "total_frames": length,
                "keypoint": (generator.random((bodies, length, joints, 2)) * 500).round(2).tolist(),
                "keypoint_score": score.round(3).tolist(),
            }
        )
    ids = [entry["frame_dir"] for entry in annotations]
    content = {"split": {"xsub_train": ids[:2], "xsub_val": ids[2:]}, "annotations": annotations}
    Path(path).write_text(json.dumps(content))
