"""Heads that name every cell of a lattice's raw data: pixels, voxels, samples of a signal.

Generic over lattices of one, two and three axes. Linear: what the tokens alone tell. Pyramid: token
states after evenly spaced blocks, brought to several resolutions and joined from coarse to fine, as
in FPN (Lin et al., CVPR 2017) and UPerNet (Xiao et al., ECCV 2018).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn import functional as F

from multimask.checkpoints.folder import load, read_weights, write_whole
from multimask.finetuning.classifier import read_facts
from multimask.lattice import on_lattice, shared_grid
from multimask.modality import HasBox
from multimask.model import MaskedModel
from multimask.tokens import Batch, Grid

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOL = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
MODE = {1: "linear", 2: "bilinear", 3: "trilinear"}
SCALES = (4.0, 2.0, 1.0, 0.5)  # of the levels against the lattice, as BEiT and MAE do for UPerNet
BINS = (1, 2, 3, 6)  # cells a side of UPerNet's pyramid pooling
WEIGHTS, FACTS = "head.safetensors", "dense.json"


class LinearDense(nn.Module):
    """One linear layer on each normalised token; enlarged to raw cells by interpolation."""

    num_taps = 1

    def __init__(self, width: int, classes: int, axes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.classify = CONV[axes](width, classes, 1)

    def forward(self, levels: list[Float[Tensor, "b w *grid"]]) -> Float[Tensor, "b c *grid"]:
        return self.classify(self.norm(levels[-1].movedim(1, -1)).movedim(-1, 1))


class PyramidDense(nn.Module):
    """Four levels at 4, 2, 1 and 1/2 times the lattice; the coarsest is pooled over its
    surroundings, and each joins the next finer one.

    Args: channels, of all levels.
    """

    num_taps = len(SCALES)

    def __init__(self, width: int, classes: int, axes: int, channels: int = 64) -> None:
        super().__init__()
        conv = CONV[axes]
        self.axes = axes
        self.laterals = nn.ModuleList(conv(width, channels, 1) for _ in SCALES)
        self.surroundings = nn.ModuleList(conv(channels, channels, 1) for _ in BINS)
        self.bottleneck = joined(conv, channels * (1 + len(BINS)), channels)
        self.smooth = nn.ModuleList(joined(conv, channels, channels) for _ in SCALES[:-1])
        self.fuse = joined(conv, channels * len(SCALES), channels)
        self.classify = conv(channels, classes, 1)

    def forward(self, levels: list[Float[Tensor, "b w *grid"]]) -> Float[Tensor, "b c *fine"]:
        grid = levels[0].shape[2:]
        sized = [
            resized(lateral(level), tuple(max(1, round(n * scale)) for n in grid))
            for lateral, level, scale in zip(self.laterals, levels, SCALES, strict=True)
        ]
        coarse = sized[-1]
        around = [
            resized(conv(POOL[self.axes](coarse, bins)), tuple(coarse.shape[2:]))
            for conv, bins in zip(self.surroundings, BINS, strict=True)
        ]
        made = [self.bottleneck(torch.cat((coarse, *around), dim=1))]
        for level, smooth in zip(sized[-2::-1], reversed(self.smooth), strict=True):
            made.append(smooth(level + resized(made[-1], tuple(level.shape[2:]))))
        finest = tuple(made[-1].shape[2:])
        return self.classify(self.fuse(torch.cat([resized(m, finest) for m in made], dim=1)))


def joined(conv: type[nn.Module], inputs: int, outputs: int) -> nn.Sequential:
    """A convolution over neighbours, normalised per sample (batches may be tiny), and a ReLU."""
    layers = [conv(inputs, outputs, 3, padding=1, bias=False), nn.GroupNorm(1, outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def resized(x: Float[Tensor, "b c *any"], size: Grid) -> Float[Tensor, "b c *size"]:
    if tuple(x.shape[2:]) == size:
        return x
    return F.interpolate(x, size, mode=MODE[len(size)], align_corners=False)


HEADS: dict[str, type[LinearDense] | type[PyramidDense]] = {
    "linear": LinearDense,
    "pyramid": PyramidDense,
}


class DenseClassifier(nn.Module):
    """A model and a dense head. Calling it gives logits of every raw cell, `(b, classes, *cells)`,
    at the size that the model is built for.

    All modalities share one lattice; the states of those that a sample has are averaged.
    Raises: ValueError for tokens without a lattice, or lattices that differ.
    """

    def __init__(self, model: MaskedModel, classes: int, head: str = "pyramid") -> None:
        super().__init__()
        if head not in HEADS:
            raise ValueError(f"DenseClassifier: head={head!r} must be one of {', '.join(HEADS)}.")
        self.grid = shared_grid(model, "DenseClassifier")
        boxes = {t.box if isinstance(t, HasBox) else None for t in model.tokenizers.values()}
        if len(boxes) != 1 or None in boxes:
            raise ValueError(
                f"DenseClassifier: expected one patch for all modalities, not {boxes}."
            )
        (box,) = cast(set[Grid], boxes)
        self.cells = tuple(n * side for n, side in zip(self.grid, box, strict=True))
        self.model, self.classes, self.kind = model, classes, head
        width, depth = cast(int, model.encoder.width), cast(int, model.encoder.depth)
        self.head = HEADS[head](width, classes, len(self.grid))
        count = self.head.num_taps
        self.taps = tuple(depth * (level + 1) // count - 1 for level in range(count))
        self.taps = tuple(max(0, tap) for tap in self.taps)

    def forward(self, batch: Batch) -> Float[Tensor, "b c *cells"]:
        if self.head.num_taps == 1:
            latents = self.model.encode(batch)
            states = [latents.tokens]
        else:
            latents = self.model.encode(batch, self.taps)
            tapped = dict(zip(sorted(set(self.taps)), latents.taps, strict=True))
            states = [tapped[tap] for tap in self.taps]
        levels = [on_lattice(self.model, batch, latents, x, self.grid) for x in states]
        return resized(self.head(levels), self.cells)

    def save(self, folder: str | Path) -> None:
        """A model folder, as `model.save` writes it, with `head.safetensors` and `dense.json`."""
        folder = Path(folder)
        self.model.save(folder)
        weights = {k: v.detach().cpu().contiguous() for k, v in self.head.state_dict().items()}
        write_whole(folder / WEIGHTS, to_bytes(weights, metadata={"format": "pt"}))
        facts = {"classes": self.classes, "head": self.kind}
        write_whole(folder / FACTS, json.dumps(facts, indent=1).encode())

    @staticmethod
    def load(folder: str | Path, classes: Mapping[str, type] | None = None) -> "DenseClassifier":
        """What `save` wrote, in eval mode. `classes` as for `multimask.load`.

        Raises: FileNotFoundError, ValueError (one sentence) for folders that are none.
        """
        folder = Path(folder)
        for name in (WEIGHTS, FACTS):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder}: expected a model with a dense head, {WEIGHTS} and {FACTS}, found "
                    f"no {name}; multimask.load reads models without a head."
                )
        facts = read_facts(folder / FACTS, {"classes": int, "head": str})
        made = DenseClassifier(load(folder, classes), facts["classes"], facts["head"])
        made.head.load_state_dict(read_weights(folder / WEIGHTS, made.head.state_dict()))
        return made.eval()
