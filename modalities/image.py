"""The image kind: any number of channels, any height and width, cut into 2-D patches."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Num, UInt8
from torch import Tensor
from torch.nn import functional as F

from multimask.modalities.mixing import blended, pasted
from multimask.sizes import pair
from multimask.tokens import BadSample, Part, Tokens

Fit = Literal["error", "crop", "pad"]


@dataclass(frozen=True)
class ImagePatches:
    """Cut pictures into non-overlapping patches.

    Raw contract: `(channels, height, width)`, uint8 in 0..255 or float in 0..1; a batch of equal
    sizes is one tensor. Values are standardised with `mean` and `std` (stated in 0..1, one number
    or one a channel) and laid out (row, column, channel), channels innermost, as in MAE's
    patchify; `untokenize` inverts this exactly up to float rounding.

    Args:
        size: height and width the model is built for; `encode` takes any other size as well.
        patch: height and width of a patch, in pixels.
        fit: what to do with a picture that patches do not fill: "error" says so, "crop" drops the
            rest at the bottom and right, "pad" adds pixels there that repeat the border; a token
            that holds only padding cannot occur.
    Raises: ValueError for sizes that do not fit; BadSample for wrong channels, dtype, NaN.

    >>> tokens = ImagePatches(size=(4, 8), patch=4)(Part(torch.rand(2, 3, 4, 8), torch.arange(2)))
    >>> tokens.values.shape, tokens.grid
    (torch.Size([2, 2, 48]), (1, 2))
    """

    size: int | tuple[int, int] = 224
    patch: int | tuple[int, int] = 16
    channels: int = 3
    mean: float | tuple[float, ...] = 0.5
    std: float | tuple[float, ...] = 0.5
    fit: Fit = "error"

    coord_dim = 2
    """Places are (row, column) of a patch's centre, in pixels."""

    def __post_init__(self) -> None:
        if self.fit not in ("error", "crop", "pad"):
            raise ValueError(f"ImagePatches: fit={self.fit!r} must be 'error', 'crop' or 'pad'.")
        if min(*pair(self.patch), *pair(self.size), self.channels) < 1:
            raise ValueError(
                f"ImagePatches: size={self.size}, patch={self.patch} and channels={self.channels} "
                "must be at least 1."
            )
        for name in ("mean", "std"):
            value = getattr(self, name)
            if not isinstance(value, int | float) and len(value) != self.channels:
                raise ValueError(
                    f"ImagePatches: {name}={value} must be one number or {self.channels}, "
                    "one a channel."
                )
        if min(np.atleast_1d(self.std)) <= 0:
            raise ValueError(f"ImagePatches: std={self.std} must be positive.")
        self.grid_of(*pair(self.size))

    @property
    def box(self) -> tuple[int, int]:
        """Rows and columns of one patch."""
        return pair(self.patch)

    @property
    def token_dim(self) -> int:
        height, width = pair(self.patch)
        return height * width * self.channels

    @property
    def grid(self) -> tuple[int, int]:
        return self.grid_of(*pair(self.size))

    @property
    def num_tokens(self) -> int:
        rows, columns = self.grid
        return rows * columns

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Patches down and across a picture of this size."""
        tall, wide = pair(self.patch)
        if self.fit == "error" and (height % tall or width % wide):
            raise ValueError(
                f"ImagePatches: {height}x{width} pixels are not divisible into {tall}x{wide} "
                "patches; choose another size or patch, or say fit='crop' or fit='pad'."
            )
        if self.fit == "pad":
            return -(-height // tall), -(-width // wide)
        if height < tall or width < wide:
            raise ValueError(
                f"ImagePatches: {height}x{width} pixels are smaller than one {tall}x{wide} patch; "
                "choose a smaller patch, or say fit='pad'."
            )
        return height // tall, width // wide

    def __call__(self, part: Part) -> Tokens:
        images = part.data
        if not isinstance(images, Tensor):
            sizes = sorted({tuple(image.shape[-2:]) for image in images})
            raise ValueError(
                f"ImagePatches: one batch holds pictures of different sizes {sizes[:4]}; training "
                "wants one size (crop or resize when reading), encode takes mixed ones."
            )
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise BadSample(
                f"ImagePatches: expected pictures of {self.channels} channels, "
                f"(samples, {self.channels}, height, width), found {tuple(images.shape)}."
            )
        grid = self.grid_of(*images.shape[-2:])
        pixels = self.fitted(self.standardised(images), grid)
        tall, wide = pair(self.patch)
        values = rearrange(
            pixels, "r c (y tall) (x wide) -> r (y x) (tall wide c)", tall=tall, wide=wide
        )
        rows, columns = torch.meshgrid(
            *(torch.arange(n, device=images.device) for n in grid), indexing="ij"
        )
        places = torch.stack((rows * tall + tall / 2, columns * wide + wide / 2), dim=-1)
        return Tokens(values, places.flatten(0, 1)[None], part.rows, grid=grid)

    def collate(self, items: list[Any]) -> Tensor | list[Tensor]:
        """Check each picture against the contract; stack them when sizes agree."""
        pictures = [self.checked(torch.as_tensor(item)) for item in items]
        if len({picture.dtype for picture in pictures}) > 1:  # 8 and 16 bit in one folder
            pictures = [p.float() / 255 if p.dtype == torch.uint8 else p.float() for p in pictures]
        if len({picture.shape for picture in pictures}) == 1:
            return torch.stack(pictures)
        return pictures

    def blend(self, first: Any, second: Any, share: float) -> Num[Tensor, "c h w"]:
        """Mixup of two pictures; `share` is the first's weight."""
        return blended(torch.as_tensor(first), torch.as_tensor(second), share)

    def paste(
        self, first: Any, second: Any, share: float, generator: torch.Generator
    ) -> tuple[Num[Tensor, "c h w"], float]:
        """CutMix of two pictures, and the share of the first that is left."""
        return pasted(torch.as_tensor(first), torch.as_tensor(second), share, generator)

    def blank(self, count: int) -> Float[Tensor, "r c h w"]:
        """Pictures of nothing, at the tokenizer's own size."""
        return torch.zeros(count, self.channels, *pair(self.size))

    def checked(self, picture: Num[Tensor, "..."]) -> Num[Tensor, "c h w"]:
        if picture.ndim != 3 or picture.shape[0] != self.channels:
            raise BadSample(
                f"ImagePatches: expected a picture of shape ({self.channels}, height, width), "
                f"found {tuple(picture.shape)}; say channels=... or convert it when reading."
            )
        if picture.dtype != torch.uint8 and not picture.is_floating_point():
            raise BadSample(
                f"ImagePatches: expected uint8 in 0..255 or float in 0..1, found {picture.dtype}."
            )
        if picture.is_floating_point() and not picture.isfinite().all():
            count = int((~picture.isfinite()).sum())
            raise BadSample(f"ImagePatches: {count} pixels are NaN or infinite.")
        return picture

    def standardised(self, images: Num[Tensor, "r c h w"]) -> Float[Tensor, "r c h w"]:
        mean, std = self.statistics(images)
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        floats = images if images.is_floating_point() else images.to(mean.dtype)
        # one pass: (x / scale - mean) / std
        return torch.addcmul(-mean / std, floats, 1 / (scale * std))

    def statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std, `(channels or 1, 1, 1)`."""
        dtype = like.dtype if like.is_floating_point() else torch.float32
        made = (
            torch.tensor(np.atleast_1d(x), dtype=dtype, device=like.device)[:, None, None]
            for x in (self.mean, self.std)
        )
        mean, std = made
        return mean, std

    def fitted(
        self, pixels: Float[Tensor, "r c h w"], grid: tuple[int, int]
    ) -> Float[Tensor, "r c tall wide"]:
        tall, wide = (n * side for n, side in zip(grid, pair(self.patch), strict=True))
        if pixels.shape[-2:] == (tall, wide):
            return pixels
        if self.fit == "pad":
            down, right = tall - pixels.shape[-2], wide - pixels.shape[-1]
            return F.pad(pixels, (0, right, 0, down), mode="replicate")
        return pixels[..., :tall, :wide]

    def untokenize(self, tokens: Tokens) -> Float[Tensor, "r c h w"]:
        """Pictures in 0..1, at the size that patches fill."""
        if tokens.grid is None:
            raise ValueError("ImagePatches: these tokens have no lattice.")
        tall, wide = pair(self.patch)
        pixels = rearrange(
            tokens.values,
            "r (y x) (tall wide c) -> r c (y tall) (x wide)",
            y=tokens.grid[0],
            tall=tall,
            wide=wide,
        )
        mean, std = self.statistics(pixels)
        return pixels * std + mean

    def picture(
        self, tokens: Tokens, shown: Bool[Tensor, " n"] | None = None
    ) -> UInt8[np.ndarray, "h w 3"]:
        """One picture in true pixels, 0..255; tokens not shown are mid-grey.

        One channel is drawn grey, two as red and green, more than three by their first three.
        """
        pixels = self.untokenize(tokens)[0].float().cpu()
        if shown is not None:
            tall, wide = pair(self.patch)
            open_cells = shown.cpu().reshape(tokens.grid or ())
            open_pixels = open_cells.repeat_interleave(tall, 0).repeat_interleave(wide, 1)
            pixels = torch.where(open_pixels, pixels, torch.tensor(0.5))
        if len(pixels) == 1:
            pixels = pixels.expand(3, -1, -1)
        elif len(pixels) == 2:
            pixels = torch.cat((pixels, torch.zeros_like(pixels[:1])))
        return rearrange(
            (pixels[:3].clamp(0, 1) * 255).round().to(torch.uint8), "c h w -> h w c"
        ).numpy()
