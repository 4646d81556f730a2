"""MultiMAE restated in plain torch from its description: embed everything, gather, decode.

Written in the names of the published weights, as one would write it down first: what the fast model
is held against, in numbers (tests) and in time (`multimodal_step.py`).
"""

from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-6


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (t h d) -> t b h n d", t=3, h=self.heads)
        return self.proj(mixed(q, k, v))


class CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q = rearrange(self.q(x), "b n (h d) -> b h n d", h=self.heads)
        k, v = rearrange(self.kv(context), "b n (t h d) -> t b h n d", t=2, h=self.heads)
        return self.proj(mixed(q, k, v))


def mixed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
    return rearrange(weights @ v, "b h n d -> b n (h d)")


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=EPS), nn.LayerNorm(width, eps=EPS)
        self.attn, self.mlp = Attention(width, heads), Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Input(nn.Module):
    """Pixels or classes to tokens with their positions."""

    def __init__(self, channels: int, patch: int, side: int, width: int, classes: int) -> None:
        super().__init__()
        self.class_emb = nn.Embedding(classes, 64) if classes else None
        self.proj = nn.Conv2d(64 if classes else channels, width, patch, patch)
        self.pos_emb = nn.Parameter(torch.zeros(1, width, side, side), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.class_emb is not None:
            x = rearrange(self.class_emb(x), "b h w c -> b c h w")
        return rearrange(self.proj(x) + self.pos_emb, "b c h w -> b (h w) c")


class Output(nn.Module):
    def __init__(
        self, task: str, tasks: list[str], sizes: tuple[int, int, int, int], side: int, out: int
    ) -> None:
        super().__init__()
        encoder_width, width, depth, heads = sizes
        self.task, self.names = task, tasks
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_emb = nn.Parameter(torch.zeros(1, width, side, side), requires_grad=False)
        self.task_embeddings = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(1, 1, width)) for name in tasks}
        )
        self.proj_context = nn.Linear(encoder_width, width)
        self.decoder, self.mlp = CrossAttention(width, heads), Mlp(width)
        self.query_norm = nn.LayerNorm(width, eps=EPS)
        self.context_norm = nn.LayerNorm(width, eps=EPS)
        self.out_norm = nn.LayerNorm(width, eps=EPS)
        self.decoder_transformer = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.out_proj = nn.Linear(width, out)

    def forward(self, tokens: Tensor, keep: Tensor, restore: Tensor) -> Tensor:
        known = self.proj_context(tokens)
        known, last = known[:, :-1], known[:, -1:]
        hidden = self.mask_token.expand(len(known), restore.shape[1] - known.shape[1], -1)
        whole = at(torch.cat((known, hidden), dim=1), restore)
        places = rearrange(self.pos_emb, "b c h w -> b (h w) c")
        whole = whole + torch.cat([places + self.task_embeddings[n] for n in self.names], dim=1)
        start = self.names.index(self.task) * places.shape[1]
        query = whole[:, start : start + places.shape[1]]
        context = torch.cat((at(whole, keep), last), dim=1)
        x = self.decoder(self.query_norm(query), self.context_norm(context))
        x = x + self.mlp(self.out_norm(x))
        return self.out_proj(self.decoder_transformer(x))


def at(x: Tensor, ids: Tensor) -> Tensor:
    return x.gather(1, ids[..., None].expand(-1, -1, x.shape[-1]))


class PlainMultiMAE(nn.Module):
    """Maps of equal lattices by name, in the order of `inputs`: channels, or minus the classes."""

    def __init__(
        self,
        inputs: Mapping[str, int],
        size: int,
        patch: int,
        stride: int,
        encoder: tuple[int, int, int],
        decoder: tuple[int, int, int],
        normed: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        width, depth, heads = encoder
        self.inputs, self.patch, self.cell, side = inputs, patch, patch // stride, size // patch
        self.global_tokens = nn.Parameter(torch.zeros(1, 1, width))
        self.input_adapters = nn.ModuleDict(
            {
                name: Input(n, patch if n > 0 else self.cell, side, width, max(0, -n))
                for name, n in inputs.items()
            }
        )
        self.encoder = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        sources = {**{name: name for name in inputs}, **{f"norm_{n}": n for n in normed}}
        self.output_adapters = nn.ModuleDict(
            {
                name: Output(task, list(inputs), (width, *decoder), side, self.numbers(task))
                for name, task in sources.items()
            }
        )

    def numbers(self, name: str) -> int:
        n = self.inputs[name]
        return n * self.patch**2 if n > 0 else -n * self.cell**2

    def forward(self, maps: Mapping[str, Tensor], visible: Tensor) -> dict[str, Tensor]:
        """Losses by output; `visible (b, n)` over the inputs in their order."""
        tokens = torch.cat([self.input_adapters[n](maps[n]) for n in self.inputs], dim=1)
        order = (~visible).to(torch.int8).argsort(dim=1, stable=True)
        keep, restore = order[:, : int(visible[0].sum())], order.argsort(dim=1)
        last = self.global_tokens.expand(len(tokens), -1, -1)
        encoded = self.encoder(torch.cat((at(tokens, keep), last), dim=1))
        hidden = dict(zip(self.inputs, (~visible).chunk(len(self.inputs), dim=1), strict=True))
        return {
            name: self.loss(name, output(encoded, keep, restore), maps, hidden)
            for name, output in self.output_adapters.items()
        }

    def loss(
        self, name: str, answer: Tensor, maps: Mapping[str, Tensor], hidden: Mapping[str, Tensor]
    ) -> Tensor:
        task = name.removeprefix("norm_")
        labels = self.inputs[task] < 0
        side = self.cell if labels else self.patch
        shape = {"ph": side, "pw": side}
        if labels:
            answer = rearrange(answer, "b n (c ph pw) -> b c n (ph pw)", **shape)
            truth = rearrange(maps[task], "b (h ph) (w pw) -> b (h w) (ph pw)", **shape)
            error = F.cross_entropy(answer, truth, reduction="none").mean(dim=2)
        else:
            truth = rearrange(maps[task], "b c (h ph) (w pw) -> b (h w) (c ph pw)", **shape)
            if name != task:
                mean, var = truth.mean(2, keepdim=True), truth.var(2, keepdim=True)
                truth = (truth - mean) / (var + EPS).sqrt()
            off = answer - truth
            error = (off.abs() if task == "depth" else off.square()).mean(dim=2)
        counts = hidden[task].sum(dim=1)
        return ((error * hidden[task]).sum(dim=1) / counts).nanmean()
