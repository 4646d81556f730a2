"""The shared encoder: a transformer over visible tokens."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multimask.nn.blocks import (
    Block,
    check_depth,
    check_heads,
    check_places,
    drop_rates,
    init_weights,
)
from multimask.plugins import remembers_arguments
from multimask.tokens import Grid, Latents

SIZES: dict[str, tuple[int, int, int]] = {  # width, depth, heads
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}


def size(name: str) -> tuple[int, int, int]:
    """Width, depth and heads of a named size.

    >>> size("base")
    (768, 12, 12)
    """
    if name not in SIZES:
        raise ValueError(f"size {name!r} is unknown; sizes are {', '.join(SIZES)}.")
    return SIZES[name]


@dataclass(frozen=True)
class Places:
    """Where the tokens that go through an encoder or decoder are.

    position: what the adapters say, `(b, k, w)`. coords: packed and zero-padded to the widest
    modality, `(b, k, p)`. ids: slots of the common axis. valid: which of them exist, None for all.
    slots, grids, edges: each modality's slot range, lattice and graph. shown: where an encoder
    keeps hidden tokens as mask tokens, which of them it saw; None where only such tokens come.
    rows: which samples have each modality that some sample has.
    """

    position: Float[Tensor, "b k w"]
    coords: Float[Tensor, "b k p"]
    ids: Int[Tensor, "b k"]
    valid: Bool[Tensor, "b k"] | None
    slots: dict[str, range]
    grids: dict[str, Grid | None]
    edges: dict[str, Int[Tensor, "2 e"]]
    num_slots: int
    shown: Bool[Tensor, "b k"] | None = None
    rows: dict[str, Int[Tensor, " r"]] = field(default_factory=dict)


@remembers_arguments
class Encoder(nn.Module):
    """Vision-transformer encoder over whatever tokens are visible (ViT, Dosovitskiy et al. 2021;
    token dropping as in MAE, He et al. 2022).

    Args:
        num_globals: class, register or memory tokens; they stand first (`globals_at="first"`) or
            last and are never counted as visible. Their own position is what they learn.
        final_norm: LayerNorm after the last block. eps: of every LayerNorm.
        places: positions are added "once" or before "every" block (Point-MAE).
        keeps_hidden: hidden tokens stay in the sequence as a learned mask token (SimMIM-like);
            the latents then cover every slot.
    """

    def __init__(
        self,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
        mlp_ratio: float = 4.0,
        num_globals: int = 1,
        globals_at: str = "first",
        final_norm: bool = True,
        eps: float = 1e-6,
        qkv_bias: bool = True,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        places: str = "once",
        keeps_hidden: bool = False,
    ) -> None:
        super().__init__()
        check_heads(width, heads, "Encoder")
        if globals_at not in ("first", "last"):
            raise ValueError(f"Encoder: globals_at={globals_at!r} must be 'first' or 'last'.")
        check_depth(depth, "Encoder")
        check_places(places, "Encoder")
        self.width, self.depth, self.heads = width, depth, heads
        self.globals_at, self.places_when = globals_at, places
        self.globals = nn.Parameter(torch.zeros(num_globals, width))
        self.mask_token = nn.Parameter(torch.zeros(width)) if keeps_hidden else None
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio, qkv_bias, eps, layer_scale, rate)
            for rate in drop_rates(drop_path, depth)
        )
        self.norm = nn.LayerNorm(width, eps=eps) if final_norm else nn.Identity()
        self.apply(init_weights)
        nn.init.normal_(self.globals, std=0.02)
        if self.mask_token is not None:
            nn.init.normal_(self.mask_token, std=0.02)

    @property
    def keeps_hidden(self) -> bool:
        return self.mask_token is not None

    def forward(
        self, content: Float[Tensor, "b k w"], places: Places, taps: tuple[int, ...] = ()
    ) -> Latents:
        """`taps` asks for the token states after these blocks (0-based, negative from the end)."""
        wanted = {index % self.depth for index in taps}
        num_globals, first = len(self.globals), self.globals_at == "first"
        start = num_globals if first else 0
        here = slice(start, start + content.shape[1])
        learned = self.globals.expand(len(content), -1, -1).to(content.dtype)
        position = places.position
        if self.places_when == "once":
            content = content + position
        else:
            nowhere = torch.zeros_like(learned)
            position = torch.cat((nowhere, position) if first else (position, nowhere), dim=1)
        x = torch.cat((learned, content) if first else (content, learned), dim=1)
        attend = attendable(places.valid, num_globals, first)
        tapped = []
        for index, block in enumerate(self.blocks):
            x = block(x if self.places_when == "once" else x + position, attend)
            if index in wanted:
                tapped.append(x[:, here])
        x = self.norm(x)
        around = x[:, :start] if first else x[:, here.stop :]
        return Latents(
            x[:, here], places.ids, around, places.num_slots, places.valid, tuple(tapped)
        )


def attendable(
    valid: Bool[Tensor, "b k"] | None, num_globals: int, first: bool
) -> Bool[Tensor, "b 1 1 s"] | None:
    """The attention mask of a padded batch; None keeps the fast kernel."""
    if valid is None:
        return None
    ones = valid.new_ones(len(valid), num_globals)
    whole = torch.cat((ones, valid) if first else (valid, ones), dim=1)
    return whole[:, None, None]
