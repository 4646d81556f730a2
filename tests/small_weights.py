"""What tests of weights share: small models and their states."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from multimask import MaskedModel
from multimask.methods.mae import mae
from multimask.modalities.image import ImagePatches
from multimask.tokens import Batch, Part

SIZES: dict[str, Any] = {
    "width": 24,
    "depth": 2,
    "heads": 2,
    "decoder_width": 16,
    "decoder_depth": 1,
    "decoder_heads": 2,
}

HEADS: dict[str, Any] = {"heads": 2, "decoder_heads": 2}


def model_of(
    tokenizer: Any = None, name: str = "image", seed: int = 0, **sizes: Any
) -> MaskedModel:
    torch.manual_seed(seed)
    return mae({name: tokenizer or ImagePatches(56, 4)}, **{**SIZES, **sizes}).model.eval()


def write_theirs(folder: Path) -> Path:
    """A pre-training file of MAE with a lattice of 14 x 14, as at 224 pixels."""
    file = folder / "mae_pretrain_full.pth"
    model_of().export(file, "mae")
    return file


def state_in(file: Path) -> dict[str, Tensor]:
    return torch.load(file, weights_only=True)["model"]


def batch(channels: int, height: int, width: int) -> Batch:
    data = torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(0))
    return Batch(2, ("a", "b"), {}, {"image": Part(data, torch.arange(2))})
