"""ChA-MAEViT: channel-aware masked autoencoder for multi-channel imaging (Pham et al., NeurIPS
2025).

Against MAE: every channel has its own tokens, told apart by channel vectors; a masker hides whole
channels as well as patches; memory tokens stand beside the class token; the decoder has the
encoder's width and knows the channel of what it answers for; a Fourier term is added to the loss.
Not copied: positions are fixed tables instead of learned ones, encoder and decoder have channel
vectors of their own, and the supervised terms of the joint recipe (class proxies, diversity) are
left to fine-tuning. The released Fourier term transforms runs of numbers across patch borders;
here it is the spectrum of each channel's picture.
"""

from collections.abc import Mapping
from typing import Literal

from multimask.masking import Masker, Natural
from multimask.methods.recipe import Recipe
from multimask.modality import Tokenizer
from multimask.model import MaskedModel
from multimask.nn.adapters import Target
from multimask.nn.decoders import JointDecoder
from multimask.nn.encoders import Encoder
from multimask.objectives.fourier import FourierReconstruction
from multimask.plugins import load

# AdamW (.9, .999), weight decay 5e-5, lr 4e-4 for the paper's batches, 5 of 100 epochs of warm-up
TRAINING = {
    "lr": 4e-4,
    "lr_per": None,
    "betas": (0.9, 0.999),
    "weight_decay": 5e-5,
    "warmup": 0.05,
    "min_lr": 1e-5,
    "clip": 1.0,
}

PRESETS = {"alternate": (0.5, 0.5, 0.75), "combination": (0.0, 0.0, 0.25)}


def cha_maevit(
    modalities: Mapping[str, Tokenizer],
    *,
    width: int = 384,
    depth: int = 11,
    heads: int = 6,
    memory: int = 4,
    decoder_depth: int = 2,
    decoder_heads: int = 16,
    masking: Literal["alternate", "combination"] = "combination",
    ratio: float | None = None,
    fourier: float = 0.01,
) -> Recipe:
    """Build ChA-MAEViT over ready tokenizers whose lattice begins with the channels.

    Args:
        memory: tokens that stand beside the class token; the paper's 4, for So2Sat 8.
        masking: "combination" hides channels and patches together, "alternate" one or the other.
        ratio: share of a channel's patches hidden when patches are; the preset's by default.
        fourier: weight of the Fourier term; the rest, 1 - fourier, is the squared error.
    """
    if masking not in PRESETS:
        raise ValueError(f"cha_maevit: masking={masking!r} must be one of {', '.join(PRESETS)}.")
    patch, channel, preset = PRESETS[masking]
    rule = load("parts", "channel-patch")(patch, channel, preset if ratio is None else ratio)
    model = MaskedModel(
        modalities,
        Encoder(width, depth, heads, num_globals=1 + memory, layer_scale=1.0),
        JointDecoder(width, width, decoder_depth, decoder_heads),
        target=Target("patch"),
    )
    objective = FourierReconstruction(Masker(rule, Natural()), fourier)
    return Recipe(model, objective, TRAINING)
