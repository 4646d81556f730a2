"""Two samples made one: averaged, or a box of one pasted into the other."""

import torch
from jaxtyping import Num
from torch import Generator, Tensor

Pixels = Num[Tensor, "..."]  # its last two axes are height and width; sizes are checked here


def blended(first: Pixels, second: Pixels, share: float) -> Pixels:
    """`share` of the first (mixup, Zhang et al. 2018); 0..1 floats also from bytes."""
    first, second = alike(first, second, as_float=True)
    return torch.lerp(second, first, share)


def pasted(
    first: Pixels, second: Pixels, share: float, generator: Generator
) -> tuple[Pixels, float]:
    """The first with a box of the second over its last two axes, and the share of the first that is
    left. The box has `1 - share` of the area before it is cut at the border (CutMix, Yun et al.
    2019); its place is relative, so registered pictures of other sizes get the same."""
    first, second = alike(first, second, as_float=False)
    slices = []
    for extent in first.shape[-2:]:
        centre = float(torch.rand((), generator=generator)) * extent
        half = 0.5 * (1 - share) ** 0.5 * extent
        slices.append(slice(round(max(0.0, centre - half)), round(min(extent, centre + half))))
    made = first.clone()
    made[..., slices[0], slices[1]] = second[..., slices[0], slices[1]]
    area = (slices[0].stop - slices[0].start) * (slices[1].stop - slices[1].start)
    return made, 1 - area / (first.shape[-2] * first.shape[-1])


def alike(first: Pixels, second: Pixels, as_float: bool) -> tuple[Pixels, Pixels]:
    if first.shape != second.shape:
        raise ValueError(
            f"mixing: {tuple(first.shape)} and {tuple(second.shape)} cannot be mixed; crop or "
            "resize to one size when reading, or say mixup=0 and cutmix=0."
        )
    if as_float or first.dtype != second.dtype:
        first, second = (
            x.float() / 255 if x.dtype == torch.uint8 else x.float() for x in (first, second)
        )
    return first, second
