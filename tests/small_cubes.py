"""What tests of the spectral kind share: small cubes of five bands."""

from typing import Any

import torch

import multimask
from multimask.modalities.spectral import SpectralPatches
from multimask.modality import collate
from multimask.model import MaskedModel
from multimask.tokens import Part, Tokens

NM = (443.0, 490.0, 560.0, 665.0, 842.0)

PATCHES = SpectralPatches(size=16, patch=4, bands=6, names=("VV", "VH"))


def cube(seed: int, nm: tuple[float, ...] = NM, size: int = 16) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {"pixels": torch.rand(len(nm), size, size, generator=generator), "wavelengths": nm}


def tokens_of(*cubes: dict[str, Any], patches: SpectralPatches = PATCHES) -> Tokens:
    return patches(Part(patches.collate(cubes), torch.arange(len(cubes))))


def batch_of(*cubes: dict[str, Any], patches: SpectralPatches = PATCHES) -> multimask.Batch:
    samples = [{"id": str(row), "cube": item} for row, item in enumerate(cubes)]
    return collate(samples, {"cube": patches})


def small(patches: SpectralPatches = PATCHES, **arguments: Any) -> MaskedModel:
    torch.manual_seed(0)
    made = MaskedModel(
        {"cube": patches}, width=48, depth=2, decoder_width=32, decoder_heads=4, **arguments
    )
    return made.eval()
