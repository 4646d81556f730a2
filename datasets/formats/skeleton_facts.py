"""What motion files say about the skeleton that a tokenizer must be built for."""

import json
import os
from pathlib import Path
from typing import Any

from multimask.datasets.formats.asf_amc import read_amc
from multimask.datasets.formats.bvh import read_bvh
from multimask.datasets.formats.files import AnyPath
from multimask.datasets.formats.keypoints import probe_keypoints
from multimask.datasets.formats.motion import text_of
from multimask.datasets.scan import files_below
from multimask.tokens import BadSample

NAMES = "skeleton.json"
"""Beside arrays: {"joints": names, "parents": indices, -1 for the root}, perhaps "units" and
"parts" ({part: names of its joints}; every joint in one)."""

MOTION = (".skeleton", ".bvh", ".amc", ".npy", ".npz")
UNITS = {"mm": 1000.0, "millimet": 1000.0, "cm": 100.0, "centimet": 100.0, "m": 1.0, "met": 1.0}
BY_JOINTS = {17: "coco17", 18: "openpose18", 25: "openpose25"}  # of keypoint JSON


def suggested(data: AnyPath) -> dict[str, Any]:
    """`topology`, `dims`, `unit` and `up` of a skeleton tokenizer for a file or folder, as far as
    they say; empty where nothing does.

    A `skeleton.json` in the folder, or one above a file, names the joints of arrays. BVH and AMC
    hold a tree, NTU files have its 25 joints, keypoint JSON is known by the number of joints. One
    file is looked at: the first that can be read. Joints that the others have in other numbers are
    found when they are read.
    """
    path = Path(os.fspath(data))
    folders = [path] if path.is_dir() else [path.parent, path.parent.parent]
    for folder in folders:
        if (folder / NAMES).is_file():
            return named(folder / NAMES)
    if path.suffix.lower() == ".csv":
        path = path.parent
    for file in motion_files(path) if path.is_dir() else [path]:
        try:
            return told_by(file)
        except BadSample:
            continue  # reading the data will meet it again, count it and list it
    return {}


def motion_files(folder: Path) -> list[Path]:
    """Files of a folder that may hold motion. JSON counts only where nothing else is there: beside
    motion files it describes them."""
    files = [folder / name for name in files_below(folder)]
    motion = [file for file in files if file.suffix.lower() in MOTION]
    return motion or [file for file in files if file.suffix.lower() == ".json"]


def told_by(file: Path) -> dict[str, Any]:
    match file.suffix.lower():
        case ".skeleton":
            return {"topology": "ntu25"}
        case ".bvh":
            motion = read_bvh(file)
        case ".amc":
            motion = read_amc(file)
        case ".json":
            found = probe_keypoints(file)
            seen = {"dims": found["dims"]} | ({"up": "-y"} if found["dims"] == 2 else {})
            name = BY_JOINTS.get(found["joints"])
            return seen if name is None else {"topology": name} | seen
        case _:
            return {}  # arrays name nothing
    return {"topology": {"joints": list(motion.joints), "parents": list(motion.parents)}}


def named(file: Path) -> dict[str, Any]:
    """From a `skeleton.json`. Raises: ValueError for one that names no tree."""
    try:
        found = json.loads(text_of(file, "joint names and parents in JSON", max_bytes=2**20))
    except (ValueError, RecursionError, BadSample) as error:
        raise ValueError(f"{file}: expected joint names and parents in JSON: {error}") from error
    names, parents = (
        found.get(key) if isinstance(found, dict) else None for key in ("joints", "parents")
    )
    if not (all_are(names, str) and all_are(parents, int)):
        raise ValueError(f'{file}: expected {{"joints": names, "parents": indices}}.')
    told: dict[str, Any] = {"topology": {"joints": names, "parents": parents}}
    if "parts" in found:
        parts = found["parts"]
        if not (isinstance(parts, dict) and all(all_are(part, str) for part in parts.values())):
            raise ValueError(f'{file}: expected "parts": {{part: names of its joints}}.')
        told["topology"]["parts"] = parts
    unit = str(found.get("units", found.get("unit", ""))).lower()
    scales = [scale for start, scale in UNITS.items() if len(start) > 2 and unit.startswith(start)]
    if unit in UNITS or scales:
        told["unit"] = UNITS[unit] if unit in UNITS else scales[0]
    return told


def all_are(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)
