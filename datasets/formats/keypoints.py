"""Keypoints in JSON: OpenPose, COCO, Kinetics-skeleton and pyskl-style clips."""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from multimask.datasets.formats.files import AnyPath
from multimask.datasets.formats.motion import (
    MAX_FRAMES,
    Motion,
    Pose,
    check_frames,
    linked,
    single,
    text_of,
)
from multimask.tokens import BadSample

WHAT = "keypoint JSON"
FRAME_NUMBER = re.compile(r"(\d+)(?=\D*$)")

Bodies = list[tuple[str | None, Pose]]


def read_keypoints(path: AnyPath, least: float = 0.0) -> Motion:
    """One clip `(bodies, frames, joints, dims)` in the file's unit, usually pixels.

    Recognised by what they hold: a folder of OpenPose frames (one JSON a frame, ordered by the last
    number in the name; numbers left out are frames without a body) or one such frame; COCO
    keypoints, annotations or results (a frame an image, ordered by image id); Kinetics-skeleton
    (frames of `pose` and `score`); a pyskl annotation of one clip (`keypoint`, `keypoint_score`).
    Bodies are linked through time by the file's track ids, else by place. Joints whose confidence
    (COCO: visibility) is not above `least` are NaN.

    Raises: BadSample for all other contents, for lists of unequal length, and for a clip in which
    no joint is known.
    """
    if os.path.isdir(path):
        frames = folder_frames(path, least)
    else:
        frames = frames_of(path, loaded(path), least)
    motion = frames if isinstance(frames, Motion) else as_motion(path, frames)
    if not np.isfinite(motion.data).all(axis=-1).any():
        raise BadSample(f"{path}: expected a joint that is known, found none in any frame.")
    return motion


def probe_keypoints(path: AnyPath) -> dict[str, Any]:
    """Sizes. JSON has no header: the file is read, of a folder the names and the first frame."""
    if os.path.isdir(path):
        numbered = frame_files(path)
        motion = read_keypoints(numbered[min(numbered)])
        frames = max(numbered) - min(numbered) + 1
    else:
        motion = read_keypoints(path)
        frames = motion.data.shape[1]
    bodies, _, joints, dims = motion.data.shape
    return {"frames": frames, "joints": joints, "dims": dims, "bodies": bodies, "format": "JSON"}


def loaded(path: AnyPath) -> Any:
    text = text_of(path, WHAT)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadSample(f"{path}: expected {WHAT}, found text that is no whole JSON.") from error


def frames_of(path: AnyPath, content: Any, least: float) -> list[Bodies] | Motion:
    if isinstance(content, Mapping):
        if "people" in content:
            return [openpose(path, content, least)]
        if "keypoint" in content:
            return annotation(path, content, least)
        if isinstance(content.get("data"), Sequence):
            return kinetics(path, content["data"], least)
        found = content.get("annotations")
        if isinstance(found, Sequence) and found and "keypoint" in mapping(path, found[0]):
            raise BadSample(
                f"{path}: expected one clip, found annotations of {len(found)}; open the file "
                "with the layout `pyskl`, which lists them."
            )
        if isinstance(found, Sequence):
            images = content.get("images") or []
            ids = [mapping(path, image).get("id") for image in listing(path, images)]
            return coco(path, found, ids, least)
    elif isinstance(content, Sequence) and not isinstance(content, str) and content:
        return coco(path, content, [], least)
    keys = sorted(map(str, content))[:5] if isinstance(content, Mapping) else type(content).__name__
    raise BadSample(
        f"{path}: expected {WHAT} of OpenPose, COCO, Kinetics-skeleton or pyskl, found {keys}."
    )


def as_motion(path: AnyPath, frames: list[Bodies]) -> Motion:
    check_frames(path, len(frames))
    shapes = {pose.shape for bodies in frames for _, pose in bodies}
    if not shapes:
        raise BadSample(f"{path}: expected a body, found none in any of {len(frames)} frames.")
    if len(shapes) > 1:
        raise BadSample(f"{path}: expected one number of joints, found {sorted(shapes)}.")
    return Motion(linked(frames))


# --- the four -------------------------------------------------------------------------------------


def frame_files(folder: AnyPath) -> dict[int, Path]:
    """The JSON files of a folder by frame number."""
    numbered: dict[int, Path] = {}
    for file in sorted(Path(os.fspath(folder)).iterdir()):
        if file.suffix.lower() != ".json":
            continue
        digits = FRAME_NUMBER.search(file.stem)
        if digits is None or int(digits[1]) in numbered:
            raise BadSample(f"{file}: expected a frame number of its own at the end of the name.")
        numbered[int(digits[1])] = file
    if not numbered:
        raise BadSample(f"{folder}: expected a folder of {WHAT}, a file a frame, found none.")
    check_frames(folder, max(numbered) - min(numbered) + 1)
    return numbered


def folder_frames(folder: AnyPath, least: float) -> list[Bodies]:
    numbered = frame_files(folder)
    frames: list[Bodies] = [[] for _ in range(max(numbered) - min(numbered) + 1)]
    for index, file in numbered.items():
        content = mapping(file, loaded(file))
        if "people" not in content:
            raise BadSample(f"{file}: expected an OpenPose frame with 'people', found none.")
        frames[index - min(numbered)] = openpose(file, content, least)
    return frames


