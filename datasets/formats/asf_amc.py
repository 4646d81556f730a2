"""ASF/AMC motion capture (Acclaim; CMU's library): a skeleton file and files of joint angles."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from multimask.datasets.formats.files import AnyPath
from multimask.datasets.formats.motion import Motion, check_frames, single, text_of
from multimask.datasets.formats.rotations import composed
from multimask.tokens import BadSample

ASF, AMC = "an ASF skeleton file", "an AMC motion file"
INCH = 0.0254
RATE = 120.0
"""Frames per second of CMU's library; the files do not say."""


@dataclass
class Bone:
    name: str
    direction: list[float] = field(default_factory=list)
    length: float = 0.0
    axis: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    axis_order: str = "xyz"
    dof: list[str] = field(default_factory=list)
    parent: int = -1


def read_amc(path: AnyPath, skeleton: AnyPath | None = None) -> Motion:
    """Where every bone ends, and the root, `(1, frames, 1 + bones, 3)` in metres.

    Lengths are in units of `length` inches, as CMU's are. `skeleton` is the ASF file; if not given,
    the one in the AMC's folder whose name begins that of the AMC (11.asf of 11_01.amc), or the
    only one there.

    Raises: BadSample when either file is damaged or the two do not belong together.
    """
    asf = Path(os.fspath(skeleton)) if skeleton is not None else skeleton_of(path)
    bones, degrees, scale = read_asf(asf)
    numbers = motion_lines(path, bones)
    data = positions(bones, numbers, degrees) * scale
    parents = tuple(bone.parent for bone in bones)
    return Motion(
        single(path, data[None], gaps=False), RATE, tuple(bone.name for bone in bones), parents
    )


def probe_amc(path: AnyPath, skeleton: AnyPath | None = None) -> dict[str, Any]:
    asf = Path(os.fspath(skeleton)) if skeleton is not None else skeleton_of(path)
    bones, _, _ = read_asf(asf)
    frames = sum(line.strip().isdigit() for line in text_of(path, AMC).split("\n"))
    check_frames(path, frames)
    return {"frames": frames, "joints": len(bones), "dims": 3, "rate": RATE, "format": "AMC"}


def skeleton_of(path: AnyPath) -> Path:
    amc = Path(os.fspath(path))
    try:
        found = sorted(file for file in amc.parent.iterdir() if file.suffix.lower() == ".asf")
    except OSError as error:
        raise BadSample(f"{path}: expected {AMC}, found no such folder.") from error
    named = [file for file in found if amc.stem.startswith(file.stem)]
    if len(named) != 1 and len(found) != 1:
        raise BadSample(
            f"{path}: expected its ASF skeleton in the same folder, found {len(found)} ASF files, "
            f"{len(named)} of them with the beginning of its name; say skeleton=..."
        )
    return named[0] if len(named) == 1 else found[0]


# --- the skeleton ---------------------------------------------------------------------------------


def read_asf(path: AnyPath) -> tuple[list[Bone], bool, float]:
    """Root and bones in file order; whether angles are degrees; metres per unit of the file."""
    sections = sections_of(path)
    units = dict(line.split()[:2] for line in sections.get("units", []) if len(line.split()) > 1)
    length = number(path, units.get("length", "1"), "the unit of length")
    if length <= 0:
        raise BadSample(f"{path}: expected a unit of length above 0, found {length}.")
    degrees = units.get("angle", "deg").lower().startswith("deg")
    bones = [root(path, sections.get("root", [])), *bones_of(path, sections.get("bonedata", []))]
    connect(path, bones, sections.get("hierarchy", []))
    return bones, degrees, INCH / length


def sections_of(path: AnyPath) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in text_of(path, ASF).split("\n"):
        plain = line.strip()
        if plain.startswith(":"):
            current = sections.setdefault(plain[1:].split()[0].lower() if plain[1:] else "", [])
        elif plain and not plain.startswith("#") and current is not None:
            current.append(plain)
    if lacking := [name for name in ("root", "bonedata", "hierarchy") if name not in sections]:
        raise BadSample(f"{path}: expected {ASF} with a section :{lacking[0]}, found none.")
    return sections


