"""The transformer blocks that encoders and decoders are made of.

Parameter names follow facebookresearch/mae and timm (`norm1, attn.qkv, attn.proj, norm2, mlp.fc1,
mlp.fc2`), because public weights are written in them.
"""

from collections.abc import Iterator

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

Attend = Bool[Tensor, "b 1 1 s"]  # True where a key may be attended to; broadcast over queries


MAX_DEPTH = 1000  # so that a damaged configuration cannot keep a loader busy for ever


class Attention(nn.Module):
    """Multi-head self-attention through the fused kernel."""

    def __init__(self, width: int, heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "b s w"], attend: Attend | None = None, last: int | None = None
    ) -> Float[Tensor, "b q w"]:
        """With `last=q` only the last q tokens ask, all answer: queries of the rest are skipped."""
        if last is None:
            # chunks, not an unbound axis: their gradients are put together in one copy, not two
            query, key, value = (
                rearrange(part, "b s (h e) -> b h s e", h=self.heads)
                for part in self.qkv(x).chunk(3, dim=-1)
            )
        else:
            width = x.shape[-1]
            weight, bias = self.qkv.weight, self.qkv.bias
            ask = F.linear(
                x[:, x.shape[1] - last :], weight[:width], None if bias is None else bias[:width]
            )
            answer = F.linear(x, weight[width:], None if bias is None else bias[width:])
            query = rearrange(ask, "b s (h e) -> b h s e", h=self.heads)
            key, value = (
                rearrange(part, "b s (h e) -> b h s e", h=self.heads)
                for part in answer.chunk(2, dim=-1)
            )
        mixed = attention(query, key, value, attend)
        return self.proj(rearrange(mixed, "b h s e -> b s (h e)"))


class CrossAttention(nn.Module):
    """Queries from one sequence, keys and values from another."""

    def __init__(self, width: int, heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=qkv_bias)
        self.kv = nn.Linear(width, 2 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "b q w"],
        memory: Float[Tensor, "b s w"],
        attend: Attend | None = None,
    ) -> Float[Tensor, "b q w"]:
        query = rearrange(self.q(x), "b q (h e) -> b h q e", h=self.heads)
        key, value = (
            rearrange(part, "b s (h e) -> b h s e", h=self.heads)
            for part in self.kv(memory).chunk(2, dim=-1)
        )
        mixed = attention(query, key, value, attend)
        return self.proj(rearrange(mixed, "b h q e -> b q (h e)"))


def attention(
    query: Float[Tensor, "b h q e"],
    key: Float[Tensor, "b h s e"],
    value: Float[Tensor, "b h s e"],
    attend: Attend | None,
) -> Float[Tensor, "b h q e"]:
    """Through the fused kernel. In older torch the one for half precision on GPUs refuses a batch
    of no rows, which a modality that nobody has makes; the weights take part all the same."""
    if len(query) == 0:
        return query + key.sum() + value.sum()
    return F.scaled_dot_product_attention(query, key, value, attn_mask=attend)


class Mlp(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "*s w"]) -> Float[Tensor, "*s w"]:
        return self.fc2(F.gelu(self.fc1(x)))


class Scale(nn.Module):
    """A learned factor per channel (layer scale, Touvron et al. 2021)."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), start))

    def forward(self, x: Float[Tensor, "*s w"]) -> Float[Tensor, "*s w"]:
        return x * self.gamma


class DropPath(nn.Module):
    """Drop a residual branch for whole samples while training (stochastic depth)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "b s w"]) -> Float[Tensor, "b s w"]:
        if self.rate == 0 or not self.training:
            return x
        kept = torch.rand(len(x), 1, 1, device=x.device) >= self.rate
        return x * kept / (1 - self.rate)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        eps: float = 1e-6,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, qkv_bias)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.ls1 = Scale(width, layer_scale) if layer_scale is not None else nn.Identity()
        self.ls2 = Scale(width, layer_scale) if layer_scale is not None else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(
        self, x: Float[Tensor, "b s w"], attend: Attend | None = None, last: int | None = None
    ) -> Float[Tensor, "b q w"]:
        """With `last=q` only the last q tokens are computed; the others are only attended to."""
        mixed = self.attn(self.norm1(x), attend, last)
        x = (x if last is None else x[:, x.shape[1] - last :]) + self.drop_path(self.ls1(mixed))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


class CrossBlock(nn.Module):
    """Pre-norm block whose queries attend to a memory, and to each other when `self_attention`."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        eps: float = 1e-6,
        self_attention: bool = False,
    ) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(width, eps=eps) if self_attention else None
        self.self_attn = Attention(width, heads, qkv_bias) if self_attention else None
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.cross_attn = CrossAttention(width, heads, qkv_bias)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(
        self,
        x: Float[Tensor, "b q w"],
        memory: Float[Tensor, "b s w"],
        attend_memory: Attend | None = None,
        attend_self: Bool[Tensor, "b 1 1 q"] | None = None,
    ) -> Float[Tensor, "b q w"]:
        if self.self_attn is not None and self.self_norm is not None:
            x = x + self.self_attn(self.self_norm(x), attend_self)
        x = x + self.cross_attn(self.norm1(x), memory, attend_memory)
        return x + self.mlp(self.norm2(x))


def check_heads(width: int, heads: int, who: str) -> None:
    if heads < 1 or width % heads:
        raise ValueError(f"{who}: width={width} must be a multiple of heads={heads}.")


def check_depth(depth: int, who: str) -> None:
    if not 1 <= depth <= MAX_DEPTH:
        raise ValueError(f"{who}: depth={depth} must be at least 1 and at most {MAX_DEPTH}.")


def check_places(places: str, who: str) -> None:
    if places not in ("once", "every"):
        raise ValueError(f"{who}: places={places!r} must be 'once' or 'every'.")


def drop_rates(last: float, depth: int) -> Iterator[float]:
    """Drop-path rates rising linearly from 0 in the first block to `last` in the last."""
    return (last * index / max(depth - 1, 1) for index in range(depth))


def init_weights(module: nn.Module) -> None:
    """MAE's initialisation: Xavier-uniform linear layers, zero biases, unit norms."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
