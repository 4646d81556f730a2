"""BM-MAE: multimodal masked autoencoder for 3-D brain MRI with missing modalities (Robinet et al.,
2025).

A 3-D MAE whose tokenizers, one a contrast, share an encoder and one decoder; z-scored voxels are
the targets. How many tokens each contrast keeps is drawn from a Dirichlet distribution over the
contrasts that a brain has, with one exact total. Differs from the paper: rounding is repaired by
systematic sampling, every contrast has a head of its own, and the decoder has no dropout (theirs
0.1).
"""

from collections.abc import Mapping

from multimask.masking import Dirichlet, Masker, Ratio, Uniform
from multimask.methods.monai_mae import EPS, share
from multimask.methods.recipe import Recipe
from multimask.modality import Tokenizer
from multimask.model import MaskedModel
from multimask.nn.adapters import LinearAdapter
from multimask.nn.decoders import JointDecoder
from multimask.nn.encoders import Encoder
from multimask.nn.position_tables import StoredSinCos
from multimask.objectives import Reconstruction

# AdamW, 6 volumes a step, 50 of 1000 epochs of warm-up
TRAINING = {"lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": 0.05, "warmup": 0.05}


def bm_mae(
    modalities: Mapping[str, Tokenizer],
    *,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    mlp: int = 1536,
    decoder_width: int = 384,
    decoder_depth: int = 3,
    decoder_heads: int = 12,
    decoder_mlp: int = 1536,
    ratio: float = 0.75,
    alpha: float | Mapping[str, float] = 1.0,
    masker: Masker | None = None,
) -> Recipe:
    """Build it over ready tokenizers, one a contrast (the paper: 128^3 voxels, patches of 16^3,
    names t1, t1ce, t2, flair). mlp, decoder_mlp: hidden widths of the MLPs. alpha: of `Dirichlet`.
    masker: another one altogether."""
    encoder = Encoder(width, depth, heads, mlp_ratio=share(mlp, width), eps=EPS)
    decoder = JointDecoder(
        width,
        decoder_width,
        decoder_depth,
        decoder_heads,
        mlp_ratio=share(decoder_mlp, decoder_width),
        eps=EPS,
    )
    adapters = {
        name: LinearAdapter(tokenizer, width, decoder_width, position=StoredSinCos)
        for name, tokenizer in modalities.items()
    }
    model = MaskedModel(modalities, encoder, decoder, adapters)
    objective = Reconstruction(masker or Masker(Uniform(), Dirichlet(Ratio(ratio), alpha)))
    return Recipe(model, objective, TRAINING)