def root(path: AnyPath, lines: list[str]) -> Bone:
    bone = Bone("root", direction=[0.0, 0.0, 0.0])
    for line in lines:
        key, *values = line.split()
        if key == "order":
            bone.dof = [value.lower() for value in values]
        elif key == "axis" and values:
            bone.axis_order = axes(path, values[0])
        elif key in ("position", "orientation") and any(
            number(path, value, f"the root's {key}") for value in values
        ):
            raise BadSample(
                f"{path}: expected a root at position and orientation 0 0 0, found {line!r}."
            )
    if sorted(bone.dof) != ["rx", "ry", "rz", "tx", "ty", "tz"]:
        raise BadSample(
            f"{path}: expected a root order of TX TY TZ RX RY RZ, found {' '.join(bone.dof)!r}."
        )
    return bone


def bones_of(path: AnyPath, lines: list[str]) -> list[Bone]:
    bones: list[Bone] = []
    bone: Bone | None = None
    for line in lines:
        key, *values = line.split()
        if key == "begin":
            bone = Bone("")
        elif bone is None:
            raise BadSample(f"{path}: expected 'begin' before a bone, found {line[:40]!r}.")
        elif key == "end":
            if not bone.name or len(bone.direction) != 3:
                raise BadSample(f"{path}: expected a bone's name and direction, found none.")
            bones.append(bone)
            bone = None
        elif key == "name" and values:
            bone.name = values[0]
        elif key == "direction":
            bone.direction = [number(path, value, "a direction") for value in values]
        elif key == "length" and values:
            bone.length = number(path, values[0], "a length")
        elif key == "axis" and len(values) == 4:
            bone.axis = [number(path, value, "an axis") for value in values[:3]]
            bone.axis_order = axes(path, values[3])
        elif key == "dof":
            bone.dof = [value.lower() for value in values]
            if stray := set(bone.dof) - {"rx", "ry", "rz"}:
                raise BadSample(f"{path}: expected dof rx, ry or rz, found {min(stray)!r}.")
    if bone is not None or not bones:
        raise BadSample(f"{path}: expected whole bones up to 'end', found the section cut short.")
    return bones


def connect(path: AnyPath, bones: list[Bone], lines: list[str]) -> None:
    """Parents from the hierarchy. A parent must stand before its children in its lines."""
    index = {bone.name: place for place, bone in enumerate(bones)}
    reached = {"root"}
    for line in lines:
        parent, *children = line.split()
        if parent in ("begin", "end") and not children:
            continue
        if unknown := [name for name in (parent, *children) if name not in index]:
            raise BadSample(f"{path}: expected the name of a bone, found {unknown[0]!r}.")
        for child in children:
            if parent not in reached or child in reached:
                raise BadSample(f"{path}: expected a tree from the root, found {line[:40]!r}.")
            bones[index[child]].parent = index[parent]
            reached.add(child)
    if lacking := [bone.name for bone in bones if bone.name not in reached]:
        raise BadSample(f"{path}: expected {lacking[0]!r} in the hierarchy, found it nowhere.")


def axes(path: AnyPath, order: str) -> str:
    if sorted(order.lower()) != ["x", "y", "z"]:
        raise BadSample(f"{path}: expected an order of axes like XYZ, found {order[:20]!r}.")
    return order.lower()


