"""Real photographs taken apart into aligned maps, of which each can be answered from the others.

No evidence about the real field; good for seeing one map become another. The two photographs that
scikit-learn brings (CC BY) are cut into upright stripes, every third of which is for testing: no
pixel is in both parts.
"""

import os
from pathlib import Path, PurePath

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from multimask.datasets.cache import cache_folder
from multimask.datasets.transforms import RandomResizedCrop
from multimask.tokens import sample_generator

STRIPE = 80  # pixels across a stripe of a photograph, of which there are eight
TESTED = 1  # the stripes 1, 4 and 7 are for testing
SIDES = (0.4, 0.9)  # of a crop, in widths of a stripe
BANDS = 4  # labels down a photograph
MATERIALS = 6
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


def photograph_layers(size: int = 32, train: int = 800, test: int = 400) -> Path:
    """Crops of photographs in aligned maps, as a NPZ in the user's cache that `Table.open` reads.

    `grey` (1, size, size) and `colour` (3, size, size; without brightness), both uint8, `edges`
    (size, size), the steepness of grey per pixel as log2(1 + steepness), `materials` (size, size),
    six clusters of colours, and `label`: which quarter, counted from above, of which photograph.
    Where a crop lies follows from its id.

    Args: size, side of a crop in pixels (of 32 to 72 in the photograph); train, test, numbers of
        crops.
    """
    folder = cache_folder("photograph-layers", size=size, train=train, test=test, version=1)
    file = folder / "layers.npz"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{os.getpid()}.npz"
        np.savez(partial, **made_layers(size, train, test))  # pyright: ignore[reportArgumentType]
        partial.replace(file)
    return file


def made_layers(size: int, train: int, test: int) -> dict[str, np.ndarray]:
    from sklearn.datasets import load_sample_images  # slow to import

    loaded = load_sample_images()
    names = [PurePath(name).stem for name in loaded.filenames]
    photographs = [
        rearrange(torch.from_numpy(picture.copy()), "h w c -> c h w") for picture in loaded.images
    ]
    least, most = ((side * STRIPE) ** 2 / (STRIPE * photographs[0].shape[1]) for side in SIDES)
    crop = RandomResizedCrop(size, scale=(least, most), ratio=(1.0, 1.0), flip=0.0)
    pictures, labels, splits, ids = [], [], [], []
    for split, count in (("train", train), ("test", test)):
        for number in range(count):
            which = number % len(names)
            ids.append(f"{names[which]}/{split}/{number:04d}")
            generator = sample_generator(0, 0, ids[-1], "photograph-layers")
            stripes = photographs[which].split(STRIPE, dim=2)
            places = [n for n in range(len(stripes)) if (n % 3 == TESTED) == (split == "test")]
            stripe = stripes[places[int(torch.randint(len(places), (), generator=generator))]]
            box = crop(stripe.shape[1], stripe.shape[2], generator)
            pictures.append(box.cut(stripe))
            band = int(BANDS * (box.top + box.height / 2) / stripe.shape[1])
            labels.append(f"{names[which]} {band + 1}")
            splits.append(split)
    whole = torch.stack(pictures)
    layers = taken_apart(whole, centres_of(whole[:train]))
    arrays = {name: values.numpy() for name, values in layers.items()}
    texts = {"label": labels, "split": splits, "id": ids}
    return arrays | {name: np.array(entries) for name, entries in texts.items()}


def taken_apart(
    pictures: UInt8[Tensor, "n 3 h w"], centres: Float[Tensor, "k 3"]
) -> dict[str, Tensor]:
    """The maps of pictures of red, green and blue."""
    rgb = pictures.float()
    grey = torch.einsum("nchw,c->nhw", rgb, torch.tensor(LUMA))[:, None]
    across = torch.tensor(SOBEL)[None, None] / 8
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    slopes = [F.conv2d(padded, kernel) for kernel in (across, across.mT)]
    steepness = torch.stack(slopes).square().sum(dim=0).sqrt()[:, 0]
    colours = rearrange(rgb, "n c h w -> (n h w) c")
    nearest = torch.cdist(colours, centres).argmin(dim=1).to(torch.uint8)
    return {
        "grey": grey.round().to(torch.uint8),
        "colour": (rgb - grey + 128).round().clamp(0, 255).to(torch.uint8),
        "edges": torch.log2(1 + steepness),
        "materials": nearest.view(len(rgb), *rgb.shape[2:]),
    }


def centres_of(pictures: UInt8[Tensor, "n 3 h w"], rounds: int = 10) -> Float[Tensor, "k 3"]:
    """k-means of colours, begun at the quantiles of brightness so that nothing is drawn."""
    colours = rearrange(pictures.float(), "n c h w -> (n h w) c")[::101]
    order = colours.sum(dim=1).argsort()
    places = (torch.arange(MATERIALS) + 0.5) / MATERIALS * len(colours)
    centres = colours[order[places.long()]]
    for _ in range(rounds):
        members: Int[Tensor, "n k"] = F.one_hot(
            torch.cdist(colours, centres).argmin(dim=1), MATERIALS
        )
        centres = members.float().T @ colours / members.sum(dim=0).clamp(min=1)[:, None]
    return centres
