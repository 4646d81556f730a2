"""Real pictures that come inside our dependencies: nothing is downloaded."""

from pathlib import PurePath

import numpy as np
import torch
from einops import rearrange

from multimask.datasets.table import Table
from multimask.datasets.transforms import RandomResizedCrop
from multimask.tokens import sample_generator

NUM_TRAIN_DIGITS = 1347  # three quarters
LEFT = 0.6  # share of a photograph's width that train crops come from


def digits() -> Table:
    """1,797 handwritten digits of scikit-learn: `image` (1, 8, 8) uint8, `label` 0-9, `split`.

    Grey levels 0..16 are stored as round(level * 255 / 16). The last quarter (450) is the test
    part, not a shuffled one: neighbours in the set are often by the same writer.
    """
    from sklearn.datasets import load_digits  # slow to import

    levels, labels = load_digits(return_X_y=True)
    pictures = np.round(levels * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    numbers = range(len(pictures))
    return Table.from_arrays(
        image=pictures,
        label=labels,
        split=["train" if number < NUM_TRAIN_DIGITS else "test" for number in numbers],
        id=[f"digits/{number:04d}" for number in numbers],
    )


def photographs(size: int = 64, train: int = 800, test: int = 200) -> Table:
    """Square crops of scikit-learn's two photographs: `image` (3, size, size) uint8, `split`.

    `label` is the photograph, "china" or "flower" (CC BY), in turn. Train crops come from the left
    60 %, test crops from the right 40 %: no pixel is in both. Where a crop lies follows from its
    id. Mean colour alone tells the labels apart, so this is good for looking at reconstructions
    and no evidence about representations.

    Args: size, side of a crop in pixels (of about 50 to 200 in the photograph); train, test,
        numbers of crops.
    """
    from sklearn.datasets import load_sample_images

    crop = RandomResizedCrop(size, scale=(0.025, 0.24), ratio=(1.0, 1.0))
    loaded = load_sample_images()
    names = [PurePath(name).stem for name in loaded.filenames]
    sides = {}
    for name, picture in zip(names, loaded.images, strict=True):
        pixels = rearrange(torch.from_numpy(picture.copy()), "h w c -> c h w")
        edge = round(LEFT * pixels.shape[2])
        sides[name, "train"], sides[name, "test"] = pixels[..., :edge], pixels[..., edge:]
    crops, labels, splits, ids = [], [], [], []
    for split, count in (("train", train), ("test", test)):
        for number in range(count):
            name = names[number % len(names)]
            ids.append(f"{name}/{split}/{number:04d}")
            generator = sample_generator(0, 0, ids[-1], "photographs")
            side = sides[name, split]
            crops.append(crop(side.shape[1], side.shape[2], generator).cut(side))
            labels.append(name)
            splits.append(split)
    return Table.from_arrays(image=torch.stack(crops), label=labels, split=splits, id=ids)
