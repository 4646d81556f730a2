"""Which part of a picture a sample shows: crops, planned before the file is decoded.

A transform is called with the picture's size and answers with a `Crop`; the reader decodes with it
in hand, so a large JPEG need not be decoded at full size for a small crop.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Num
from torch import Generator, Tensor
from torch.nn import functional as F

from multimask.tokens import BadSample

Interpolation = Literal["bicubic", "bilinear"]
Size = int | tuple[int, int]

TRIES = 10  # of RandomResizedCrop, before it takes the centre; torchvision's number
PLACES = [(y, x) for y in (0, 2, 4) for x in (0, 2, 4)] + [(y, x) for y in (1, 3) for x in (1, 3)]
"""Where boxes may stand, in quarters of the room there is, down and right."""
SPARE = 2  # a picture decoded smaller keeps at least this many times the pixels asked for


@dataclass(frozen=True)
class Crop:
    """A box of a picture (pixels), the size it is resized to (height, width), and mirroring.

    `cut` takes the picture itself. Resizing is antialiased; 8-bit pixels are rounded and limited
    to 0..255, floats stay within the range of their box.

    >>> Crop(top=1, left=0, height=2, width=2, size=(2, 2)).cut(torch.arange(9).view(1, 3, 3))
    tensor([[[3, 4],
             [6, 7]]])
    """

    top: int
    left: int
    height: int
    width: int
    size: tuple[int, int]
    flip: bool = False
    interpolation: Interpolation = "bicubic"

    @property
    def shrink(self) -> int:
        """How many times smaller (1, 2, 4 or 8) the picture may be decoded for this crop."""
        spare = min(self.height / self.size[0], self.width / self.size[1]) / SPARE
        return next((factor for factor in (8, 4, 2) if factor <= spare), 1)

    def cut(self, pixels: Num[Tensor, "c h w"], shrunk: int = 1) -> Num[Tensor, "c tall wide"]:
        """The crop of a picture that was decoded `shrunk` times smaller, to whole pixels of it."""
        rows, columns = (
            slice(round(start / shrunk), round((start + length) / shrunk))
            for start, length in ((self.top, self.height), (self.left, self.width))
        )
        box = pixels[:, rows, columns]
        if box.shape[1:] != self.size:
            resized = F.interpolate(
                box[None], self.size, mode=self.interpolation, antialias=True, align_corners=False
            )[0]
            box = resized if pixels.dtype == torch.uint8 else resized.clamp(box.min(), box.max())
        return box.flip(2) if self.flip else box


@runtime_checkable
class Transform(Protocol):
    """Plans the crop of a picture of this size. Without a generator the plan is deterministic."""

    def __call__(self, height: int, width: int, generator: Generator | None = None) -> Crop: ...


@dataclass(frozen=True)
class ResizeCrop:
    """The largest centred box of the wanted shape, resized. For evaluation; never random.

    Args: size, one side of a square or (height, width); share, of the largest box's sides: 0.875
        is the usual "resize to 256, centre crop 224".

    >>> ResizeCrop(4)(height=8, width=12)
    Crop(top=0, left=2, height=8, width=8, size=(4, 4), flip=False, interpolation='bicubic')
    """

    size: Size
    share: float = 1.0
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        _check_size(self)
        if not 0 < self.share <= 1:
            raise ValueError(f"ResizeCrop: share={self.share} must be above 0 and at most 1.")

    def __call__(self, height: int, width: int, generator: Generator | None = None) -> Crop:
        tall, wide = pair(self.size)
        scale = min(height / tall, width / wide) * self.share
        box = _centred(height, width, round(scale * tall), round(scale * wide))
        return Crop(*box, pair(self.size), False, self.interpolation)


@dataclass(frozen=True)
class WindowCrop:
    """A window at the file's own resolution, random with a generator, else the middle. It is how
    `SpectralReader(size=...)` cuts bands; maps that lie beside these get the same window from an
    equal generator.

    Raises: BadSample for a picture that is smaller.

    >>> WindowCrop(4)(height=9, width=12)
    Crop(top=2, left=4, height=4, width=4, size=(4, 4), flip=False, interpolation='bicubic')
    """

    size: Size

    def __call__(self, height: int, width: int, generator: Generator | None = None) -> Crop:
        tall, wide = pair(self.size)
        if height < tall or width < wide:
            raise BadSample(f"expected at least {tall} x {wide} pixels, found {height} x {width}.")
        down, right = (height - tall) // 2, (width - wide) // 2
        if generator is not None:
            draws = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
            down, right = int(draws[0] * (height - tall + 1)), int(draws[1] * (width - wide + 1))
        return Crop(down, right, tall, wide, (tall, wide))


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random box, resized, perhaps mirrored: the augmentation of MAE (He et al., CVPR 2022).

    The box's area is a uniform share of the picture, its width / height log-uniform, its place
    uniform; after ten boxes that do not fit, the largest centred box of an allowed shape. Without
    a generator: `ResizeCrop(size)`. Pictures drawn from equal generators get the same relative
    box, so registered pictures of different resolution stay together.

    Args: size, one side of a square or (height, width); scale, smallest and largest share of the
        picture's area; ratio, smallest and largest width / height; flip, chance of mirroring.
    """

    size: Size
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        _check_size(self)
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(
                    f"RandomResizedCrop: {name}={(low, high)} must be (smallest, largest), "
                    "both above 0."
                )
        if self.scale[1] > 1 or not 0 <= self.flip <= 1:
            raise ValueError(
                f"RandomResizedCrop: scale={self.scale} and flip={self.flip} must be at most 1."
            )

    def __call__(self, height: int, width: int, generator: Generator | None = None) -> Crop:
        if generator is None:
            return ResizeCrop(self.size, interpolation=self.interpolation)(height, width)
        coin, *draws = torch.rand(1 + 4 * TRIES, generator=generator).tolist()
        flip = coin < self.flip
        for tall, wide, down, right in self._boxes(height * width, draws):
            if 0 < tall <= height and 0 < wide <= width:
                top, left = int(down * (height - tall + 1)), int(right * (width - wide + 1))
                return Crop(top, left, tall, wide, pair(self.size), flip, self.interpolation)
        tall = min(height, round(width / self.ratio[0]))
        wide = min(width, round(height * self.ratio[1]))
        box = _centred(height, width, tall, wide)
        return Crop(*box, pair(self.size), flip, self.interpolation)

    def _boxes(self, area: int, draws: list[float]) -> Iterator[tuple[int, int, float, float]]:
        """(height, width, place down, place right) of the boxes to try, places in 0..1."""
        for share, shape, down, right in zip(*[iter(draws)] * 4, strict=True):
            box_area = area * (self.scale[0] + share * (self.scale[1] - self.scale[0]))
            low, high = map(math.log, self.ratio)
            aspect = math.exp(low + shape * (high - low))
            yield (
                round(math.sqrt(box_area / aspect)),
                round(math.sqrt(box_area * aspect)),
                down,
                right,
            )


