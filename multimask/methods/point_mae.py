"""Point-MAE: masked autoencoders for point cloud self-supervised learning (Pang et al., ECCV 2022).

MAE on groups of points: a mini-PointNet embeds them, an MLP of their centres says where they are
and is added before every block, mask tokens enter in the decoder only, and the hidden groups'
points are answered relative to their centre, under a chamfer distance. No class token.
Not copied: the published loop trains one epoch more than it says, and its sampling kernel passes
over points near the origin.
"""

from collections.abc import Mapping
from typing import Literal

from torch import nn

from multimask.masking import Masker, Ratio, Uniform
from multimask.masking.rules import Rule
from multimask.methods.recipe import Recipe
from multimask.modality import Tokenizer
from multimask.model import MaskedModel
from multimask.nn.decoders import JointDecoder
from multimask.nn.encoders import Encoder, size
from multimask.objectives import Reconstruction
from multimask.plugins import load

# AdamW, weight decay .05, 1e-3 whatever the batch (128 there), 10 of 300 epochs of warm-up
TRAINING = {
    "lr": 1e-3,
    "lr_per": None,
    "betas": (0.9, 0.999),
    "weight_decay": 0.05,
    "warmup": 10 / 300,
}


def point_mae(
    modalities: Mapping[str, Tokenizer],
    *,
    arch: str = "small",
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    decoder_depth: int = 4,
    drop_path: float = 0.1,
    ratio: float = 0.6,
    rule: Rule = Uniform(),  # noqa: B008 - frozen
    norm: Literal["l1", "l2"] = "l2",
    embed_visible_only: bool = False,
    net_width: int = 128,
) -> Recipe:
    """Build Point-MAE over ready point-group tokenizers, with the paper's defaults.

    Args:
        arch: tiny, small (the paper's: 384 wide, 12 blocks), base, large or huge; width, depth and
            heads override it. Encoder and decoder have one width and as many heads.
        ratio: share of groups hidden, floored to a count (38 of 64). rule: who is hidden: random
            by default; the part `nearest-block` is the paper's block masking.
        norm: of the chamfer distance. embed_visible_only: faster, other batch statistics (see the
            part `point-groups`). net_width: of the first layer of the mini-PointNet.
    """
    default_width, default_depth, default_heads = size(arch)
    width, depth, heads = width or default_width, depth or default_depth, heads or default_heads
    encoder = Encoder(
        width,
        depth,
        heads,
        num_globals=0,
        eps=1e-5,
        qkv_bias=False,
        drop_path=drop_path,
        places="every",
    )
    encoder.apply(small_normal)  # the decoder keeps Xavier's
    decoder = JointDecoder(
        width,
        width,
        decoder_depth,
        heads,
        eps=1e-5,
        qkv_bias=False,
        drop_path=drop_path,
        places="every",
        project=False,
    )
    adapter = load("parts", "point-groups")
    adapters = {
        name: adapter(tokenizer, width, width, norm, embed_visible_only, net_width=net_width)
        for name, tokenizer in modalities.items()
    }
    model = MaskedModel(modalities, encoder, decoder, adapters)
    objective = Reconstruction(Masker(rule, Ratio(ratio, counting="hidden")))
    return Recipe(model, objective, TRAINING)


def small_normal(module: nn.Module) -> None:
    """The published initialisation of the encoder's linear layers."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
