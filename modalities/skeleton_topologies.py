"""Which joints a skeleton has and how bones connect them: tables of the field, and BVH trees."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

Joints = tuple[int, ...]


@dataclass(frozen=True)
class Topology:
    """Joints and bones of one skeleton, as data.

    Args:
        joints: names, in the order of the arrays.
        bones: pairs of joints, undirected, each once, no self loops.
        parts: names of body parts and their joints; every joint in exactly one part.
        root: joints whose mean is the body's centre (usually one).
        mirror: for each joint its counterpart on the other side, itself on the midline.
    Raises: ValueError when bones, parts or mirror contradict the joints, or the graph falls apart.

    >>> arm = Topology(("shoulder", "elbow", "wrist"), ((0, 1), (1, 2)))
    >>> arm.adjacency().int().tolist()
    [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    """

    joints: tuple[str, ...]
    bones: tuple[tuple[int, int], ...]
    parts: Mapping[str, Joints] = field(default_factory=dict, hash=False)
    root: Joints = (0,)
    mirror: Joints = ()

    def __post_init__(self) -> None:
        n = len(self.joints)
        if n < 1 or len(set(self.joints)) != n:
            raise ValueError("Topology: joints need names that differ, at least one.")
        self.check_range(*self.bones, self.root, self.mirror, *self.parts.values())
        undirected = {frozenset(bone) for bone in self.bones}
        if len(undirected) != len(self.bones) or any(len(bone) != 2 for bone in undirected):
            raise ValueError("Topology: a bone occurs twice or leads from a joint to itself.")
        if not self.root or math.inf in distances(n, self.bones, self.root[0]):
            raise ValueError("Topology: bones must connect all joints, and there must be a root.")
        if not self.mirror:
            object.__setattr__(self, "mirror", mirrored(self.joints))
        if not self.parts:
            object.__setattr__(self, "parts", chains(self.joints, self.bones))
        if sorted(sum(self.parts.values(), ())) != list(range(n)):
            raise ValueError("Topology: every joint must be in exactly one part.")
        if len(self.mirror) != n or [self.mirror[joint] for joint in self.mirror] != list(range(n)):
            raise ValueError("Topology: mirror must exchange joints in pairs.")

    def check_range(self, *groups: Joints) -> None:
        for joint in sum(groups, ()):
            if not 0 <= joint < len(self):
                raise ValueError(
                    f"Topology: joint {joint} is named, but there are only 0..{len(self) - 1}."
                )

    def __len__(self) -> int:
        return len(self.joints)

    def side(self, joint: int) -> str:
        """ "left", "right" or "middle". Of a pair, the name that sorts first is left: left < right,
        l_ < r_, L < R."""
        other = self.mirror[joint]
        if other == joint:
            return "middle"
        return "left" if self.joints[joint] < self.joints[other] else "right"

    @property
    def right_parts(self) -> tuple[str, ...]:
        """Names of the parts that lie wholly on the right: an arm and a leg, in most tables."""
        return tuple(
            name
            for name, joints in self.parts.items()
            if all(self.side(joint) == "right" for joint in joints)
        )

    def adjacency(self) -> Float[Tensor, "v v"]:
        """1 where a bone connects two joints."""
        matrix = torch.zeros(len(self), len(self))
        for a, b in self.bones:
            matrix[a, b] = matrix[b, a] = 1
        return matrix

    def edges(self) -> Int[Tensor, "2 e"]:
        """Every bone in both directions."""
        pairs = [(a, b) for bone in self.bones for a, b in (bone, bone[::-1])]
        return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T.contiguous()

    def hops(self) -> Float[Tensor, "v v"]:
        """Fewest bones between two joints."""
        return torch.tensor([distances(len(self), self.bones, start) for start in range(len(self))])


def distances(n: int, bones: Sequence[tuple[int, int]], start: int) -> list[float]:
    """Bones from one joint to each, inf where no way leads."""
    found, step = [math.inf] * n, {start}
    for count in range(n):
        for joint in step:
            found[joint] = float(count)
        near = {b for bone in bones for a, b in (bone, bone[::-1]) if a in step}
        step = {joint for joint in near if found[joint] == math.inf}
    return found


def tree(
    names: Sequence[str],
    parents: Sequence[int],
    parts: Mapping[str, Sequence[str]] | None = None,
) -> Topology:
    """A topology from joint names and parents (-1 for the root), as motion-capture files state
    them. `parts` names the joints of each body part; by default they are the tree's unbranched
    chains, in which an arm begins at the shoulder or collar-bone.

    Raises: ValueError for lists that contradict each other; see `Topology`.

    >>> tree(["hips", "l_leg", "r_leg"], [-1, 0, 0]).mirror
    (0, 2, 1)
    """
    if len(names) != len(parents):
        raise ValueError(f"tree: {len(names)} names came with {len(parents)} parents.")
    bones = tuple((parent, joint) for joint, parent in enumerate(parents) if parent >= 0)
    roots = tuple(joint for joint, parent in enumerate(parents) if parent < 0)
    if len(roots) != 1:
        raise ValueError(f"tree: one joint must have no parent (-1), found {len(roots)}.")
    return Topology(tuple(names), bones, numbered(parts or {}, names), root=roots)


def numbered(parts: Mapping[str, Sequence[str]], names: Sequence[str]) -> dict[str, Joints]:
    """Parts by the places of their joints."""
    index = {name: joint for joint, name in enumerate(names)}
    unknown = sorted(set().union(*parts.values()) - set(index))
    if unknown:
        raise ValueError(f"tree: a body part has the joint {unknown[0]!r}, which is not there.")
    return {part: tuple(index[name] for name in joints) for part, joints in parts.items()}


def chains(names: Sequence[str], bones: Sequence[tuple[int, int]]) -> dict[str, Joints]:
    """Parts where no table names any: from joint to joint until the skeleton branches.

    A part is named by its first joint. A joint where three bones meet ends the chain that leads to
    it. Works on any graph; joints are walked in their own order.
    """
    near: dict[int, list[int]] = {joint: [] for joint in range(len(names))}
    for a, b in bones:
        near[a].append(b)
        near[b].append(a)
    parts, taken = {}, set[int]()
    for start in range(len(names)):
        chain, joint = [], start
        while joint not in taken:
            taken.add(joint)
            chain.append(joint)
            onward = [other for other in near[joint] if other not in taken]
            if len(onward) != 1:
                break
            joint = onward[0]
        if chain:
            parts[names[start]] = tuple(chain)
    return parts


SIDES = (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"))
SHORT = re.compile(r"(?P<l>(?<![a-zA-Z])[lL](?=[_A-Z.\s])|_[lL](?![a-zA-Z]))|^l(?=[a-z])")


def mirrored(names: Sequence[str]) -> Joints:
    """Each joint's counterpart, read from names: left/right, L_/R_, _l/_r, lfemur/rfemur. Names
    without a counterpart are their own."""
    index = {name: joint for joint, name in enumerate(names)}
    mirror = list(range(len(names)))
    for joint, name in enumerate(names):
        candidates = [name.replace(left, right) for left, right in SIDES]
        candidates += [SHORT.sub(lambda found: found[0].translate(TO_RIGHT), name)]
        for other in candidates:
            if other != name and other in index:
                mirror[joint], mirror[index[other]] = index[other], joint
                break
    return tuple(mirror)


TO_RIGHT = str.maketrans("lL", "rR")


def named(joints: str) -> tuple[str, ...]:
    return tuple(joints.split())


COCO17 = Topology(
    named(
        "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow "
        "right_elbow left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle "
        "right_ankle"
    ),
    # the keypoint task's own 19, which hold cycles at head and trunk
    (
        *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7)),
        *((6, 8), (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
    ),
    {
        "head": (0, 1, 2, 3, 4),
        "torso": (5, 6, 11, 12),
        "left_arm": (7, 9),
        "right_arm": (8, 10),
        "left_leg": (13, 15),
        "right_leg": (14, 16),
    },
    root=(11, 12),
)
"""COCO keypoints (Lin et al. 2014); parts as in SkeletonMAE (Yan et al. 2023)."""

OPENPOSE18 = Topology(
    named(
        "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist "
        "right_hip right_knee right_ankle left_hip left_knee left_ankle right_eye left_eye "
        "right_ear left_ear"
    ),
    (
        *((1, 0), (1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10)),
        *((1, 11), (11, 12), (12, 13), (0, 14), (14, 16), (0, 15), (15, 17)),
    ),
    {
        "head": (0, 14, 15, 16, 17),
        "torso": (1, 2, 5, 8, 11),
        "left_arm": (6, 7),
        "right_arm": (3, 4),
        "left_leg": (12, 13),
        "right_leg": (9, 10),
    },
    root=(8, 11),
)
"""OpenPose's COCO model (Cao et al. 2017), also of Kinetics-skeleton."""

OPENPOSE25 = Topology(
    named(
        "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist "
        "mid_hip right_hip right_knee right_ankle left_hip left_knee left_ankle right_eye left_eye "
        "right_ear left_ear left_big_toe left_small_toe left_heel right_big_toe right_small_toe "
        "right_heel"
    ),
    (
        *((1, 8), (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (8, 9), (9, 10), (10, 11)),
        *((8, 12), (12, 13), (13, 14), (1, 0), (0, 15), (15, 17), (0, 16), (16, 18), (14, 19)),
        *((19, 20), (14, 21), (11, 22), (22, 23), (11, 24)),
    ),
    {
        "head": (0, 15, 16, 17, 18),
        "torso": (1, 2, 5, 8, 9, 12),
        "left_arm": (6, 7),
        "right_arm": (3, 4),
        "left_leg": (13, 14, 19, 20, 21),
        "right_leg": (10, 11, 22, 23, 24),
    },
    root=(8,),
)
"""OpenPose's BODY_25."""

NTU25 = Topology(
    named(
        "spine_base spine_mid neck head left_shoulder left_elbow left_wrist left_hand "
        "right_shoulder right_elbow right_wrist right_hand left_hip left_knee left_ankle left_foot "
        "right_hip right_knee right_ankle right_foot spine_shoulder left_hand_tip left_thumb "
        "right_hand_tip right_thumb"
    ),
    # tips and thumbs hang on the hand, as in most action recognition code; Kinect hangs the thumb
    # on the wrist
    (
        *((0, 1), (1, 20), (20, 2), (2, 3), (20, 4), (4, 5), (5, 6), (6, 7), (7, 21), (7, 22)),
        *((20, 8), (8, 9), (9, 10), (10, 11), (11, 23), (11, 24), (0, 12), (12, 13), (13, 14)),
        *((14, 15), (0, 16), (16, 17), (17, 18), (18, 19)),
    ),
    {
        "head": (2, 3),
        "torso": (0, 1, 20),
        "left_arm": (4, 5, 6, 7, 21, 22),
        "right_arm": (8, 9, 10, 11, 23, 24),
        "left_leg": (12, 13, 14, 15),
        "right_leg": (16, 17, 18, 19),
    },
)
"""Kinect v2 in the order of NTU RGB+D (Shahroudy et al. 2016)."""

SMPL24 = Topology(
    named(
        "pelvis left_hip right_hip spine1 left_knee right_knee spine2 left_ankle right_ankle "
        "spine3 left_foot right_foot neck left_collar right_collar head left_shoulder "
        "right_shoulder left_elbow right_elbow left_wrist right_wrist left_hand right_hand"
    ),
    (
        *((0, 1), (0, 2), (0, 3), (1, 4), (2, 5), (3, 6), (4, 7), (5, 8), (6, 9), (7, 10), (8, 11)),
        *((9, 12), (9, 13), (9, 14), (12, 15), (13, 16), (14, 17), (16, 18), (17, 19), (18, 20)),
        *((19, 21), (20, 22), (21, 23)),
    ),
    {
        "head": (12, 15),
        "torso": (0, 3, 6, 9, 13, 14),
        "left_arm": (16, 18, 20, 22),
        "right_arm": (17, 19, 21, 23),
        "left_leg": (1, 4, 7, 10),
        "right_leg": (2, 5, 8, 11),
    },
)
"""The body model SMPL (Loper et al. 2015)."""

TOPOLOGIES: Mapping[str, Topology] = {
    "coco17": COCO17,
    "openpose18": OPENPOSE18,
    "openpose25": OPENPOSE25,
    "ntu25": NTU25,
    "smpl24": SMPL24,
}


def topology(name: str) -> Topology:
    """A table by name, for command lines. Raises ValueError naming those there are."""
    if name not in TOPOLOGIES:
        raise ValueError(f"topology {name!r} is unknown; there are {', '.join(TOPOLOGIES)}.")
    return TOPOLOGIES[name]


def as_topology(given: "Topology | str | Mapping[str, Any]") -> Topology:
    """A topology as it is, by name, or as a file says it: {"joints": names, "parents": indices},
    perhaps with "parts" (`tree`)."""
    if isinstance(given, Topology):
        return given
    if isinstance(given, str):
        return topology(given)
    if not {"joints", "parents"} <= set(given):
        raise ValueError(
            f"topology: expected joints and parents, found {', '.join(map(str, given)) or 'none'}."
        )
    return tree(given["joints"], given["parents"], given.get("parts"))
