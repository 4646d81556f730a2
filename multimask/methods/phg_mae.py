"""PHG-MAE: probabilistic hyper-graphs from hiding whole modalities (preprint, 2025).

One network reads a random subset of whole modalities (each subset is one hyper-edge of a graph over
modalities) and answers for the targets and for all that it did not read; pre-training and learning
the task are one loop, and subsets at inference make an ensemble (`multimask.ensembles`). Two back
ends: tokens (`phg_mae`), which are MultiMAE's encoder and decoders under a masker that hides
modalities, and the published small convolutional network (`phg_mae_conv`).
No source fixes chances, weights or optimiser: each modality stays with one half, losses add up, and
training is MultiMAE's, or plain AdamW for convolutions.
"""

from collections.abc import Mapping

from multimask.masking import Masker, Natural, Subset
from multimask.methods.multimae import TRAINING, adapter, multimae
from multimask.methods.recipe import Recipe
from multimask.modality import Tokenizer
from multimask.model import MaskedModel
from multimask.nn.convolutions import ConvDecoder, Embedded
from multimask.objectives import Reconstruction

CONV_TRAINING = {"lr": 1e-3, "lr_per": None, "weight_decay": 0.01}


def phg_mae(
    modalities: Mapping[str, Tokenizer],
    *,
    targets: tuple[str, ...] = (),
    always: tuple[str, ...] = (),
    keep: float | Mapping[str, float] = 0.5,
    table: tuple[tuple[str, ...], ...] = (),
    arch: str = "base",
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    decoder_width: int = 256,
    decoder_depth: int = 2,
    decoder_heads: int = 8,
    weights: Mapping[str, float] | None = None,
    max_tokens: Mapping[str, int] | None = None,
) -> Recipe:
    """Build PHG-MAE over ready tokenizers.

    Args:
        targets: modalities that are only answered for. always: modalities that are always read.
        keep, table: of `Subset`, for all others. weights: a factor per modality's loss.
        The rest as in `multimae`.
    """
    base = multimae(
        modalities,
        arch=arch,
        width=width,
        depth=depth,
        heads=heads,
        decoder_width=decoder_width,
        decoder_depth=decoder_depth,
        decoder_heads=decoder_heads,
        normed=(),
        max_tokens=max_tokens,
    )
    masker = Masker(Subset(keep, table, always, targets), Natural())
    objective = Reconstruction(masker, average="sample", weights=weights)
    return Recipe(base.model, objective, TRAINING)


def phg_mae_conv(
    modalities: Mapping[str, Tokenizer],
    *,
    targets: tuple[str, ...] = (),
    always: tuple[str, ...] = (),
    keep: float | Mapping[str, float] = 0.5,
    table: tuple[tuple[str, ...], ...] = (),
    width: int = 16,
    features: int = 16,
    weights: Mapping[str, float] | None = None,
) -> Recipe:
    """Build PHG-MAE with the convolutional back end, `SafeUAV`, over tokenizers of one lattice.

    Published is a token a pixel (patches of 1). The network answers, it does not encode: features
    for probes come from `phg_mae`.

    Args:
        targets, always, keep, table, weights: as in `phg_mae`.
        width: channels of a modality, in and out. features: of `SafeUAV`.
    """
    adapters = {name: adapter(tokenizer, width, width) for name, tokenizer in modalities.items()}
    model = MaskedModel(
        modalities, Embedded(width), ConvDecoder(len(modalities), width, features), adapters
    )
    masker = Masker(Subset(keep, table, always, targets), Natural())
    return Recipe(model, Reconstruction(masker, average="sample", weights=weights), CONV_TRAINING)
