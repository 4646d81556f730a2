"""The 3-D MAE of MONAI (`monai.networks.nets.MaskedAutoEncoderViT`), with its defaults.

Differs from MAE (He et al., 2022): narrow MLPs, no biases for queries, keys and values, LayerNorm
epsilon 1e-5, positions in MONAI's order, plain values as targets. MONAI's class brings no loss;
the one here is the mean squared error over hidden patches.
"""

from collections.abc import Mapping

from multimask.masking import Masker, Ratio, Uniform
from multimask.masking.rules import Rule
from multimask.methods.mae import TRAINING
from multimask.methods.recipe import Recipe
from multimask.modality import Tokenizer
from multimask.model import MaskedModel
from multimask.nn.adapters import LinearAdapter
from multimask.nn.decoders import JointDecoder
from multimask.nn.encoders import Encoder
from multimask.nn.position_tables import StoredSinCos
from multimask.nn.positions import Learned
from multimask.objectives import Reconstruction

EPS = 1e-5


def monai_mae(
    modalities: Mapping[str, Tokenizer],
    *,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    mlp: int = 512,
    decoder_width: int = 384,
    decoder_depth: int = 4,
    decoder_heads: int = 12,
    decoder_mlp: int = 512,
    qkv_bias: bool = False,
    positions: str = "sincos",
    ratio: float = 0.75,
    rule: Rule = Uniform(),  # noqa: B008 - frozen
    ragged: bool = False,
) -> Recipe:
    """Build it over ready tokenizers of 3-D lattices.

    Args:
        mlp, decoder_mlp: hidden widths of the MLPs.
        positions: "sincos" (fixed) or "learnable".
        ragged: take samples with fewer tokens than are kept visible (small volumes).
    """
    tables = {"sincos": StoredSinCos, "learnable": Learned}
    if positions not in tables:
        raise ValueError(f"monai_mae: positions={positions!r} must be one of {', '.join(tables)}.")
    encoder = Encoder(width, depth, heads, mlp_ratio=share(mlp, width), eps=EPS, qkv_bias=qkv_bias)
    decoder = JointDecoder(
        width,
        decoder_width,
        decoder_depth,
        decoder_heads,
        mlp_ratio=share(decoder_mlp, decoder_width),
        eps=EPS,
        qkv_bias=qkv_bias,
    )
    adapters = {
        name: LinearAdapter(tokenizer, width, decoder_width, position=tables[positions])
        for name, tokenizer in modalities.items()
    }
    model = MaskedModel(modalities, encoder, decoder, adapters)
    return Recipe(model, Reconstruction(Masker(rule, Ratio(ratio), ragged=ragged)), TRAINING)


def share(hidden: int, width: int) -> float:
    """The ratio that a block turns back into exactly this hidden width."""
    return (hidden + 0.5) / width