def number(path: AnyPath, text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise BadSample(f"{path}: expected {what}, found {text[:40]!r}.") from error
    if not np.isfinite(value):
        raise BadSample(f"{path}: expected {what}, found {text[:40]!r}.")
    return value


# --- the motion -----------------------------------------------------------------------------------


def motion_lines(path: AnyPath, bones: list[Bone]) -> dict[str, Float[np.ndarray, "t k"]]:
    """Each moving bone's numbers, frame by frame."""
    moving = {bone.name: len(bone.dof) for bone in bones if bone.dof}
    rows: dict[str, list[list[str]]] = {name: [] for name in moving}
    frames = 0
    for line_number, line in enumerate(text_of(path, AMC).split("\n"), start=1):
        words = line.split()
        if not words or words[0].startswith(("#", ":")):
            if words and words[0].upper() == ":RADIANS":
                raise BadSample(f"{path}: expected angles in :DEGREES, found :RADIANS.")
            continue
        if len(words) == 1 and words[0].isdigit():
            check_whole(path, rows, frames)
            frames += 1
            check_frames(path, frames)
            continue
        name, values = words[0], words[1:]
        if name not in moving:
            raise BadSample(
                f"{path}: line {line_number}: expected a bone of its ASF file, found {name[:40]!r}."
            )
        if len(values) != moving[name] or len(rows[name]) != frames - 1:
            raise BadSample(
                f"{path}: line {line_number}: expected {moving[name]} numbers of {name!r} once a "
                f"frame, found {len(values)}."
            )
        rows[name].append(values)
    check_frames(path, frames)
    check_whole(path, rows, frames)
    return {name: table(path, name, values) for name, values in rows.items()}


def check_whole(path: AnyPath, rows: dict[str, list[list[str]]], frames: int) -> None:
    if lacking := [name for name, values in rows.items() if len(values) != frames]:
        raise BadSample(
            f"{path}: expected {lacking[0]!r} in frame {frames}, found it nowhere (cut short?)."
        )


def table(path: AnyPath, name: str, rows: list[list[str]]) -> Float[np.ndarray, "t k"]:
    try:
        numbers = np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise BadSample(f"{path}: expected numbers of {name!r}, found other text.") from error
    if not np.isfinite(numbers).all():
        raise BadSample(f"{path}: expected finite numbers of {name!r}, found NaN or infinite.")
    return numbers


def positions(
    bones: list[Bone], numbers: dict[str, Float[np.ndarray, "t k"]], degrees: bool
) -> Float[np.ndarray, "t v 3"]:
    """A bone turns by C M C^-1 in its parent's frame, C being its own axes (ASF convention: of an
    order XYZ the x turn comes first, so matrices multiply z y x)."""
    frames = len(next(iter(numbers.values())))
    placed = np.zeros((frames, len(bones), 3))
    turned = np.zeros((frames, len(bones), 3, 3))
    unit = 1.0 if degrees else float(np.degrees(1))
    for index in in_order(bones):
        bone = bones[index]
        values = numbers.get(bone.name, np.zeros((frames, 0)))
        moves = [place for place, name in enumerate(bone.dof) if name[0] == "r"]
        # of dofs named in any order the rotations multiply as the axis order says
        ranked = sorted(moves, key=lambda place: -bone.axis_order.index(bone.dof[place][1]))
        motion = composed("".join(bone.dof[place][1] for place in ranked), values[:, ranked])
        axis = np.array([bone.axis]) * unit
        by_order = [axis[0]["xyz".index(letter)] for letter in reversed(bone.axis_order)]
        own = composed(bone.axis_order[::-1], np.array([by_order]))[0]
        local = own @ motion @ own.T
        if bone.parent < 0:
            shift = [bone.dof.index(f"t{letter}") for letter in "xyz"]
            placed[:, index], turned[:, index] = values[:, shift], local
            continue
        turned[:, index] = turned[:, bone.parent] @ local
        reach = bone.length * np.array(bone.direction)
        placed[:, index] = placed[:, bone.parent] + turned[:, index] @ reach
    return placed


def in_order(bones: list[Bone]) -> list[int]:
    """Parents before children; file order need not be so."""
    depth = []
    for bone in bones:
        steps = 0
        while bone.parent >= 0:
            bone, steps = bones[bone.parent], steps + 1
        depth.append(steps)
    return sorted(range(len(bones)), key=depth.__getitem__)
