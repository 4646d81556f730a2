"""What tests of evaluation share: a small model and pictures for it."""

from collections.abc import Sequence

import torch

from multimask.modalities.image import ImagePatches
from multimask.model import MaskedModel
from multimask.nn.adapters import Target

PATCHES = ImagePatches(16, 4, channels=2)


def build(target: Target = Target(), names: Sequence[str] = ("day", "night")) -> MaskedModel:  # noqa: B008
    torch.manual_seed(0)
    return MaskedModel(
        dict.fromkeys(names, PATCHES),
        target=target,
        width=24,
        depth=2,
        heads=2,
        decoder_width=16,
        decoder_heads=2,
    )
