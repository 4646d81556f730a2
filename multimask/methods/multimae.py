"""MultiMAE: multi-modal multi-task masked autoencoders (Bachmann et al., ECCV 2022).

Against MAE: tokens of several aligned maps share one encoder; how many of each stay visible is a
Dirichlet draw with one exact total; the class token stands last and no norm behind; every output
has a light decoder of its own, whose queries look once at what is visible. Errors are averaged per
sample. Pictures are answered twice, as they are and normalised per patch.
Not copied: sums of counts are repaired by systematic sampling (theirs adds or drops tokens at
random); positions on lattices that are not square are not scrambled.
"""

import math
from collections.abc import Mapping

from torch import nn

from multimask.masking import Count, Dirichlet, Masker, Uniform
from multimask.methods.recipe import Recipe
from multimask.modality import BringsAdapter, BringsAdapterAt, BringsAdapterFor, Tokenizer
from multimask.model import MaskedModel, slot_count
from multimask.nn.adapters import LinearAdapter, Target
from multimask.nn.blocks import Attention, CrossAttention
from multimask.nn.encoders import Encoder, size
from multimask.nn.position_tables import PlaneSinCos
from multimask.nn.task_decoders import TaskDecoders
from multimask.objectives import Reconstruction
from multimask.objectives.outputs import ExtraOutput

# AdamW (.9, .95), weight decay .05, 1e-4 per 256 samples, 40 of 1600 epochs of warm-up
TRAINING = {
    "lr": 1e-4,
    "lr_per": 256,
    "betas": (0.9, 0.95),
    "weight_decay": 0.05,
    "warmup": 0.025,
}


def multimae(
    modalities: Mapping[str, Tokenizer],
    *,
    arch: str = "base",
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    decoder_width: int = 256,
    decoder_depth: int = 2,
    decoder_heads: int = 8,
    visible: int | None = None,
    decoded: int | None = None,
    alpha: float | Mapping[str, float] = 1.0,
    subsets: bool = False,
    normed: tuple[str, ...] | None = None,
    learnt: bool = False,
    masker: Masker | None = None,
    max_tokens: Mapping[str, int] | None = None,
) -> Recipe:
    """Build MultiMAE over ready tokenizers, with the paper's defaults (rgb, depth, semseg).

    Args:
        arch: tiny, small, base, large or huge; width, depth and heads override it.
        visible: tokens of all modalities together; a sixth of all by default (98 of 588).
        decoded: how many tokens are answered for; every one by default, as published.
        alpha, subsets: of `Dirichlet`.
        normed: modalities answered a second time, normalised per token; by default "rgb" if there.
        learnt: balance the losses by learnt uncertainties instead of adding them up.
        masker: another one altogether, instead of visible, decoded, alpha and subsets.
    """
    default_width, default_depth, default_heads = size(arch)
    encoder = Encoder(
        width or default_width,
        depth or default_depth,
        heads or default_heads,
        globals_at="last",
        final_norm=False,
    )
    names = tuple(sorted(modalities))
    sizes = (decoder_width, decoder_depth, decoder_heads)
    adapters = {
        name: adapter(tokenizer, encoder.width, decoder_width)
        for name, tokenizer in modalities.items()
    }
    model = MaskedModel(
        modalities,
        encoder,
        TaskDecoders(encoder.width, names, *sizes),
        adapters,
        max_tokens=max_tokens,
    )
    again = tuple(n for n in ("rgb",) if n in modalities) if normed is None else normed
    outputs = {
        f"norm_{name}": ExtraOutput(
            name,
            modalities[name].token_dim,
            TaskDecoders(encoder.width, names, *sizes, outputs=(name,)),
        )
        for name in again
    }
    for part in (model, *outputs.values()):
        part.apply(separate)
    total = sum(slot_count(name, t, max_tokens or {}) for name, t in modalities.items())
    counts = Count(visible or max(1, total // 6), decoded or total)
    objective = Reconstruction(
        masker or Masker(Uniform(), Dirichlet(counts, alpha, subsets)),
        average="sample",
        outputs=outputs,
        learnt=(*names, *outputs) if learnt else (),
    )
    return Recipe(model, objective, TRAINING)


def adapter(tokenizer: Tokenizer, width: int, decoder_width: int) -> nn.Module:
    """The tokenizer's own, with MultiMAE's positions where it takes them; else a linear one. Names
    of modalities belong to the decoders."""
    if isinstance(tokenizer, BringsAdapterAt):
        return tokenizer.adapter_at(width, decoder_width, PlaneSinCos, False)
    if isinstance(tokenizer, BringsAdapterFor):
        return tokenizer.adapter_for(width, decoder_width, Target())
    if isinstance(tokenizer, BringsAdapter):
        return tokenizer.adapter(width, decoder_width)
    plane = len(getattr(tokenizer, "grid", ())) == 2 and width % 4 == decoder_width % 4 == 0
    position = PlaneSinCos if plane else None
    return LinearAdapter(tokenizer, width, decoder_width, position=position, decoder_named=False)


def separate(module: nn.Module) -> None:
    """Xavier initialisation of query, key and value weights as matrices of their own."""
    fused = {Attention: ("qkv", 3), CrossAttention: ("kv", 2)}
    for kind, (name, parts) in fused.items():
        if isinstance(module, kind):
            weight = getattr(module, name).weight
            rows, columns = weight.shape
            bound = math.sqrt(6 / (rows // parts + columns))
            nn.init.uniform_(weight, -bound, bound)
