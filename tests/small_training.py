"""What tests of training share: a small model, its samples and a short run."""

from typing import Any

import torch
from torch import Generator, Tensor, nn

from multimask import Count, MaskedModel, Masker, Objective, Reconstruction, Uniform
from multimask.modalities.image import ImagePatches
from multimask.nn.encoders import Encoder
from multimask.tokens import Sample
from multimask.training import fit

SIZES = {"a": 8, "b": 12}  # 4 and 9 tokens

MASKER = Masker(Uniform(), Count(3, 10))


def model(drop_path: float = 0.0, names: str = "ab") -> MaskedModel:
    torch.manual_seed(0)
    tokenizers = {name: ImagePatches(SIZES[name], 4, channels=1) for name in names}
    encoder = Encoder(16, depth=2, heads=2, drop_path=drop_path)
    return MaskedModel(tokenizers, encoder, decoder_width=16, decoder_depth=1)


def sample(index: int, names: str = "ab") -> Sample:
    generator = Generator().manual_seed(index)
    parts = {n: torch.rand(1, SIZES[n], SIZES[n], generator=generator) for n in names}
    return {"id": f"s{index}", "label": "xy"[index % 2], **parts}


def rows(count: int = 24, holes: bool = False) -> list[Sample]:
    present = ("ab", "a", "b") if holes else ("ab",)
    return [sample(index, present[index % len(present)]) for index in range(count)]


def trained(samples: Any = None, objective: Objective | None = None, **how: Any) -> Any:
    """A small run: the model and what fit says about it."""
    made = how.pop("model", None) or model()
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 8, "progress": False, "lr": 0.02} | how
    objective = objective or Reconstruction(MASKER)
    return made, fit(made, objective, samples or rows(), **settings)


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])
