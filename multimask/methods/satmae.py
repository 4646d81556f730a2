"""SatMAE: masked pre-training of multi-spectral satellite imagery (Cong et al., NeurIPS 2022).

MAE over tokens of band groups. What differs from MAE: every location has several tokens, one a
group of bands; a group's token is told by what stands in it, so the tokenizer decides the groups
and brings the weights that know bands apart; masking is either independent over all tokens (the
paper's best) or consistent, hiding the same locations in every group. Values are not normalised
per patch unless asked for.
"""

from collections.abc import Mapping
from typing import Literal

from multimask.masking import Tied, Uniform
from multimask.methods.mae import TRAINING as MAE
from multimask.methods.mae import mae
from multimask.methods.recipe import Recipe
from multimask.modality import Tokenizer

# AdamW (.9, .95), weight decay .05, 1e-4 per 256 samples, 20 of 200 epochs of warm-up
TRAINING = MAE | {"lr": 1e-4, "warmup": 0.1}

Masking = Literal["independent", "consistent"]


def satmae(
    modalities: Mapping[str, Tokenizer],
    *,
    arch: str = "large",
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    decoder_width: int = 512,
    decoder_depth: int = 8,
    decoder_heads: int = 16,
    ratio: float = 0.75,
    masking: Masking = "independent",
    normalise: bool = False,
) -> Recipe:
    """Build SatMAE over ready tokenizers whose lattice begins with the band groups.

    Args:
        arch: of `mae`; the paper's is large. ratio: share of tokens hidden.
        masking: "independent" tokens, or "consistent" over groups (the released
            `--spatial_mask`; the authors' example uses ratio .9 with it).
        normalise: regress patches normalised by their own mean and spread (over all bands of a
            token; the released code takes all bands of a location).
    """
    rules = {"independent": Uniform(), "consistent": Tied((0,))}
    if masking not in rules:
        raise ValueError(f"satmae: masking={masking!r} must be one of {', '.join(rules)}.")
    recipe = mae(
        modalities,
        arch=arch,
        width=width,
        depth=depth,
        heads=heads,
        decoder_width=decoder_width,
        decoder_depth=decoder_depth,
        decoder_heads=decoder_heads,
        ratio=ratio,
        rule=rules[masking],
        normalise=normalise,
    )
    return Recipe(recipe.model, recipe.objective, TRAINING)
