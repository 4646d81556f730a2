"""Depth maps as a modality: one number a pixel, robustly standardised, holes left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Num, UInt8
from torch import Tensor, nn

from multimask.modalities.image import ImagePatches
from multimask.modality import unless_all
from multimask.nn.adapters import LinearAdapter
from multimask.plugins import remembers_arguments
from multimask.sizes import pair
from multimask.tokens import BadSample, Grid, Part, Tokens

EPSILON = 1e-6

Scale = Literal["sample", "fixed"]


@dataclass(frozen=True)
class DepthMaps:
    """Cut depth maps (or any map of one number a pixel) into patches.

    Raw contract: `(height, width)` or `(1, height, width)` numbers in any unit, every sample of the
    size stated; NaN and the value `hole` mean that nothing is known. A token exists when at least
    half of its pixels do; unknown pixels enter as 0, the middle, and are left out of the error.

    Args:
        scale: "sample" standardises each map by the mean and variance of its known values between
            the tenth and ninetieth percentile (MultiMAE's, for depth known up to scale). These two
            numbers are taken of the whole map, hidden pixels too. "fixed" uses `mean` and `std`,
            in the unit of the input, and `untokenize` then gives that unit back.
        hole: a value that stands for unknown in the files, 0 in most; None for none.
        unit: of numbers in files, as their reader was told: 0.001 for millimetres read as metres.
            Not applied here: kept so that whoever has the saved model reads files as they were
            read.
    Raises: ValueError for sizes that do not fit; BadSample for other shapes and empty maps.

    >>> maps = DepthMaps(size=8, patch=4, scale="fixed", mean=2.0, std=0.5)
    >>> tokens = maps(Part(maps.collate([torch.full((8, 8), 3.0)]), torch.arange(1)))
    >>> tokens.values.shape, tokens.values.unique().tolist()
    (torch.Size([1, 4, 16]), [2.0])
    """

    size: int | tuple[int, int] = 224
    patch: int | tuple[int, int] = 16
    scale: Scale = "sample"
    mean: float = 0.0
    std: float = 1.0
    hole: float | None = 0.0
    unit: float = 1.0

    coord_dim = 2
    """Places are (row, column) of a patch's centre, in pixels."""

    def __post_init__(self) -> None:
        if self.scale not in ("sample", "fixed"):
            raise ValueError(f"DepthMaps: scale={self.scale!r} must be 'sample' or 'fixed'.")
        if min(self.std, self.unit) <= 0:
            raise ValueError(f"DepthMaps: std={self.std} and unit={self.unit} must be positive.")
        _ = self.patches

    @property
    def patches(self) -> ImagePatches:
        """Cuts what is standardised already."""
        return ImagePatches(self.size, self.patch, channels=1, mean=0.0, std=1.0)

    @property
    def token_dim(self) -> int:
        return self.patches.token_dim

    @property
    def grid(self) -> tuple[int, int]:
        return self.patches.grid

    @property
    def num_tokens(self) -> int:
        return self.patches.num_tokens

    def collate(self, items: Sequence[Any]) -> Float[Tensor, "r h w"]:
        """Check each map against the contract; unknown pixels become NaN."""
        return torch.stack([self.checked(torch.as_tensor(item)) for item in items])

    def blank(self, count: int) -> Float[Tensor, "r h w"]:
        """Flat maps; any number does, for it is never read."""
        return torch.full((count, *pair(self.size)), 1.0 if self.hole is None else self.hole + 1.0)

    def checked(self, depth: Num[Tensor, "..."]) -> Float[Tensor, "h w"]:
        found = depth[0] if depth.ndim == 3 and len(depth) == 1 else depth
        if tuple(found.shape) != pair(self.size):
            raise BadSample(
                f"DepthMaps: expected a map of {pair(self.size)} pixels, found "
                f"{tuple(depth.shape)}; crop or resize when reading."
            )
        # half precision is too coarse, and too small, to add up a map in
        values = found.to(torch.promote_types(found.dtype, torch.float32))
        if values.isinf().any():
            raise BadSample("DepthMaps: expected finite numbers or NaN, found infinite ones.")
        if self.hole is not None:
            values = values.masked_fill(values == self.hole, torch.nan)
        if not self.exist(self.cut(values[None])).any():
            raise BadSample("DepthMaps: no patch of the map is known by at least a half.")
        return values

    def cut(self, maps: Float[Tensor, "r h w"]) -> Float[Tensor, "r n c"]:
        tall, wide = pair(self.patch)
        return rearrange(maps, "r (y tall) (x wide) -> r (y x) (tall wide)", tall=tall, wide=wide)

    def exist(self, values: Float[Tensor, "r n c"]) -> Bool[Tensor, "r n"]:
        return (~values.isnan()).to(torch.float32).mean(dim=2) >= 0.5

    def valid(self, part: Part) -> Bool[Tensor, "r n"] | None:
        return unless_all(self.exist(self.cut(part.data)))

    def __call__(self, part: Part) -> Tokens:
        values = self.cut(self.standardised(part.data))
        lattice = self.patches(Part(torch.zeros_like(part.data)[:, None], part.rows))
        return Tokens(values, lattice.coords, part.rows, self.valid(part), self.grid)

    def standardised(self, maps: Float[Tensor, "r h w"]) -> Float[Tensor, "r h w"]:
        if self.scale == "fixed":
            return (maps - self.mean) / self.std
        mean, variance = trimmed(maps.flatten(1))
        return (maps - mean[:, None, None]) / (variance[:, None, None] + EPSILON).sqrt()

    def untokenize(self, tokens: Tokens) -> Float[Tensor, "r h w"]:
        """Maps, NaN where nothing is known: with a fixed scale in the unit of the input, else
        standardised (the scale of a sample is not kept)."""
        tall, wide = pair(self.patch)
        rows, _ = self.grid
        maps = rearrange(
            tokens.values,
            "r (y x) (tall wide) -> r (y tall) (x wide)",
            y=rows,
            tall=tall,
            wide=wide,
        )
        return maps * self.std + self.mean if self.scale == "fixed" else maps

    def picture(
        self, tokens: Tokens, shown: Bool[Tensor, " n"] | None = None
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Near dark, far bright, over two and a half deviations each way; unknown pixels red,
        tokens not shown mid-grey."""
        depth = self.untokenize(tokens)[0].float()
        if self.scale == "fixed":
            depth = (depth - self.mean) / self.std
        unknown = depth.isnan().cpu().numpy()
        level = (255 * (depth.nan_to_num() / 5 + 0.5).clamp(0, 1)).round().to(torch.uint8).cpu()
        drawn = np.repeat(level.numpy()[..., None], 3, axis=2)
        drawn[unknown] = (150, 40, 40)
        if shown is not None:
            tall, wide = pair(self.patch)
            cells = shown.cpu().numpy().reshape(self.grid)
            drawn[~cells.repeat(tall, 0).repeat(wide, 1)] = 128
        return drawn

    def adapter(self, width: int, decoder_width: int | None) -> nn.Module:
        return DepthAdapter(self, width, decoder_width)

    def adapter_at(
        self, width: int, decoder_width: int | None, position: type, decoder_named: bool
    ) -> nn.Module:
        return DepthAdapter(self, width, decoder_width, position, decoder_named)


def trimmed(
    values: Float[Tensor, "r n"], low: float = 0.1, high: float = 0.9
) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"]]:
    """Mean and unbiased variance of each row's known values between two of its percentiles.

    Places count from the sorted known values, `int(low * count)` up to `int(high * count)`, as
    MultiMAE cuts them.
    """
    count = (~values.isnan()).sum(dim=1, keepdim=True)
    ranked = values.sort(dim=1).values  # NaN last
    place = torch.arange(values.shape[1], device=values.device)
    inside = (place >= (low * count).long()) & (place < (high * count).long().clamp(min=1))
    number = inside.sum(dim=1)
    kept = ranked.nan_to_num().where(inside, 0.0)
    mean = kept.sum(dim=1) / number.clamp(min=1)
    spread = (ranked.nan_to_num() - mean[:, None]).square().where(inside, 0.0)
    return mean, spread.sum(dim=1) / (number - 1).clamp(min=1)


@remembers_arguments
class DepthAdapter(nn.Module):
    """Linear in, linear out, mean absolute (MultiMAE) or squared error over the known pixels."""

    restoring_leaks = False

    def __init__(
        self,
        tokenizer: DepthMaps,
        width: int,
        decoder_width: int | None,
        position: type | None = None,
        decoder_named: bool = True,
        loss: Literal["squared", "absolute"] = "absolute",
    ) -> None:
        super().__init__()
        if loss not in ("squared", "absolute"):
            raise ValueError(f"DepthAdapter: loss={loss!r} must be 'squared' or 'absolute'.")
        self.loss = loss
        self.linear = LinearAdapter(
            tokenizer, width, decoder_width, position=position, decoder_named=decoder_named
        )

    def embed(self, values: Num[Tensor, "m c"], coords: Num[Tensor, "m p"]) -> Float[Tensor, "m w"]:
        return self.linear.embed(values.nan_to_num(), coords)

    def place(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        return self.linear.place(coords, slots, grid)

    def decoder_place(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        return self.linear.decoder_place(coords, slots, grid)

    def predict(self, features: Float[Tensor, "m w"]) -> Float[Tensor, "m c"]:
        return self.linear.predict(features)

    def error(
        self, prediction: Float[Tensor, "m c"], values: Num[Tensor, "m c"]
    ) -> Float[Tensor, " m"]:
        known = ~values.isnan()
        exact = torch.promote_types(prediction.dtype, torch.float32)
        off = (prediction.to(exact) - values.to(exact).nan_to_num()) * known
        off = off.abs() if self.loss == "absolute" else off.square()
        return off.sum(dim=1) / known.sum(dim=1).clamp(min=1)

    def restore(
        self, prediction: Float[Tensor, "m c"], values: Num[Tensor, "m c"]
    ) -> Float[Tensor, "m c"]:
        """Answers are in the scale of token values, holes answered too."""
        return prediction
