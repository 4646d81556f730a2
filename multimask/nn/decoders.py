"""Decoders: from the latents of visible tokens to features of the decoded ones."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from multimask.nn.blocks import (
    Block,
    CrossBlock,
    check_depth,
    check_heads,
    check_places,
    drop_rates,
    init_weights,
)
from multimask.nn.encoders import Places
from multimask.plugins import remembers_arguments
from multimask.tokens import Latents


@remembers_arguments
class JointDecoder(nn.Module):
    """MAE's decoder (He et al. 2022): latents and mask tokens in one self-attention.

    The last block, norm and everything behind it are computed for decoded tokens only.
    Args: encoder_width, of the latents that come in; use_globals, whether the encoder's global
    tokens take part; places, positions are added "once" or before "every" block (Point-MAE);
    project, whether latents pass a linear layer first (without one the widths must agree);
    project_bias, whether that layer has a bias.
    """

    def __init__(
        self,
        encoder_width: int,
        width: int = 512,
        depth: int = 8,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        eps: float = 1e-6,
        qkv_bias: bool = True,
        use_globals: bool = True,
        places: str = "once",
        drop_path: float = 0.0,
        project: bool = True,
        project_bias: bool = True,
    ) -> None:
        super().__init__()
        check_heads(width, heads, "JointDecoder")
        check_depth(depth, "JointDecoder")
        check_places(places, "JointDecoder")
        if not project and width != encoder_width:
            raise ValueError(
                f"JointDecoder: project=False needs equal widths, but the encoder has "
                f"{encoder_width} and the decoder {width}."
            )
        self.width, self.depth, self.use_globals = width, depth, use_globals
        self.places_when = places
        self.embed = nn.Linear(encoder_width, width, project_bias) if project else nn.Identity()
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio, qkv_bias, eps, drop_path=rate)
            for rate in drop_rates(drop_path, depth)
        )
        self.norm = nn.LayerNorm(width, eps=eps)
        self.apply(init_weights)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, latents: Latents, visible: Places, decoded: Places) -> Float[Tensor, "b d w"]:
        tokens = latents.tokens
        num_globals = latents.globals.shape[1] if self.use_globals else 0
        if num_globals:
            tokens = torch.cat((latents.globals, tokens), dim=1)
        known = self.embed(tokens)
        nowhere = known.new_zeros(len(known), num_globals, self.width)
        position = torch.cat((nowhere, visible.position, decoded.position), dim=1)
        num_decoded = decoded.position.shape[1]
        hidden = self.mask_token.expand(len(known), num_decoded, -1).to(known.dtype)
        x = torch.cat((known, hidden), dim=1)
        attend = joint_attendable(latents, visible, decoded, num_globals)
        for index, block in enumerate(self.blocks):
            if index == 0 or self.places_when == "every":
                x = x + position
            x = block(x, attend, last=num_decoded if index == self.depth - 1 else None)
        return self.norm(x)


def joint_attendable(
    latents: Latents, visible: Places, decoded: Places, num_globals: int
) -> Tensor | None:
    """Which of [globals, visible, decoded] may be attended to; None when all may."""
    if visible.valid is None and decoded.valid is None:
        return None
    ones = torch.ones_like(latents.ids, dtype=torch.bool)
    parts = (
        ones.new_ones(len(ones), num_globals),
        ones if visible.valid is None else visible.valid,
        torch.ones_like(decoded.ids, dtype=torch.bool) if decoded.valid is None else decoded.valid,
    )
    return torch.cat(parts, dim=1)[:, None, None]


@remembers_arguments
class HiddenDecoder(nn.Module):
    """Only the decoded tokens pass through: they cross-attend to the latents (CAE's regressor,
    Chen et al. 2022; CrossMAE, Fu et al. 2024), and to each other when `self_attention`.

    Cost grows with d times k instead of the square of d + k.
    """

    def __init__(
        self,
        encoder_width: int,
        width: int = 512,
        depth: int = 8,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        eps: float = 1e-6,
        qkv_bias: bool = True,
        use_globals: bool = True,
        self_attention: bool = False,
    ) -> None:
        super().__init__()
        check_heads(width, heads, "HiddenDecoder")
        check_depth(depth, "HiddenDecoder")
        self.width, self.depth, self.use_globals = width, depth, use_globals
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.memory_norm = nn.LayerNorm(width, eps=eps)
        self.blocks = nn.ModuleList(
            CrossBlock(width, heads, mlp_ratio, qkv_bias, eps, self_attention) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=eps)
        self.apply(init_weights)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, latents: Latents, visible: Places, decoded: Places) -> Float[Tensor, "b d w"]:
        memory = self.embed(latents.tokens) + visible.position
        if self.use_globals and latents.globals.shape[1]:
            memory = torch.cat((self.embed(latents.globals), memory), dim=1)
        memory = self.memory_norm(memory)
        attend_memory = None
        if visible.valid is not None:
            ones = visible.valid.new_ones(len(memory), memory.shape[1] - visible.valid.shape[1])
            attend_memory = torch.cat((ones, visible.valid), dim=1)[:, None, None]
        attend_self = None if decoded.valid is None else decoded.valid[:, None, None]
        x = decoded.position + self.mask_token
        for block in self.blocks:
            x = block(x, memory, attend_memory, attend_self)
        return self.norm(x)
