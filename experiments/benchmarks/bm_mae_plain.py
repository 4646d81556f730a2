"""BM-MAE restated in plain torch from its description: embed everything, gather, decode.

As one would write it down first: what the fast model is held against in numbers and in time.
"""

from collections.abc import Mapping
from typing import Any

import torch
from multimae_plain import at, mixed
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-5


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        size, count, _ = x.shape
        q, k, v = self.qkv(x).view(size, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(mixed(q, k, v))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=EPS), nn.LayerNorm(width, eps=EPS)
        self.attn, self.mlp = Attention(width, heads), Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PlainBMMAE(nn.Module):
    """Contrasts of equal size in the order given; one head for all. Sizes: width, depth, heads,
    hidden width of the MLPs."""

    def __init__(
        self,
        contrasts: tuple[str, ...],
        size: int,
        patch: int,
        encoder: tuple[int, int, int, int],
        decoder: tuple[int, int, int, int],
    ) -> None:
        super().__init__()
        (width, depth, heads, hidden), (inner, layers, many, wide) = encoder, decoder
        self.contrasts, self.patch, tokens = contrasts, patch, (size // patch) ** 3
        self.proj = nn.ModuleDict({n: nn.Conv3d(1, width, patch, patch) for n in contrasts})
        self.pos = nn.Parameter(torch.zeros(1, tokens, width), requires_grad=False)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.embed = nn.Linear(width, inner)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, inner))
        self.names = nn.ParameterDict(
            {n: nn.Parameter(torch.zeros(1, 1, inner)) for n in contrasts}
        )
        self.decoder_pos = nn.Parameter(torch.zeros(1, tokens, inner), requires_grad=False)
        self.decoder_blocks = nn.Sequential(*(Block(inner, many, wide) for _ in range(layers)))
        self.decoder_norm = nn.LayerNorm(inner, eps=EPS)
        self.head = nn.Linear(inner, patch**3)

    def forward(self, scans: Mapping[str, Tensor], visible: Tensor) -> dict[str, Tensor]:
        cut = [self.proj[n](scans[n]).flatten(2).transpose(1, 2) for n in self.contrasts]
        tokens = [part + self.pos for part in cut]
        order = (~visible).to(torch.int8).argsort(dim=1, stable=True)
        keep, restore = order[:, : int(visible[0].sum())], order.argsort(dim=1)
        cls = self.cls_token.expand(len(visible), -1, -1)
        x = self.norm(self.blocks(torch.cat((cls, at(torch.cat(tokens, dim=1), keep)), dim=1)))
        x = self.embed(x)
        hidden = self.mask_token.expand(len(x), restore.shape[1] - keep.shape[1], -1)
        whole = at(torch.cat((x[:, 1:], hidden), dim=1), restore)
        whole = whole + torch.cat([self.decoder_pos + self.names[n] for n in self.contrasts], dim=1)
        whole = self.decoder_blocks(torch.cat((x[:, :1], whole), dim=1))
        answers = self.head(self.decoder_norm(whole))[:, 1:]
        parts = zip(
            self.contrasts,
            answers.chunk(len(self.contrasts), dim=1),
            (~visible).chunk(len(self.contrasts), dim=1),
            strict=True,
        )
        return {n: self.loss(answer, scans[n], asked) for n, answer, asked in parts}

    def loss(self, answer: Tensor, scan: Tensor, asked: Tensor) -> Tensor:
        p = self.patch
        truth = scan.unfold(2, p, p).unfold(3, p, p).unfold(4, p, p).reshape(len(scan), -1, p**3)
        error = (answer - truth).square().mean(dim=2)
        return (error * asked).sum() / asked.sum()


def load_ours(plain: PlainBMMAE, ours: Any) -> None:
    """Copy the weights of a `bm_mae` model whose contrasts share one head."""
    state = dict(ours.state_dict())
    first = f"adapters.{plain.contrasts[0]}"
    p = plain.patch
    made = {
        "pos": state[f"{first}.position.table"][None],
        "decoder_pos": state[f"{first}.decoder_position.table"][None],
        "cls_token": state["encoder.globals"][None],
        "mask_token": state["decoder.mask_token"][None, None],
    }
    for name in plain.contrasts:
        weight = state[f"adapters.{name}.proj.weight"]
        made[f"proj.{name}.weight"] = weight.view(len(weight), 1, p, p, p)
        made[f"proj.{name}.bias"] = state[f"adapters.{name}.proj.bias"]
        made[f"names.{name}"] = state[f"adapters.{name}.decoder_name"][None, None]
    for key, value in state.items():
        for old, new in (
            ("encoder.blocks.", "blocks."),
            ("encoder.norm.", "norm."),
            ("decoder.embed.", "embed."),
            ("decoder.blocks.", "decoder_blocks."),
            ("decoder.norm.", "decoder_norm."),
            (f"{first}.pred.", "head."),
        ):
            if key.startswith(old):
                made[new + key.removeprefix(old)] = value
    plain.load_state_dict(made)