@dataclass(frozen=True)
class MultiScaleCrop:
    """One of a few boxes at one of thirteen places, resized: VideoMAE's crop (Tong et al., NeurIPS
    2022; corner cropping and scale jittering of TSN, Wang et al., ECCV 2016).

    Height and width are each a share of the picture's shorter side, at most one step of `scales`
    apart; corners, edge middles, quarter points and the centre are equally likely. Without a
    generator: the largest box of the wanted shape, centred.

    Args: size, one side of a square or (height, width); scales, shares from large to small; flip,
        chance of mirroring, none by default: it would turn left into right.
    """

    size: Size
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    flip: float = 0.0
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        _check_size(self)
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(
                f"MultiScaleCrop: scales={self.scales} must be shares above 0 and at most 1."
            )
        if not 0 <= self.flip <= 1:
            raise ValueError(f"MultiScaleCrop: flip={self.flip} must lie in [0, 1].")

    def __call__(self, height: int, width: int, generator: Generator | None = None) -> Crop:
        if generator is None:
            whole = ResizeCrop(self.size, max(self.scales), self.interpolation)
            return whole(height, width)
        steps = range(len(self.scales))
        pairs = [(one, two) for one in steps for two in steps if abs(one - two) <= 1]
        coin, which, where = torch.rand(3, generator=generator).tolist()
        scales = [self.scales[step] for step in pairs[int(which * len(pairs))]]
        tall, wide = (max(1, int(scale * min(height, width))) for scale in scales)
        down, right = PLACES[int(where * len(PLACES))]
        top, left = (height - tall) // 4 * down, (width - wide) // 4 * right
        size = pair(self.size)
        return Crop(top, left, tall, wide, size, coin < self.flip, self.interpolation)


def pair(size: Size) -> tuple[int, int]:
    """(height, width) of a size that may be one side of a square."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _centred(height: int, width: int, tall: int, wide: int) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a box, at least a pixel, that lies within the picture."""
    rows, columns = max(1, min(height, tall)), max(1, min(width, wide))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def _check_size(transform: ResizeCrop | RandomResizedCrop | MultiScaleCrop) -> None:
    if min(pair(transform.size)) < 1:
        raise ValueError(
            f"{type(transform).__name__}: size={transform.size} must be at least 1 pixel a side."
        )
    if transform.interpolation not in ("bicubic", "bilinear"):
        raise ValueError(
            f"{type(transform).__name__}: interpolation={transform.interpolation!r} must be "
            "'bicubic' or 'bilinear'."
        )
