"""Who is hidden in a cube, beyond noise: whole channels and patches, drawn anew per sample."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from multimask.masking.budgets import num_visible
from multimask.masking.context import Context


@dataclass(frozen=True)
class ChannelPatch:
    """Dynamic channel-patch masking (ChA-MAEViT, Pham et al., NeurIPS 2025).

    Each sample draws one of three ways: patches only (chance `patch`), channels only (`channel`),
    else both. Hiding patches keeps the share `1 - ratio` of each channel's patches, each channel
    its own; hiding channels takes k of the sample's channels away, k uniform on 0 .. channels - 1,
    so at least one stays. The published presets are `ChannelPatch(0.5, 0.5, 0.75)` ("alternate")
    and `ChannelPatch(0.0, 0.0, 0.25)` ("combination"). As published for unequal channel sets, each
    sample draws by itself (with equal sets the released code hides the same channels in the whole
    batch).

    The number of visible tokens varies: use it with `Natural`. Under a fixed count the tokens
    chosen here come first and others fill up. A channel is a lattice's first axis; tokens that do
    not exist are not counted.
    """

    patch: float = 0.5
    channel: float = 0.5
    ratio: float = 0.75

    natural = True

    def __post_init__(self) -> None:
        if min(self.patch, self.channel) < 0 or self.patch + self.channel > 1:
            raise ValueError(
                f"ChannelPatch: patch={self.patch} and channel={self.channel} are chances and "
                "must not exceed 1 together."
            )
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ChannelPatch: ratio={self.ratio} must lie in [0, 1).")

    def __call__(
        self, exists: Bool[Tensor, "b n"], generators: list[Generator], context: Context
    ) -> Float[Tensor, "b n"]:
        scores = torch.empty(exists.shape)
        alive = exists.cpu()
        for row, generator in enumerate(generators):
            for name, where in context.slots.items():
                grid = context.grid(name, needed_by="ChannelPatch")
                there = alive[row, where.start : where.stop].view(grid[0], -1)
                drawn = self.draw(there, generator)
                scores[row, where.start : where.stop] = drawn.flatten()
        return scores.to(exists.device)

    def draw(self, there: Bool[Tensor, "c n"], generator: Generator) -> Float[Tensor, "c n"]:
        """Scores of one sample's channels and patches: below 1 visible, else hidden."""
        noise = torch.rand(there.shape, generator=generator)
        way = float(torch.rand((), generator=generator))
        order = torch.rand(len(there), generator=generator)
        share = float(torch.rand((), generator=generator))
        hidden = ~there
        if not self.patch <= way < self.patch + self.channel:
            counts = there.sum(dim=1)
            keep = torch.tensor([num_visible(n, self.ratio) if n else 0 for n in counts.tolist()])
            rank = noise.masked_fill(~there, torch.inf).argsort(dim=1).argsort(dim=1)
            hidden = hidden | (rank >= keep[:, None])
        if way >= self.patch:
            channels = there.any(dim=1)
            num_hidden = int(share * int(channels.sum()))
            last = order.masked_fill(~channels, torch.inf).argsort()[:num_hidden]
            hidden = hidden.index_fill(0, last, True)
        return noise + hidden
