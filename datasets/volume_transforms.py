"""What is done to a volume between file and model: `transform(volume, generator)`.

Each keeps the geometry true: the affine of what comes out says where its voxels lie. Without a
generator all are deterministic. With equal generators registered volumes (contrasts, a label map)
are cropped and flipped alike, as long as their transforms that draw are the same.
"""

import math
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Generator

from multimask.datasets.volume_grids import cut, flipped, resampled, turned
from multimask.datasets.volumes import Volume, triple
from multimask.tokens import BadSample


@runtime_checkable
class VolumeTransform(Protocol):
    """`only_views` says that no voxel is looked at: mapped files then stay on disk."""

    @property
    def only_views(self) -> bool: ...
    def __call__(self, volume: Volume, generator: Generator | None = None) -> Volume: ...


@dataclass(frozen=True)
class Orient:
    """Turn to a stated frame: x, y, z of the array then run (nearly) along these directions.

    RAS: right, anterior, superior. Axes are exchanged and flipped, nothing is interpolated: an
    oblique scan stays oblique.
    """

    codes: str = "RAS"

    only_views = True

    def __post_init__(self) -> None:
        pairs = ("RL", "AP", "SI")
        found = sorted(i for code in self.codes for i, pair in enumerate(pairs) if code in pair)
        if found != [0, 1, 2] or len(self.codes) != 3:
            raise ValueError(
                f"Orient: codes={self.codes!r} must hold one of R/L, one of A/P and one of S/I."
            )

    def __call__(self, volume: Volume, generator: Generator | None = None) -> Volume:
        return turned(volume, self.codes)


@dataclass(frozen=True)
class Resample:
    """To exactly this voxel size: one number of mm or (z, y, x). Linear without aliasing; label
    numbers take the nearest voxel. The centre stays where it is."""

    spacing: float | int | tuple[float | int, float | int, float | int] = 1.0
    max_voxels: int = 2**27

    only_views = False

    def __post_init__(self) -> None:
        triple(self.spacing, "Resample: spacing")

    def __call__(self, volume: Volume, generator: Generator | None = None) -> Volume:
        spacing = triple(self.spacing, "Resample: spacing")
        sides = zip(volume.size, volume.spacing, spacing, strict=True)
        voxels = math.prod(max(1.0, n * old / new) for n, old, new in sides)
        if not voxels <= self.max_voxels:
            raise BadSample(
                f"Resample: {volume.size} voxels of {rounded(volume.spacing)} mm would become "
                f"{voxels:,.0f} of {spacing} mm, expected at most {self.max_voxels:,}."
            )
        return resampled(volume, spacing)


@dataclass(frozen=True)
class CropForeground:
    """To the box of all voxels above a number (in any channel), with a margin in voxels.

    The box depends on content: registered contrasts and label maps would get different boxes.
    """

    above: float | int = 0.0
    margin: int = 0

    only_views = False

    def __call__(self, volume: Volume, generator: Generator | None = None) -> Volume:
        refuse_labels(self, volume)
        inside = (volume.data > self.above).any(axis=0)
        if not inside.any():
            raise BadSample(
                f"CropForeground: expected voxels above {self.above}, the largest found is "
                f"{float(volume.data.max()):g}."
            )
        box = []
        for axis, size in enumerate(inside.shape):
            others = tuple(other for other in range(3) if other != axis)
            hits = np.flatnonzero(inside.any(axis=others))
            first, last = int(hits[0]) - self.margin, int(hits[-1]) + self.margin
            box.append(slice(max(0, first), min(size, last + 1)))
        return cut(volume, (box[0], box[1], box[2]))


@dataclass(frozen=True)
class ZScore:
    """Zero mean and unit spread, every channel for itself, over its non-zero voxels.

    Zeros (outside a skull-stripped brain) stay zero, as in MONAI's `NormalizeIntensity`. With
    `nonzero=False` over all voxels. Raises: BadSample for a constant volume, which has no spread.
    """

    nonzero: bool = True

    only_views = False

    def __call__(self, volume: Volume, generator: Generator | None = None) -> Volume:
        refuse_labels(self, volume)
        data = np.array(volume.data, np.float32)
        scale, shift = [], []
        for index, channel in enumerate(data):
            counted = channel != 0 if self.nonzero else np.ones_like(channel, bool)
            values = channel[counted].astype(np.float64)
            spread = float(values.std()) if len(values) else 0.0
            if spread <= 1e-12 * max(1.0, float(np.abs(channel).max())):
                found = f"{values[0]:g}" if len(values) else "zero"
                which = "non-zero voxels" if self.nonzero and len(values) else "voxels"
                raise BadSample(
                    f"ZScore: channel {index}: expected voxels that differ, found all {which} "
                    f"equal to {found}."
                )
            mean = float(values.mean())
            channel[counted] = (channel[counted] - mean) / spread
            scale.append(spread)
            shift.append(mean)
        return rescaled(replace(volume, data=data), scale, shift)


@dataclass(frozen=True)
class Window:
    """Clip to [low, high] and bring that range to 0..1: a CT window, in Hounsfield units.

    Soft tissue -160..240, lung -1000..400, bone -500..1300. What was clipped does not come back.
    """

    low: float | int = -160
    high: float | int = 240

    only_views = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"Window: low={self.low} must be below high={self.high}.")

    def __call__(self, volume: Volume, generator: Generator | None = None) -> Volume:
        refuse_labels(self, volume)
        low, width = float(self.low), float(self.high - self.low)
        data = (np.clip(volume.data, self.low, self.high) - self.low) / np.float32(width)
        count = len(data)
        return rescaled(replace(volume, data=data), [width] * count, [low] * count)


