"""MAE: masked autoencoders are scalable vision learners (He et al., CVPR 2022).

The base that other methods are measured against: a random quarter of the patches goes through the
encoder, a small decoder answers for the rest, the loss is the squared error of (per-patch
normalised) values over hidden patches.
"""

from collections.abc import Mapping
from dataclasses import replace

from multimask.masking import Uniform, masker_for
from multimask.masking.rules import Rule
from multimask.methods.recipe import Recipe
from multimask.modality import Tokenizer
from multimask.model import MaskedModel
from multimask.nn.adapters import Target
from multimask.nn.decoders import HiddenDecoder, JointDecoder
from multimask.nn.encoders import Encoder, size
from multimask.objectives import Reconstruction

# AdamW (.9, .95), weight decay .05, 1.5e-4 per 256 samples, 40 of 800 epochs of warm-up
TRAINING = {
    "lr": 1.5e-4,
    "lr_per": 256,
    "betas": (0.9, 0.95),
    "weight_decay": 0.05,
    "warmup": 0.05,
}


def mae(
    modalities: Mapping[str, Tokenizer],
    *,
    arch: str = "base",
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    decoder: str = "joint",
    decoder_width: int = 512,
    decoder_depth: int = 8,
    decoder_heads: int = 16,
    ratio: float = 0.75,
    rule: Rule = Uniform(),  # noqa: B008 - frozen
    normalise: bool = True,
    drop_path: float = 0.0,
    ragged: bool = False,
) -> Recipe:
    """Build MAE over ready tokenizers, with the paper's defaults.

    Args:
        arch: tiny, small, base, large or huge; width, depth and heads override it.
        decoder: "joint" (the paper's) or "hidden-only" (cross-attention, cheaper).
        ratio: share of tokens hidden (of a rule that brings its own size, its own ratio).
        rule: who is hidden.
        normalise: regress patches normalised by their own mean and spread (norm_pix; the paper's
            recipe); False regresses plain values, whose pictures need nothing put back.
        ragged: take samples with fewer tokens than are kept visible (small volumes).
    """
    default_width, default_depth, default_heads = size(arch)
    encoder = Encoder(
        width or default_width, depth or default_depth, heads or default_heads, drop_path=drop_path
    )
    decoders = {"joint": JointDecoder, "hidden-only": HiddenDecoder}
    if decoder not in decoders:
        raise ValueError(f"mae: decoder={decoder!r} must be one of {', '.join(decoders)}.")
    model = MaskedModel(
        modalities,
        encoder,
        decoders[decoder](encoder.width, decoder_width, decoder_depth, decoder_heads),
        target=Target("patch" if normalise else "none"),
    )
    masker = replace(masker_for(rule, ratio), ragged=ragged)
    return Recipe(model, Reconstruction(masker), TRAINING)
