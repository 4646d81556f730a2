"""Kinetics-skeleton (Yan et al. 2018): OpenPose joints of Kinetics clips, a JSON file a clip."""

import json
from pathlib import Path
from typing import Any

import numpy as np

SPLITS = {"train": "kinetics_train", "val": "kinetics_val"}


def kinetics_skeleton(root: str | Path, modality: str = "skeleton") -> dict[str, list[Any]]:
    """Columns: id, the modality's file, label (class from 0), label_name, split.

    The folder holds `kinetics_train/NAME.json` and `kinetics_train_label.json`, the same of
    `kinetics_val`; one of the two is enough. Clips without a person (`has_skeleton` false) are left
    out, as in the set's own loader.

    Raises: ValueError where a list is missing, damaged or names no file.
    """
    base = Path(root)
    columns: dict[str, list[Any]] = {
        name: [] for name in ("id", modality, "label", "label_name", "split")
    }
    for split, folder in SPLITS.items():
        listed = base / f"{folder}_label.json"
        if not listed.is_file():
            continue
        for name, facts in clips(listed).items():
            if not facts.get("has_skeleton", True):
                continue
            columns["id"].append(f"{split}/{name}")
            columns[modality].append(f"{folder}/{name}.json")
            columns["label"].append(facts.get("label_index"))
            columns["label_name"].append(facts.get("label"))
            columns["split"].append(split)
    if not columns["id"]:
        raise ValueError(
            f"{root}: expected kinetics_train_label.json or kinetics_val_label.json with clips, "
            "found none."
        )
    return columns


def clips(listed: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(listed.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{listed}: expected JSON, found no whole JSON text.") from error
    if not isinstance(content, dict) or not all(isinstance(x, dict) for x in content.values()):
        raise ValueError(f"{listed}: expected an object of clips, name to facts.")
    return dict(sorted(content.items()))


def write_fake_kinetics(root: str | Path, frames: int = 5, seed: int = 0) -> None:
    """Two clips to train, one to validate, and one without a person."""
    generator = np.random.default_rng(seed)
    for split, names in {"train": ["aaa", "bbb", "empty"], "val": ["ccc"]}.items():
        folder = Path(root) / SPLITS[split]
        folder.mkdir(parents=True, exist_ok=True)
        listed = {}
        for label, name in enumerate(names):
            people = 0 if name == "empty" else 1 + label
            data = []
            for frame in range(frames):
                poses = [
                    {
                        "pose": (generator.random(36) * 0.1 + body * 0.5).round(3).tolist(),
                        "score": generator.random(18).round(3).tolist(),
                    }
                    for body in range(people)
                ]
                data.append({"frame_index": frame + 1, "skeleton": poses})
            content = {"data": data, "label": f"class {label}", "label_index": label}
            (folder / f"{name}.json").write_text(json.dumps(content))
            listed[name] = {
                "has_skeleton": people > 0,
                "label": f"class {label}",
                "label_index": label,
            }
        (Path(root) / f"{SPLITS[split]}_label.json").write_text(json.dumps(listed))
