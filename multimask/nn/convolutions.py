"""A small convolutional network over maps that lie on one lattice, in place of a transformer."""

from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from multimask.nn.encoders import Places
from multimask.plugins import remembers_arguments
from multimask.tokens import Latents

GROUPS = 8  # of every GroupNorm
DILATIONS = (1, 2, 4, 8, 16, 32)


class SafeUAV(nn.Module):
    """The U-Net of SafeUAV (Marcu et al., ECCV workshops 2018), as PHG-MAE uses it: as many
    channels out as in.

    Three stages of three 3x3 convolutions, the last of stride 2, with F, 2F and 4F features; six
    dilated convolutions with 8F, whose outputs are added; three stages up, each joined by what
    its counterpart held before it halved the size; a 1x1 convolution. Odd sizes are cut back on the
    way up. Norms are over groups of 8 features of one sample, not over the batch as published: no
    sample notices what others lack.

    Args: channels: of the maps. features: F, divisible by 8.
    """

    def __init__(self, channels: int, features: int = 16) -> None:
        super().__init__()
        if channels < 1 or features < GROUPS or features % GROUPS:
            raise ValueError(
                f"SafeUAV: channels={channels} must be positive and features={features} divisible "
                f"by {GROUPS}."
            )
        widths = [features * factor for factor in (1, 2, 4)]
        middle = 8 * features
        self.before, self.down = nn.ModuleList(), nn.ModuleList()
        for before, after in pairwise([channels, *widths]):
            self.before.append(nn.Sequential(conv(before, after), conv(after, after)))
            self.down.append(conv(after, after, stride=2))
        self.dilated = nn.ModuleList(
            conv(widths[-1] if step == 0 else middle, middle, dilation=dilation)
            for step, dilation in enumerate(DILATIONS)
        )
        self.up, self.after = nn.ModuleList(), nn.ModuleList()
        for deep, wide in pairwise([middle, *reversed(widths)]):
            self.up.append(nn.ConvTranspose2d(deep, wide, 2, stride=2))
            self.after.append(conv(2 * wide, wide))
        self.out = nn.Conv2d(widths[0], channels, 1)

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        held = []
        x = maps
        for before, down in zip(self.before, self.down, strict=True):
            held.append(before(x))
            x = down(held[-1])
        total = torch.zeros((), device=x.device)
        for layer in self.dilated:
            x = layer(x)
            total = total + x
        x = total
        for up, after in zip(self.up, self.after, strict=True):
            beside = held.pop()
            height, width = beside.shape[-2:]
            x = after(torch.cat((up(x)[..., :height, :width], beside), dim=1))
        return self.out(x)


def conv(before: int, after: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, dilation, dilation, bias=False),
        nn.GroupNorm(GROUPS, after),
        nn.ReLU(inplace=True),
    )


@remembers_arguments
class Embedded(nn.Module):
    """An encoder of no layers: latents are the visible tokens' embeddings, without positions. For
    decoders that are the whole network; what it encodes tells no more than the tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.depth = width, 0

    def forward(
        self, content: Float[Tensor, "b k w"], places: Places, taps: tuple[int, ...] = ()
    ) -> Latents:
        if taps:
            raise ValueError("Embedded: it has no layers to tap.")
        none = content.new_zeros(len(content), 0, self.width)
        return Latents(content, places.ids, none, places.num_slots, places.valid)


@remembers_arguments
class ConvDecoder(nn.Module):
    """`SafeUAV` over all modalities stacked, `width` channels each; what is not visible is zero.

    All modalities must lie on one lattice (rows, columns): one pixel a token is the published form,
    patches make it coarser. Zero is nothing else's embedding, for embeddings have a bias.

    Args: modalities: how many. width: of an embedding. features: of `SafeUAV`.
    """

    def __init__(self, modalities: int, width: int = 16, features: int = 16) -> None:
        super().__init__()
        self.width = width
        self.net = SafeUAV(modalities * width, features)

    def forward(self, latents: Latents, visible: Places, decoded: Places) -> Float[Tensor, "b d w"]:
        height, _ = one_lattice(visible)
        seen = latents.tokens
        if latents.valid is not None:
            seen = seen * latents.valid[..., None]
        every = latents.ids[..., None].expand_as(seen)
        blank = seen.new_zeros(len(seen), visible.num_slots, self.width)
        maps = rearrange(
            blank.scatter(1, every, seen),
            "b (m h w) c -> b (m c) h w",
            m=len(visible.slots),
            h=height,
        )
        answers = rearrange(self.net(maps), "b (m c) h w -> b (m h w) c", c=self.width)
        return answers.gather(1, decoded.ids[..., None].expand(-1, -1, self.width))


def one_lattice(places: Places) -> tuple[int, int]:
    """(rows, columns) of all modalities. Raises: ValueError where they differ."""
    grids = {name: places.grids.get(name) for name in places.slots}
    found = set(grids.values())
    grid = next(iter(found), None)
    if len(found) != 1 or grid is None or len(grid) != 2:
        told = ", ".join(f"{name} {grid}" for name, grid in grids.items())
        raise ValueError(f"ConvDecoder: modalities need one lattice of rows and columns: {told}.")
    return grid[0], grid[1]
