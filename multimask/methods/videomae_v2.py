"""VideoMAE V2: scaling video masked autoencoders with dual masking (Wang et al., CVPR 2023).

Against VideoMAE: the decoder answers for half of the tokens only, chosen by a running cell whatever
the encoder saw; tokens that it saw are answered and not scored. Of 1,568 tokens 160 are visible,
784 decoded, 704 scored.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from multimask.masking import Masker, Ratio, RunningCell, Tube, num_visible
from multimask.masking.budgets import Counting
from multimask.masking.rules import Rule
from multimask.methods.recipe import Recipe
from multimask.methods.videomae import TARGET, IndexSinCos, masked_model
from multimask.modality import Tokenizer
from multimask.nn.adapters import Target
from multimask.objectives import Reconstruction

# AdamW (.9, .95), weight decay .05, 1e-3 per 256 clips, a tenth of the epochs is warm-up
TRAINING = {
    "lr": 1e-3,
    "lr_per": 256,
    "betas": (0.9, 0.95),
    "weight_decay": 0.05,
    "warmup": 0.1,
}

DECODERS = {"huge": (512, 4, 8)}  # what differs from VideoMAE's


@dataclass(frozen=True)
class DualRatio:
    """Hide one share of all units from the encoder, leave another share undecoded.

    >>> DualRatio(0.9, 0.5)(196)
    (20, 98)
    """

    ratio: float = 0.9
    undecoded: float = 0.5
    counting: Counting = "hidden"

    def __post_init__(self) -> None:
        if not 0 < self.undecoded < 1:
            raise ValueError(
                f"DualRatio: undecoded={self.undecoded} is the share of tokens that the decoder "
                "leaves out; it must lie between 0 and 1, both excluded."
            )

    def __call__(self, n: int) -> tuple[int, int]:
        visible, _ = Ratio(self.ratio, self.counting)(n)
        decoded = num_visible(n, self.undecoded, "visible")
        return visible, max(1, math.floor(decoded))


def videomae_v2(
    modalities: Mapping[str, Tokenizer],
    *,
    arch: str = "base",
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    decoder_width: int | None = None,
    decoder_depth: int | None = None,
    decoder_heads: int | None = None,
    ratio: float = 0.9,
    decoder_ratio: float = 0.5,
    rule: Rule = Tube(),  # noqa: B008 - frozen
    decoded: Rule = RunningCell(),  # noqa: B008 - frozen
    normalise: bool = True,
    drop_path: float = 0.0,
    eps: float = 1e-6,
    position: type = IndexSinCos,
) -> Recipe:
    """Build VideoMAE V2 over ready tokenizers with lattices of three axes.

    Args:
        arch: tiny, small, base, large or huge (encoder and decoder); the numbers override it.
        ratio: share of places hidden from the encoder. rule: which.
        decoder_ratio: share of tokens not decoded; 0 decodes what is hidden, which is VideoMAE.
        decoded: which tokens are decoded.
    """
    default = DECODERS.get(arch, (None, None, None))
    given = (decoder_width, decoder_depth, decoder_heads)
    model = masked_model(
        modalities,
        arch,
        (width, depth, heads),
        tuple(d if g is None else g for g, d in zip(given, default, strict=True)),  # type: ignore
        TARGET if normalise else Target(),
        drop_path,
        eps,
        position,
    )
    if decoder_ratio == 0:
        masker = Masker(rule, Ratio(ratio, "hidden"))
    else:
        masker = Masker(rule, DualRatio(ratio, decoder_ratio), decoded=decoded)
    return Recipe(model, Reconstruction(masker), TRAINING)
