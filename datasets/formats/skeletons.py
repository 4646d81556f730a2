"""The skeleton reader: one motion file to `(bodies, frames, joints, dims)`, NaN where unknown."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Generator, Tensor

from multimask.datasets.formats.asf_amc import probe_amc, read_amc
from multimask.datasets.formats.bvh import probe_bvh, read_bvh
from multimask.datasets.formats.files import AnyPath
from multimask.datasets.formats.keypoints import probe_keypoints, read_keypoints
from multimask.datasets.formats.motion import Motion
from multimask.datasets.formats.motion_arrays import as_motion, probe_array, read_array
from multimask.datasets.formats.ntu_skeleton import probe_ntu, read_ntu
from multimask.datasets.formats.skeleton_facts import suggested
from multimask.datasets.motion import Augment, Centre, Clip, centred, most_active
from multimask.tokens import BadSample

Source = AnyPath | Shaped[np.ndarray, "..."] | Shaped[Tensor, "..."]


@dataclass(frozen=True)
class SkeletonReader:
    """Reads motion as `(bodies, frames, joints, dims)` float32, NaN where a joint is not known.

    By suffix: `.skeleton` (NTU RGB+D), `.json` and folders of them (OpenPose, COCO,
    Kinetics-skeleton, pyskl), `.bvh`, `.amc` (with its `.asf`), `.npy`, `.npz`; arrays are read
    like NPY. Pickles are refused: they may run code. Coordinates stay in the file's unit.

    Args:
        clip: which frames to take; None takes all.
        bodies: take this many, the most active ones; None takes all in order of appearance.
        joints, dims: what every file must have; None takes what comes. The tokenizer checks again.
        centre: put the root at zero in every "frame", in the first frame of the "clip", or "none".
        root: joints whose mean is the root (`Topology.root`).
        augment: random changes; only with a generator.
        least: joints whose confidence is not above this are unknown (JSON).
        axes, confidence, entry: of arrays, see `motion_arrays`.
        skeleton: the ASF file of all AMC files; None looks beside each.
        ends: keep end sites of BVH.
    Raises: BadSample, one sentence, for whatever is wrong with a file.

    >>> reader = SkeletonReader(Clip(4))
    >>> reader.read(np.zeros((9, 25, 3), np.float32)).shape
    torch.Size([1, 4, 25, 3])
    """

    clip: Clip | None = None
    bodies: int | None = 1
    joints: int | None = None
    dims: int | None = None
    centre: Centre = "none"
    root: tuple[int, ...] = (0,)
    augment: Augment | None = None
    least: float = 0.0
    axes: str = "mtvc"
    confidence: bool = False
    entry: str | None = None
    skeleton: str | None = None
    ends: bool = False

    rereads = True
    suffixes = (".skeleton", ".json", ".bvh", ".amc", ".npy", ".npz")
    whole_arrays = True
    suggests = staticmethod(suggested)

    @classmethod
    def fitted(cls, tokenizer: Any, augment: bool) -> "SkeletonReader":
        """The reader that gives a tokenizer its frames, bodies, joints and dims, the root at zero
        in every frame: random crops, turned about the vertical, to train on (`augment`), else the
        middle."""
        turn = 180.0 if tokenizer.dims == 3 else 0.0
        return cls(
            Clip(tokenizer.frames),
            tokenizer.bodies,
            len(tokenizer.topology),
            tokenizer.dims,
            "frame",
            tokenizer.topology.root,
            Augment(turn=turn, up="z" if tokenizer.up == "z" else "y") if augment else None,
        )

    def __post_init__(self) -> None:
        if sorted(self.axes) not in (sorted("mtvc"), sorted("tvc")):
            raise ValueError(
                f"SkeletonReader: axes={self.axes!r} must name m (bodies), t (frames), v (joints) "
                "and c (coordinates) once each; m may be left out."
            )
        if self.centre not in ("none", "clip", "frame") or not self.root:
            raise ValueError(
                f"SkeletonReader: centre={self.centre!r} must be 'none', 'clip' or 'frame', and "
                "root name a joint."
            )
        if self.bodies is not None and self.bodies < 1:
            raise ValueError(f"SkeletonReader: bodies={self.bodies} must be at least 1, or None.")

    def probe(self, source: Source) -> dict[str, Any]:
        """Frames, joints, dims, rate and format, from the header where there is one."""
        if isinstance(source, np.ndarray | Tensor):
            data = self.motion(source).data
            return dict(zip(("bodies", "frames", "joints", "dims"), data.shape, strict=True))
        found = {
            ".skeleton": lambda: probe_ntu(source),
            ".json": lambda: probe_keypoints(source),
            ".bvh": lambda: probe_bvh(source),
            ".amc": lambda: probe_amc(source, self.skeleton),
            ".npy": lambda: probe_array(source, self.axes, self.confidence, self.entry),
            ".npz": lambda: probe_array(source, self.axes, self.confidence, self.entry),
        }[self.suffix_of(source)]()
        self.check_sizes(source, found["joints"], found["dims"])
        return found

    def read(self, source: Source, generator: Generator | None = None) -> Float[Tensor, "m t v c"]:
        """One clip; crop and augmentation draw from the generator."""
        data = self.motion(source).data
        name = "array" if isinstance(source, np.ndarray | Tensor) else source
        self.check_sizes(name, *data.shape[2:])
        if self.bodies is not None and len(data) > 1:
            data = most_active(data, self.bodies)
        if self.clip is not None:
            data = data[:, self.clip(data.shape[1], generator)]
        data = centred(data, self.root, self.centre, name)
        if self.augment is not None:
            data = self.augment(data, generator)
        return torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))

    def motion(self, source: Source) -> Motion:
        """All that a file holds, before anything is cut; with names and parents for BVH and AMC."""
        if isinstance(source, np.ndarray | Tensor):
            return as_motion(np.asarray(source), self.axes, self.confidence)
        suffix = self.suffix_of(source)
        if suffix == ".skeleton":
            return read_ntu(source)
        if suffix == ".json":
            return read_keypoints(source, self.least)
        if suffix == ".bvh":
            return read_bvh(source, self.ends)
        if suffix == ".amc":
            return read_amc(source, self.skeleton)
        return read_array(source, self.axes, self.confidence, self.entry)

    def suffix_of(self, source: AnyPath) -> str:
        suffix = os.path.splitext(os.fspath(source))[1].lower()
        if os.path.isdir(source) and suffix not in self.suffixes:
            return ".json"
        if suffix in (".pkl", ".pickle"):
            raise BadSample(
                f"{source}: expected a motion file, found a pickle; pickles may run code, convert "
                "it to JSON or NPZ once, where you trust it."
            )
        if suffix not in self.suffixes:
            raise BadSample(
                f"{source}: expected a file ending in {', '.join(self.suffixes)}, found "
                f"{suffix or 'no suffix'}."
            )
        return suffix

    def check_sizes(self, name: AnyPath, joints: int, dims: int) -> None:
        for what, wanted, found in (("joints", self.joints, joints), ("dims", self.dims, dims)):
            if wanted is not None and found != wanted:
                raise BadSample(f"{name}: expected {wanted} {what}, found {found}.")
