"""Transforms of motion `(bodies, frames, joints, dims)`: cut or resample in time, centre, augment.

NaN is a joint that is not known. Random ones draw from the sample's generator only; without one
they are the deterministic reading (the middle of a clip, no augmentation).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Generator

from multimask.tokens import BadSample

Data = Float[np.ndarray, "m t v c"]
Centre = Literal["none", "clip", "frame"]


@dataclass(frozen=True)
class Clip:
    """Which frames to take.

    how="crop": `frames` in a row, the tempo stays; a shorter clip is taken whole. "resample":
    `frames` spread over the whole clip, one from each of as many equal stretches (PoseConv3D's
    uniform sampling, Duan et al. 2022), a shorter clip repeats frames: the tempo is lost.
    """

    frames: int = 64
    how: Literal["crop", "resample"] = "crop"

    def __post_init__(self) -> None:
        if self.frames < 1 or self.how not in ("crop", "resample"):
            raise ValueError(
                f"Clip: frames={self.frames} must be at least 1 and how={self.how!r} 'crop' or "
                "'resample'."
            )

    def __call__(self, count: int, generator: Generator | None = None) -> Int[np.ndarray, " t"]:
        """Indices of the frames to take out of `count`, ascending."""
        if self.how == "crop":
            spare = max(0, count - self.frames)
            start = spare // 2
            if generator is not None:
                start = int(torch.randint(spare + 1, (), generator=generator))
            return np.arange(start, start + min(count, self.frames))
        edges = np.linspace(0, count, self.frames + 1)
        share = np.full(self.frames, 0.5)
        if generator is not None:
            share = torch.rand(self.frames, generator=generator, dtype=torch.float64).numpy()
        return np.minimum((edges[:-1] + share * np.diff(edges)).astype(int), count - 1)


def centred(data: Data, root: tuple[int, ...], how: Centre, name: object = "clip") -> Data:
    """Put the first body's root (mean of its joints) at zero, in each frame or where it is first
    known; all bodies move alike. Between frames where the root is known it is interpolated.

    Raises: BadSample where the root is known in no frame.
    """
    if how == "none":
        return data
    if max(root) >= data.shape[2]:
        raise BadSample(
            f"{name}: expected joint {max(root)}, the root, found {data.shape[2]} joints."
        )
    path = data[0][:, list(root)].astype(np.float64).mean(axis=1)
    known = np.isfinite(path).all(axis=1)
    if not known.any():
        raise BadSample(
            f"{name}: expected the root (joint {', '.join(map(str, root))}) in at least one frame, "
            "found it in none; name another root, or do not centre."
        )
    if how == "clip":
        origin = path[np.argmax(known)][None]
    else:
        frames = np.arange(len(path))
        origin = np.stack([np.interp(frames, frames[known], axis[known]) for axis in path.T], 1)
    return (data - origin[None, :, None]).astype(data.dtype)


@dataclass(frozen=True)
class Augment:
    """Random changes of a whole clip, centre it first: it turns and mirrors about zero.

    turn: up to this many degrees to either side, about the `up` axis (in the plane where there are
    two coordinates). stretch: factor of size, between these. noise: of every coordinate, standard
    deviation in the file's unit. mirror: each joint's counterpart (`Topology.mirror`); half of the
    clips are then mirrored: left and right change places. drop: chance that a joint is lost in a
    frame (it becomes NaN).
    """

    turn: float = 0.0
    stretch: tuple[float, float] = (1.0, 1.0)
    noise: float = 0.0
    mirror: tuple[int, ...] = ()
    drop: float = 0.0
    up: Literal["y", "z"] = "y"

    def __call__(self, data: Data, generator: Generator | None = None) -> Data:
        if generator is None:
            return data
        draw = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        low, high = self.stretch
        turned = data @ self.matrix((2 * draw[0] - 1) * self.turn, data.shape[-1]).T
        data = (turned * (low + (high - low) * draw[1])).astype(data.dtype)
        if self.mirror and draw[2] < 0.5:
            data = data[:, :, list(self.mirror)]
            data[..., 0] = -data[..., 0]
        if self.noise > 0:
            data = data + self.noise * torch.randn(data.shape, generator=generator).numpy()
        if self.drop > 0:
            lost = torch.rand(data.shape[:3], generator=generator).numpy() < self.drop
            data = np.where(lost[..., None], np.float32("nan"), data)
        return data

    def matrix(self, degrees: float, dims: int) -> Float[np.ndarray, "c c"]:
        sin, cos = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
        matrix = np.eye(dims)
        a, b = (0, 2) if dims == 3 and self.up == "y" else (0, 1)
        matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = cos, -sin, sin, cos
        return matrix


def most_active(data: Data, bodies: int) -> Float[np.ndarray, "k t v c"]:
    """The bodies that move most (sum over joints of the spread in time), most active first, as is
    usual with NTU RGB+D, whose files hold furniture taken for people. Bodies never seen go last;
    equals keep the file's order."""
    with np.errstate(invalid="ignore"):
        known = np.isfinite(data.sum(axis=-1, keepdims=True))  # of a joint with any NaN none
        count = known.sum(axis=1, keepdims=True).clip(min=1)
        filled = np.where(known, data, 0)
        mean = filled.sum(axis=1, keepdims=True) / count
        spread = np.sqrt((np.where(known, data - mean, 0) ** 2).sum(axis=1) / count[:, 0])
    score = np.where(known.reshape(len(known), -1).any(axis=1), spread.sum(axis=(1, 2)), -1)
    return data[np.argsort(-score, kind="stable")[:bodies]]