@dataclass(frozen=True)
class SliceMinMax:
    """Every slice (z) for itself to 0..high by its own smallest and largest number, as 2-D work on
    CT slices does (Wolf et al., Scientific Reports 2023: 8-bit PNG, -2000 taken for 0 before).

    Hounsfield units are lost: the same tissue differs from slice to slice, and what is written
    back is 0..high. For parity with such work; else `Window`. A constant slice becomes zeros.
    """

    high: float | int = 255
    outside: float | int | None = -2000  # what scanners write outside their circle, taken for 0

    only_views = False

    def __call__(self, volume: Volume, generator: Generator | None = None) -> Volume:
        refuse_labels(self, volume)
        data = np.array(volume.data, np.float32)
        if self.outside is not None:
            data[data == self.outside] = 0
        low = data.min(axis=(2, 3), keepdims=True)
        width = data.max(axis=(2, 3), keepdims=True) - low
        data = (data - low) * (self.high / np.where(width > 0, width, 1))
        return replace(volume, data=data.astype(np.float32))


@dataclass(frozen=True)
class Crop:
    """A box of this size (voxels, one number or z y x): drawn uniformly, or the centre.

    A volume that is smaller along an axis is taken whole there; the tokenizer pads it, and the
    padding does not exist.
    """

    size: int | tuple[int, int, int]
    random: bool = True

    only_views = True

    def __post_init__(self) -> None:
        triple(self.size, "Crop: size")

    def __call__(self, volume: Volume, generator: Generator | None = None) -> Volume:
        share = torch.full((3,), 0.5)
        if self.random and generator is not None:
            share = torch.rand(3, generator=generator)
        box = []
        wanted = (self.size,) * 3 if isinstance(self.size, int) else self.size
        for place, size, want in zip(share.tolist(), volume.size, wanted, strict=True):
            room = max(0, size - want)
            start = min(int(place * (room + 1)), room)
            box.append(slice(start, min(size, start + want)))
        return cut(volume, (box[0], box[1], box[2]))


@dataclass(frozen=True)
class Flip:
    """Each axis (z, y, x) flipped with this chance. Never without a generator."""

    chance: float | int | tuple[float | int, float | int, float | int] = 0.5

    only_views = True

    def __post_init__(self) -> None:
        chances = (self.chance,) * 3 if isinstance(self.chance, int | float) else self.chance
        if len(chances) != 3 or not all(0 <= chance <= 1 for chance in chances):
            raise ValueError(f"Flip: chance={self.chance} must be one number in 0..1 or three.")

    def __call__(self, volume: Volume, generator: Generator | None = None) -> Volume:
        if generator is None:
            return volume
        chances = (self.chance,) * 3 if isinstance(self.chance, int | float) else self.chance
        draws = torch.rand(3, generator=generator).tolist()
        z, y, x = (draw < chance for draw, chance in zip(draws, chances, strict=True))
        return flipped(volume, (z, y, x))


@dataclass(frozen=True)
class ScaleShift:
    """Random brightness for z-scored volumes: `data * (1 + s) + t`, s and t uniform within +-
    these (BM-MAE: 0.1 and 0.1). Nothing without a generator."""

    scale: float = 0.1
    shift: float = 0.1

    only_views = False

    def __call__(self, volume: Volume, generator: Generator | None = None) -> Volume:
        refuse_labels(self, volume)
        if generator is None:
            return volume
        s, t = (2 * torch.rand(2, generator=generator, dtype=torch.float64) - 1).tolist()
        factor, offset = 1 + s * self.scale, t * self.shift
        count = len(volume.data)
        data = volume.data * np.float32(factor) + np.float32(offset)
        return rescaled(
            replace(volume, data=data), [1 / factor] * count, [-offset / factor] * count
        )


def rescaled(volume: Volume, scale: list[float], shift: list[float]) -> Volume:
    """Note that `old = new * scale + shift`, on top of what was done before."""
    both = zip(scale, shift, volume.scale, volume.shift, strict=True)
    made = [(a * was_a, b * was_a + was_b) for a, b, was_a, was_b in both]
    return replace(volume, scale=tuple(a for a, _ in made), shift=tuple(b for _, b in made))


def refuse_labels(transform: object, volume: Volume) -> None:
    if volume.discrete:
        raise ValueError(
            f"{type(transform).__name__} changes numbers or depends on them and cannot be used on "
            "label maps; give their reader only Orient, Resample, Crop and Flip."
        )


def rounded(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values)


def steps(
    size: int | tuple[int, int, int] | None,
    spacing: float | int | tuple[float | int, float | int, float | int] | None = None,
    intensity: str | tuple[float | int, float | int] = "zscore",
    *,
    labels: bool = False,
    augment: bool = False,
    flip: float = 0.5,
) -> tuple[VolumeTransform, ...]:
    """The usual way from a file to a box: RAS, spacing, numbers, then a box of `size` (None: the
    whole), its middle or (`augment`) anywhere, left and right exchanged with the chance `flip`,
    z-scores varied.

    Numbers are brought to scale over the whole volume, so a box does not depend on what else is
    in it. A volume and its label map (`labels`) draw the same box.
    """
    made: list[VolumeTransform] = [Orient("RAS")]
    if spacing is not None:
        made.append(Resample(spacing))
    if not labels and intensity != "given":
        made.append(ZScore() if isinstance(intensity, str) else Window(*intensity))
    if size is not None:
        made.append(Crop(size, random=augment))
    if augment:
        made.append(Flip((0.0, 0.0, flip)))
    if augment and not labels and intensity == "zscore":
        made.append(ScaleShift())
    return tuple(made)
