"""Masked pre-training on pictures: your folder of photographs, or embedded digits.

python experiments/image.py --data PHOTOS --out runs/photos
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch

from multimask.cli.data import parts_of
from multimask.cli.experiment import RunFlags, Study, carry_out
from multimask.cli.flags import run
from multimask.cli.study import sides, with_defaults
from multimask.datasets.embedded import digits
from multimask.datasets.formats.images import ImageReader
from multimask.datasets.table import Table
from multimask.datasets.transforms import RandomResizedCrop, ResizeCrop
from multimask.modalities.image import ImagePatches
from multimask.tokens import BadSample

STATISTICS_FROM = 256  # pictures that mean and std are measured on


@dataclass(frozen=True, kw_only=True)
class Config(RunFlags):
    """Pre-train a masked autoencoder on pictures and show what it learned."""

    out: Annotated[Path, "run folder"] = Path("runs/image")
    image_size: Annotated[int | tuple[int, ...] | None, "pixels; default 64, digits 8"] = None
    patch: Annotated[int | tuple[int, ...] | None, "pixels of a patch; default 8, digits 2"] = None
    channels: Annotated[int | None, "1 grey, 3 colour, ...; default 3, digits 1"] = None
    crop: Annotated[float, "smallest share of a picture that a random crop shows"] = 0.4
    flip: Annotated[float, "chance of mirroring"] = 0.5
    held_out: Annotated[float, "share held out for testing where the data name no split"] = 0.25


# digits: a small model that two cores train in a minute (8 x 8 pictures, 16 tokens)
DIGITS = {
    "image_size": 8,
    "patch": 2,
    "channels": 1,
    "width": 48,
    "depth": 2,
    "heads": 4,
    "decoder_width": 32,
    "decoder_depth": 1,
    "decoder_heads": 4,
    "normalise": False,
    "lr": 3e-3,
}
# photographs: what two cores train in minutes; with a GPU say --size base --image-size 224 ...
PHOTOGRAPHS = {
    "image_size": 64,
    "patch": 8,
    "channels": 3,
    "width": 128,
    "depth": 4,
    "heads": 4,
    "decoder_width": 64,
    "decoder_depth": 2,
    "decoder_heads": 4,
    "lr": 1e-3,
}


def main(config: Config) -> dict[str, object]:
    config = with_defaults(config, DIGITS if config.data is None else PHOTOGRAPHS)
    size, patch = sides(config.image_size, "--image-size"), sides(config.patch, "--patch")
    channels = config.channels or 3
    if config.data is None:
        table = digits()
        train, test = parts_of(table, config.held_out, config.limit)
    else:
        plain = ImageReader(channels=channels, transform=ResizeCrop(size))
        crops = RandomResizedCrop(size, scale=(config.crop, 1.0), flip=config.flip)
        table = Table.open(config.data, reader=plain)
        train, test = parts_of(table, config.held_out, config.limit)
        train = train.with_readers(image=replace(plain, transform=crops))
    mean, std = statistics(train, channels)
    tokenizer = ImagePatches(size, patch, channels, mean, std)
    label = config.label if config.label in table.columns else None
    return carry_out(config, Study({"image": tokenizer}, train, test, label))


def statistics(train: Table, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and spread of every channel, in 0..1, over some training pictures."""
    step = max(1, len(train) // STATISTICS_FROM)
    sums, squares, pixels = torch.zeros(channels), torch.zeros(channels), 0
    for index in range(0, len(train), step):
        try:
            picture = train[index]["image"]
        except (BadSample, OSError):
            continue  # training meets it again, and counts and lists it
        values = picture.double() / (255 if picture.dtype == torch.uint8 else 1)
        sums = sums + values.sum(dim=(1, 2))
        squares = squares + values.square().sum(dim=(1, 2))
        pixels += values[0].numel()
    if not pixels:
        raise ValueError(f"none of {len(train)} pictures could be read.")
    mean = sums / pixels
    std = (squares / pixels - mean.square()).clamp(min=1e-6).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())


if __name__ == "__main__":
    raise SystemExit(run(main, Config))
