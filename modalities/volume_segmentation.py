"""Segmentation of volumes: a UNETR-style head on a pre-trained encoder."""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from multimask.lattice import on_lattice
from multimask.modalities.volume import VolumePatches, three
from multimask.model import MaskedModel
from multimask.tokens import Batch, Latents

Size3 = tuple[int, int, int]


class Segmenter(nn.Module):
    """A pre-trained encoder with a convolutional decoder that names every voxel.

    UNETR (Hatamizadeh et al., WACV 2022): token states after evenly spaced blocks are put back on
    the lattice, enlarged step by step to the resolution of the level they join, and the voxels
    themselves join last. Where a sample has several contrasts, their token states are averaged
    over those that it has (BM-MAE, Robinet et al. 2025), and so are the stems of their voxels. All
    contrasts must share size and patch. Tokens that do not exist count as zeros.

    Args:
        model: its encoder and adapters are used and fine-tuned; its decoder is not.
        classes: channels of the result, the background among them.
        width: channels at full resolution; they double at every level below.
    Raises: ValueError for tokenizers that differ, and patches whose sides are no powers of two.
    """

    def __init__(self, model: MaskedModel, classes: int, width: int = 16) -> None:
        super().__init__()
        tokenizers = {name: cast(VolumePatches, t) for name, t in model.tokenizers.items()}
        geometry = {(three(t.size), three(t.patch)) for t in tokenizers.values()}
        if len(geometry) != 1:
            raise ValueError(
                f"Segmenter: expected one size and patch for all modalities, found {geometry}."
            )
        ((self.size, patch),) = geometry
        strides = level_strides(patch)
        levels, encoder_width = len(strides), cast(int, model.encoder.width)
        depth = cast(int, model.encoder.depth)
        self.model, self.classes = model, classes
        self.taps = tuple(depth * (i + 1) // levels - 1 for i in reversed(range(levels - 1)))
        channels = [encoder_width] + [width * 2**i for i in reversed(range(levels))]
        self.ups = nn.ModuleList(
            nn.ConvTranspose3d(channels[i], channels[i + 1], strides[i], strides[i])
            for i in range(levels)
        )
        self.joins = nn.ModuleList(ConvBlock(2 * c, c) for c in channels[1:])
        self.skips = nn.ModuleList(
            enlarging(encoder_width, channels[1 : i + 2], strides[: i + 1])
            for i in range(levels - 1)
        )
        self.stems = nn.ModuleDict(
            {name: ConvBlock(t.channels, width) for name, t in tokenizers.items()}
        )
        self.head = nn.Conv3d(width, classes, 1)

    def forward(self, batch: Batch) -> Float[Tensor, "b classes z y x"]:
        """Logits of every voxel at the tokenizers' size, padding included."""
        latents = self.model.encode(batch, self.taps)
        x = self.on_lattice(batch, latents, latents.tokens)
        tapped = dict(zip(sorted(self.taps), latents.taps, strict=True))
        levels = [self.on_lattice(batch, latents, tapped[tap]) for tap in self.taps]
        for index, (up, join) in enumerate(zip(self.ups, self.joins, strict=True)):
            last = index == len(self.ups) - 1
            skip = self.voxels(batch) if last else self.skips[index](levels[index])
            x = join(torch.cat((up(x), skip), dim=1))
        return self.head(x)

    def on_lattice(
        self, batch: Batch, latents: Latents, states: Float[Tensor, "b k w"]
    ) -> Float[Tensor, "b w z y x"]:
        """Token states at their places, averaged over the modalities that a sample has."""
        return on_lattice(self.model, batch, latents, states, self.grid)

    @property
    def grid(self) -> Size3:
        return cast(VolumePatches, next(iter(self.model.tokenizers.values()))).grid

    def voxels(self, batch: Batch) -> Float[Tensor, "b w z y x"]:
        """The stems' outputs, averaged over the modalities that a sample has."""
        device = self.head.weight.device
        count = torch.zeros(batch.size, 1, 1, 1, 1, device=device)
        total = count
        for name, part in batch.parts.items():
            tokenizer = cast(VolumePatches, self.model.tokenizers[name])
            data = tokenizer.standardised(part.data["data"])
            made = self.stems[name](data)
            empty = made.new_zeros(batch.size, *made.shape[1:])
            total = total + empty.index_add(0, part.rows, made)
            count = count.index_add(0, part.rows, torch.ones_like(count[part.rows]))
        return total / count


class ConvBlock(nn.Module):
    """Two 3x3x3 convolutions with instance norm, around a residual."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv3d(outputs, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(outputs, outputs)  # instance norm that takes a single voxel
        self.norm2 = nn.GroupNorm(outputs, outputs)
        self.past = nn.Conv3d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Float[Tensor, "b c z y x"]) -> Float[Tensor, "b d z y x"]:
        y = nn.functional.leaky_relu(self.norm1(self.conv1(x)), 0.01)
        return nn.functional.leaky_relu(self.norm2(self.conv2(y)) + self.past(x), 0.01)


def enlarging(width: int, channels: Sequence[int], strides: Sequence[Size3]) -> nn.Sequential:
    """Token states to the resolution of a level, doubling step by step."""
    layers: list[nn.Module] = []
    for outputs, stride in zip(channels, strides, strict=True):
        layers += [nn.ConvTranspose3d(width, outputs, stride, stride), ConvBlock(outputs, outputs)]
        width = outputs
    return nn.Sequential(*layers)


def level_strides(patch: Size3) -> list[Size3]:
    """Factors (z, y, x) from the lattice to voxels; an axis with a shorter patch is done first.

    >>> level_strides((2, 8, 8))
    [(2, 2, 2), (1, 2, 2), (1, 2, 2)]
    """
    halvings = [side.bit_length() - 1 for side in patch]
    if any(2**h != side for h, side in zip(halvings, patch, strict=True)) or max(halvings) == 0:
        raise ValueError(
            f"Segmenter: the sides of patch={patch} must be powers of two, one above 1."
        )
    factors = [[2 if level < h else 1 for h in halvings] for level in range(max(halvings))]
    return [(z, y, x) for z, y, x in factors]
