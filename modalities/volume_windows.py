"""Volumes larger than a model takes: window by window."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from multimask.modalities.volume import VolumePatches, three
from multimask.modality import collate
from multimask.tokens import Batch

Size3 = tuple[int, int, int]


@dataclass(frozen=True)
class Window:
    """A box of a volume, with its place in the body."""

    data: Tensor
    affine: Tensor


@torch.no_grad()
def sliding_windows(
    predict: Callable[[Batch], Float[Tensor, "b classes z y x"]],
    sample: Mapping[str, Any],
    tokenizers: Mapping[str, VolumePatches],
    overlap: float = 0.5,
    at_once: int = 4,
) -> Float[Tensor, "classes z y x"]:
    """What `predict` (a `Segmenter`, say) says of a whole volume, window by window.

    Windows have the tokenizers' size and overlap by this share; where they do, answers are averaged
    with Gaussian weights (standard deviation 1/8 of the window), as by MONAI's inferer. A volume
    that is smaller along an axis is padded there as in training, and the padding is cut off again.

    Args: sample, modality name to volume (records with `data` and `affine`, or arrays), all on one
    grid; what else it holds is left out. Raises: ValueError for volumes of different sizes.
    """
    volumes = {name: parted(sample[name]) for name in tokenizers if sample.get(name) is not None}
    sizes = {tuple(volume.data.shape[1:]) for volume in volumes.values()}
    if len(sizes) != 1:
        raise ValueError(f"sliding_windows: expected volumes on one grid, found sizes {sizes}.")
    size = cast(Size3, sizes.pop())
    window = three(next(iter(tokenizers.values())).size)
    starts = [window_starts(n, w, overlap) for n, w in zip(size, window, strict=True)]
    places = list(product(*starts))
    weights = gaussian_weights(window)
    total, count = torch.zeros(0), torch.zeros(1, *size)
    for first in range(0, len(places), at_once):
        some = places[first : first + at_once]
        samples = [
            {"id": str(i), **{name: box(v, start, window) for name, v in volumes.items()}}
            for i, start in enumerate(some)
        ]
        answers = predict(collate(samples, tokenizers)).float().cpu()
        for answer, start in zip(answers, some, strict=True):
            if not len(total):
                total = torch.zeros(len(answer), *size)
            inside = [min(w, n - s) for w, n, s in zip(window, size, start, strict=True)]
            target = tuple(slice(s, s + n) for s, n in zip(start, inside, strict=True))
            source = tuple(slice(0, n) for n in inside)
            total[(slice(None), *target)] += answer[(slice(None), *source)] * weights[source]
            count[(slice(None), *target)] += weights[source]
    return total / count


def parted(volume: Any) -> Window:
    placed = hasattr(volume, "affine")
    data = torch.as_tensor(volume.data if placed else volume)
    affine = torch.as_tensor(volume.affine) if placed else torch.eye(4)
    return Window(data, affine.double())


def box(volume: Window, start: tuple[int, ...], window: Size3) -> Window:
    z, y, x = (slice(s, s + w) for s, w in zip(start, window, strict=True))
    affine = volume.affine.clone()
    affine[:3, 3] += affine[:3, :3] @ torch.tensor(start[::-1], dtype=affine.dtype)
    return Window(volume.data[:, z, y, x], affine)


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Where windows begin along an axis; the last ends at the border.

    >>> window_starts(10, 4, 0.5), window_starts(3, 4, 0.5)
    ([0, 2, 4, 6], [0])
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"sliding_windows: overlap={overlap} must lie in [0, 1).")
    if size <= window:
        return [0]
    step = max(1, int(window * (1 - overlap)))
    count = math.ceil((size - window) / step) + 1
    return [min(i * step, size - window) for i in range(count)]


def gaussian_weights(window: Size3) -> Float[Tensor, "z y x"]:
    """Highest in the middle; never so small that a corner would count nothing."""
    weights = torch.ones(())
    for side in window:
        places = torch.arange(side) - (side - 1) / 2
        weights = weights[..., None] * torch.exp(-0.5 * (places / (side / 8)) ** 2)
    return weights.clamp(min=max(float(weights.max()) * 1e-3, 1e-3))
