"""Made pictures of textured regions, with the map of what is where: a lattice task without data.

No evidence about the real field. A picture is cut into a few regions around random centres; each is
filled with one of five textures: stripes in four directions, of any period, phase and contrast, or
noise of the same spread. All have the same mean and brightness differs by region at random, so
neither a pixel nor a mean tells the texture.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from multimask.datasets.table import Table
from multimask.tokens import sample_generator

TEXTURES = ("across", "down", "rising", "falling", "noise")
REGIONS = 4


def textured_regions(train: int = 400, test: int = 200, size: int = 32, seed: int = 0) -> Table:
    """Pictures: `image` (1, size, size) float in 0..1, `segmentation` (size, size) classes in the
    order of `TEXTURES`, `split`, `id`. A picture follows from seed and id alone.

    >>> textured_regions(2, 1, size=16)[0]["image"].shape
    torch.Size([1, 16, 16])
    """
    images, maps, splits, ids = [], [], [], []
    for split, count in (("train", train), ("test", test)):
        for number in range(count):
            ids.append(f"{split}/{number:05d}")
            image, classes = textured(size, sample_generator(seed, 0, ids[-1], "textures"))
            images.append(image)
            maps.append(classes.to(torch.uint8))
            splits.append(split)
    return Table.from_arrays(
        modalities=["image"],
        image=torch.stack(images),
        segmentation=torch.stack(maps),
        split=splits,
        id=ids,
    )


def textured(size: int, generator: Generator) -> tuple[Float[Tensor, "1 h w"], Int[Tensor, "h w"]]:
    centres = size * torch.rand(REGIONS, 2, generator=generator)
    axis = torch.arange(size) + 0.5
    places = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)
    region = torch.cdist(places.view(-1, 2), centres).argmin(dim=1).view(size, size)
    kinds = torch.randint(len(TEXTURES), (REGIONS,), generator=generator)
    image = torch.zeros(size, size)
    for index, kind in enumerate(kinds.tolist()):
        image = torch.where(region == index, filled(kind, places, generator), image)
    return (0.5 + image).clamp(0, 1)[None], kinds[region]


def filled(kind: int, places: Float[Tensor, "h w 2"], generator: Generator) -> Float[Tensor, "h w"]:
    """One texture over the whole picture: spread 0.1 before its contrast, around a level."""
    draws = torch.rand(4, generator=generator).tolist()
    noise = torch.randn(places.shape[:2], generator=generator)
    angle = kind * math.pi / 4 + 0.3 * (draws[0] - 0.5)
    period, phase = 3 + 4 * draws[1], 2 * math.pi * draws[2]
    along = places[..., 0] * math.cos(angle) + places[..., 1] * math.sin(angle)
    stripes = math.sqrt(2) * torch.sin(2 * math.pi * along / period + phase)
    made = noise if TEXTURES[kind] == "noise" else stripes + 0.5 * noise
    level = 0.3 * (draws[3] - 0.5)
    return level + 0.1 * made / made.std()