def openpose(path: AnyPath, content: Mapping[str, Any], least: float) -> Bodies:
    bodies: Bodies = []
    for person in listing(path, content["people"]):
        fields = mapping(path, person)
        flat = fields.get("pose_keypoints_3d") or None
        width = 4 if flat else 3
        flat = flat or fields.get("pose_keypoints_2d", fields.get("pose_keypoints"))
        table = numbers(path, flat, "pose_keypoints_2d")
        name = fields.get("person_id")
        first = name[0] if isinstance(name, list) and name else -1
        known = None if first in (-1, "-1") else str(first)
        bodies.append((known, pose_of(path, table, width, least)))
    return bodies


def kinetics(path: AnyPath, data: Sequence[Any], least: float) -> list[Bodies]:
    """Kinetics-skeleton (Yan et al. 2018): frame_index from 1, coordinates in 0..1."""
    entries = [mapping(path, entry) for entry in data]
    places = [whole(path, entry.get("frame_index"), "frame_index") for entry in entries]
    check_frames(path, max(places, default=0))
    frames: list[Bodies] = [[] for _ in range(max(places))]
    for place, entry in zip(places, entries, strict=True):
        if place < 1:
            raise BadSample(f"{path}: expected frame_index from 1, found {place}.")
        for skeleton in listing(path, entry.get("skeleton", [])):
            fields = mapping(path, skeleton)
            flat = numbers(path, fields.get("pose"), "pose")
            score = numbers(path, fields.get("score"), "score")
            if flat.size != 2 * score.size:
                raise BadSample(
                    f"{path}: frame {place}: expected two coordinates a score, found {flat.size} "
                    f"and {score.size}."
                )
            table = np.concatenate((flat.reshape(-1, 2), score[:, None]), axis=1)
            frames[place - 1].append((None, pose_of(path, table.ravel(), 3, least)))
    return frames


def coco(path: AnyPath, found: Sequence[Any], ids: list[Any], least: float) -> list[Bodies]:
    by_image: dict[Any, Bodies] = {key(path, name): [] for name in ids}
    for entry in found:
        fields = mapping(path, entry)
        if "keypoints" not in fields:
            continue  # boxes and crowds beside people
        table = numbers(path, fields["keypoints"], "keypoints")
        track = fields.get("track_id", fields.get("idx"))
        name = str(track) if isinstance(track, int | str) else None
        bodies = by_image.setdefault(key(path, fields.get("image_id")), [])
        bodies.append((name, pose_of(path, table, 3, least)))
    if not by_image or len(by_image) > MAX_FRAMES:
        raise BadSample(f"{path}: expected entries with 'keypoints', found {len(by_image)} images.")
    return [by_image[name] for name in sorted(by_image)]


def annotation(path: AnyPath, content: Mapping[str, Any], least: float = 0.0) -> Motion:
    """A pyskl annotation: keypoint (bodies, frames, joints, dims), keypoint_score without dims."""
    data = numbers(path, content["keypoint"], "keypoint", axes=4)
    check_frames(path, data.shape[1])
    stated = content.get("total_frames", data.shape[1])
    if stated != data.shape[1] or data.shape[3] not in (2, 3):
        raise BadSample(
            f"{path}: expected keypoints (bodies, {stated} frames, joints, 2 or 3), found "
            f"{data.shape}."
        )
    if content.get("keypoint_score") is not None:
        score = numbers(path, content["keypoint_score"], "keypoint_score", axes=3)
        if score.shape != data.shape[:3]:
            raise BadSample(
                f"{path}: expected keypoint_score {data.shape[:3]}, found {score.shape}."
            )
        data = np.where((score > least)[..., None], data, np.nan)
    return Motion(single(path, data))


# --- small checks ---------------------------------------------------------------------------------


def pose_of(path: AnyPath, flat: np.ndarray, width: int, least: float) -> Pose:
    """Triples (x, y, confidence), or quadruples, as a pose; unknown joints are NaN."""
    if flat.size == 0 or flat.size % width:
        raise BadSample(
            f"{path}: expected {width} numbers a joint, found {flat.size} numbers of one body."
        )
    table = flat.reshape(-1, width)
    lost = ~(table[:, -1] > least)
    return single(path, np.where(lost[:, None], np.nan, table[:, :-1]))


def numbers(path: AnyPath, value: Any, what: str, axes: int = 1) -> np.ndarray:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadSample(
            f"{path}: expected numbers in {what!r}, found a list of unequal lengths or no numbers."
        ) from error
    if value is None or array.ndim != axes:
        raise BadSample(
            f"{path}: expected a list of {axes} axes in {what!r}, found shape {array.shape}."
        )
    if np.isinf(array).any():
        raise BadSample(f"{path}: expected finite numbers in {what!r}, found infinite ones.")
    return array


def mapping(path: AnyPath, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadSample(f"{path}: expected an object, found {type(value).__name__}.")
    return value


def listing(path: AnyPath, value: Any) -> Iterable[Any]:
    if not isinstance(value, list):
        raise BadSample(f"{path}: expected a list, found {type(value).__name__}.")
    return value


def whole(path: AnyPath, value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadSample(f"{path}: expected a whole number in {what!r}, found {value!r}.")
    return value


def key(path: AnyPath, value: Any) -> tuple[float, str]:
    """Image ids in order: numbers by size, names by the last number in them."""
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value), ""
    if isinstance(value, str):
        digits = FRAME_NUMBER.search(value)
        return (float(digits[1]) if digits and len(digits[1]) < 16 else math.inf), value
    raise BadSample(f"{path}: expected an image_id, found {value!r}.")
