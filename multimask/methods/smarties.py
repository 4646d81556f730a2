"""SMARTIES: spectrum-aware masked pre-training across sensors (Sumbul et al., ICCV 2025).

Against MAE: a location's token is the sum of its bands, each through the projection of its
wavelength range; answers go through a head a range; two co-located pictures of two sensors are
trained together with half of their tokens swapped at random.
Not copied: each sensor has projections of its own for its bands, a token's place also tells the
wavelengths of its bands, and weights of unseen bands go by closeness (the released rule by distance
is `closeness="as-released"` of the adapter). The released code decays learning rates by layer.
"""

from collections.abc import Mapping

from multimask.methods.mae import TRAINING as MAE
from multimask.methods.recipe import Recipe
from multimask.modality import Tokenizer
from multimask.model import MaskedModel
from multimask.nn.adapters import Target
from multimask.nn.decoders import JointDecoder
from multimask.nn.encoders import Encoder, size
from multimask.objectives.mixup import CrossSensorMixup
from multimask.plugins import load

# AdamW (.9, .95), weight decay .05, 1.5e-4 per 256 pairs, 20 of 300 epochs of warm-up
TRAINING = MAE | {"warmup": 20 / 300}


def smarties(
    modalities: Mapping[str, Tokenizer],
    *,
    arch: str = "base",
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    decoder_width: int = 512,
    decoder_depth: int = 8,
    decoder_heads: int = 16,
    ratio: float = 0.75,
    swap: float = 0.5,
    symmetric: bool = True,
    normalise: bool = True,
) -> Recipe:
    """Build SMARTIES over two ready tokenizers, one a sensor, that make one token a location (all
    of a sensor's bands in a group) on the same lattice.

    Args:
        ratio: share of locations hidden. swap, symmetric: of `CrossSensorMixup`.
        normalise: regress values normalised per location over bands and pixels together.
    """
    if len(modalities) != 2:
        raise ValueError(
            f"smarties: expected two sensors, found {', '.join(modalities) or 'none'}."
        )
    default_width, default_depth, default_heads = size(arch)
    encoder = Encoder(width or default_width, depth or default_depth, heads or default_heads)
    target = Target("patch" if normalise else "none")
    of_bands = load("parts", "spectral-adapter")
    adapters = {
        name: of_bands(tokenizer, encoder.width, decoder_width, target, "bands")
        for name, tokenizer in modalities.items()
    }
    decoder = JointDecoder(encoder.width, decoder_width, decoder_depth, decoder_heads)
    model = MaskedModel(modalities, encoder, decoder, adapters)
    first, second = modalities
    return Recipe(model, CrossSensorMixup((first, second), ratio, swap, symmetric), TRAINING)
