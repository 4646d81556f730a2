"""Something-Something (Goyal et al., ICCV 2017): 174 actions with objects.

Version 2, clips:   20bn-something-something-v2/<id>.webm, labels/{labels,train,...}.json
Version 1, frames:  20bn-something-something-v1/<id>/00001.jpg, something-something-v1-train.csv
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from multimask.datasets.formats.video_write import write_clip
from multimask.datasets.formats.videos import VideoReader
from multimask.datasets.layouts.ucf101 import lines_of
from multimask.datasets.table import Table

CLIPS = "20bn-something-something-v2"
FRAMES = "20bn-something-something-v1"
PARTS = {"train": "train", "validation": "val", "test": "test"}
RATE = 12.0  # frames per second of both versions


def something_v2(root: str | Path, reader: VideoReader | None = None) -> Table:
    """Version 2: `video`, `label` (the template, "Pushing [something] ..."; none in the test part),
    `split`, `id`. Label files may lie in `labels/` or at the top, with or without the set's name.

    Raises: ValueError for folders and files that are not as published.
    """
    root = Path(root)
    known = _json(_listing(root, "labels"), dict)
    rows: list[tuple[str, str, str | None, str]] = []
    for part, split in PARTS.items():
        path = _listing(root, part)
        for entry in _json(path, list):
            if not isinstance(entry, dict) or "id" not in entry:
                raise ValueError(f"{path}: expected entries with an id, found {str(entry)[:60]!r}.")
            label = (
                str(entry["template"]).replace("[", "").replace("]", "")
                if "template" in entry
                else None
            )
            if label is not None and label not in known:
                raise ValueError(
                    f"{path}: {entry['id']} has the label {label!r}, not in labels.json."
                )
            rows.append((str(entry["id"]), f"{CLIPS}/{entry['id']}.webm", label, split))
    ids, files, labels, splits = map(list, zip(*rows, strict=True))
    columns = {"id": ids, "video": files, "label": labels, "split": splits}
    return Table.of(columns, {"video": reader or VideoReader()}, root)


def something_v1(root: str | Path, reader: VideoReader | None = None) -> Table:
    """Version 1, folders of frames at 12 a second: as `something_v2`."""
    root = Path(root)
    rows: list[tuple[str, str, str | None, str]] = []
    for part, split in PARTS.items():
        path = root / f"something-something-v1-{part}.csv"
        for line in lines_of(path):
            name, _, label = line.partition(";")
            if not name.isdigit():
                raise ValueError(f"{path}: expected lines `id;label`, found {line[:60]!r}.")
            rows.append((name, f"{FRAMES}/{name}", label or None, split))
    ids, files, labels, splits = map(list, zip(*rows, strict=True))
    columns = {"id": ids, "video": files, "label": labels, "split": splits}
    reader = reader or VideoReader()
    return Table.of(columns, {"video": replace(reader, rate=reader.rate or RATE)}, root)


def _listing(root: Path, part: str) -> Path:
    names = (f"labels/{part}.json", f"{part}.json", f"something-something-v2-{part}.json")
    for name in (*names, f"labels/something-something-v2-{part}.json"):
        if (root / name).is_file():
            return root / name
    raise ValueError(f"{root}: expected {names[0]}, found neither it nor {', '.join(names[1:])}.")


def _json(path: Path, kind: type) -> Any:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, found something else.") from error
    if not isinstance(found, kind) or not found:
        raise ValueError(f"{path}: expected a JSON {kind.__name__} that is not empty.")
    return found


def write_fake_something(root: str | Path, version: int = 2) -> None:
    """A tiny copy of noise in the published folders: for tests."""
    from PIL import Image

    root, draw = Path(root), np.random.default_rng(0)
    templates = ["Pushing [something] from left to right", "Dropping [something]"]
    labels = [template.replace("[", "").replace("]", "") for template in templates]
    parts: dict[str, list[tuple[str, int | None]]] = {
        "train": [("1", 0), ("2", 1)],
        "validation": [("10", 1)],
        "test": [("11", None)],
    }
    for part, entries in parts.items():
        for name, _ in entries:
            frames = draw.integers(0, 256, (8, 32, 48, 3), dtype=np.uint8)
            if version == 2:
                (root / CLIPS).mkdir(parents=True, exist_ok=True)
                file = root / CLIPS / f"{name}.webm"
                write_clip(file, frames, 12, "libvpx-vp9", options={"deadline": "realtime"})
                continue
            (root / FRAMES / name).mkdir(parents=True, exist_ok=True)
            for number, frame in enumerate(frames, start=1):
                Image.fromarray(frame).save(root / FRAMES / name / f"{number:05d}.jpg")
        if version == 1:
            lines = [f"{name};{labels[i]}" if i is not None else name for name, i in entries]
            (root / f"something-something-v1-{part}.csv").write_text("\n".join(lines) + "\n")
            continue
        told = [
            {"id": name} | ({} if i is None else {"label": "told", "template": templates[i]})
            for name, i in entries
        ]
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"{part}.json").write_text(json.dumps(told))
    if version == 2:
        numbered = {label: str(index) for index, label in enumerate(labels)}
        (root / "labels" / "labels.json").write_text(json.dumps(numbered))
