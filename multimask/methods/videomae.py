"""VideoMAE: masked autoencoders are data-efficient learners for self-supervised video pre-training
(Tong et al., NeurIPS 2022).

Against MAE: tokens are boxes of space and time, the same nine tenths of the places are hidden in
every time slice (tube masking, counted in tubes), targets are normalised per token and colour, and
there is no class token. Positions are one table over the flat token index.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from multimask.masking import Masker, Ratio, Tube
from multimask.masking.rules import Rule
from multimask.methods.recipe import Recipe
from multimask.modality import HasGrid, Tokenizer
from multimask.model import MaskedModel
from multimask.nn.adapters import LinearAdapter, Target
from multimask.nn.decoders import JointDecoder
from multimask.nn.encoders import Encoder, size
from multimask.objectives import Reconstruction
from multimask.plugins import remembers_arguments
from multimask.tokens import Grid

# AdamW (.9, .95), weight decay .05, 1.5e-4 per 256 clips, 40 of 800 epochs of warm-up
TRAINING = {
    "lr": 1.5e-4,
    "lr_per": 256,
    "betas": (0.9, 0.95),
    "weight_decay": 0.05,
    "warmup": 0.05,
}

DECODERS = {  # width, depth, heads; the paper's four blocks everywhere
    "tiny": (96, 4, 3),
    "small": (192, 4, 3),
    "base": (384, 4, 6),
    "large": (512, 4, 8),
    "huge": (640, 4, 8),
}

# The paper adds 1e-6 to the spread of values in 0..1; ours are divided by ImageNet's std of .225.
TARGET = Target("channel", epsilon=1e-6 / 0.225, epsilon_on="spread")


@remembers_arguments
class IndexSinCos(nn.Module):
    """Fixed positions of the flat token index p: column j holds sine (even j) or cosine (odd j) of
    `p / 10000 ** (2 * (j // 2) / width)`. Not separable in time and space, as published."""

    def __init__(self, tokenizer: Tokenizer, width: int) -> None:
        super().__init__()
        if not isinstance(tokenizer, HasGrid):
            raise ValueError(
                f"IndexSinCos: {type(tokenizer).__name__} has no lattice, so tokens have no order."
            )
        self.width = width
        self.tables: dict[tuple[int, torch.device], Tensor] = {}

    def forward(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        if grid is None:
            raise ValueError("IndexSinCos: these tokens have no lattice.")
        count = int(torch.tensor(grid).prod())
        key = count, slots.device
        if key not in self.tables:
            self.tables = {key: index_table(count, self.width).to(slots.device)}
        return self.tables[key].index_select(0, slots)


def index_table(count: int, width: int) -> Float[Tensor, "n w"]:
    """The table of `IndexSinCos`.

    >>> index_table(2, 2)
    tensor([[0.0000, 1.0000],
            [0.8415, 0.5403]])
    """
    column = torch.arange(width, dtype=torch.float64)
    frequency = 10000.0 ** (-2 * (column // 2) / width)
    angle = torch.arange(count, dtype=torch.float64)[:, None] * frequency
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


def videomae(
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
    rule: Rule = Tube(),  # noqa: B008 - frozen
    normalise: bool = True,
    drop_path: float = 0.0,
    eps: float = 1e-6,
    position: type = IndexSinCos,
) -> Recipe:
    """Build VideoMAE over ready tokenizers with lattices of three axes.

    Args:
        arch: tiny, small, base, large or huge (encoder and decoder); the numbers override it.
        ratio: share of places hidden (the paper's 0.9; 0.75 on UCF101). rule: who is hidden.
        normalise: regress values normalised per token and colour; False regresses plain values.
        eps: of every LayerNorm. position: class of the tokens' places, from `nn.positions`.
    """
    model = masked_model(
        modalities,
        arch,
        (width, depth, heads),
        (decoder_width, decoder_depth, decoder_heads),
        TARGET if normalise else Target(),
        drop_path,
        eps,
        position,
    )
    masker = Masker(rule, Ratio(ratio, "hidden"))
    return Recipe(model, Reconstruction(masker), TRAINING)


Numbers = tuple[int | None, int | None, int | None]  # width, depth, heads; None takes the default


def masked_model(
    modalities: Mapping[str, Tokenizer],
    arch: str,
    encoder: Numbers,
    decoder: Numbers,
    target: Target,
    drop_path: float = 0.0,
    eps: float = 1e-6,
    position: type = IndexSinCos,
) -> MaskedModel:
    """The model of VideoMAE and VideoMAE V2."""
    width, depth, heads = filled(encoder, size(arch))
    decoder_width, decoder_depth, decoder_heads = filled(decoder, DECODERS[arch])
    return MaskedModel(
        modalities,
        Encoder(width, depth, heads, num_globals=0, drop_path=drop_path, eps=eps),
        JointDecoder(
            width,
            decoder_width,
            decoder_depth,
            decoder_heads,
            eps=eps,
            use_globals=False,
            project_bias=False,
        ),
        adapters={
            name: LinearAdapter(
                tokenizer,
                width,
                decoder_width,
                target,
                position,
                decoder_named=len(modalities) > 1,  # the paper's one modality has no name
            )
            for name, tokenizer in modalities.items()
        },
    )


def filled(given: Numbers, default: tuple[int, int, int]) -> tuple[int, ...]:
    return tuple(d if g is None else g for g, d in zip(given, default, strict=True))
