"""From token values to the numbers of picture, label, depth and band files."""

from dataclasses import dataclass
from math import nan
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Num
from torch import Tensor

from multimask.datasets.formats.depth_maps import DepthMapReader
from multimask.datasets.formats.images import ImageReader
from multimask.datasets.formats.label_maps import LabelMapReader, unknown_number
from multimask.datasets.formats.raster_write import RasterFormat
from multimask.datasets.formats.spectral import SpectralReader
from multimask.modalities.depth_maps import DepthMaps
from multimask.modalities.image import ImagePatches
from multimask.modalities.label_maps import LabelMaps
from multimask.modalities.spectral import SpectralPatches
from multimask.sizes import pair
from multimask.tokens import Tokens


@runtime_checkable
class Numbers(Protocol):
    """From token values to the numbers of files, NaN where nothing is known.

    mixed: they may be interpolated. outside: what stands where a sample shows nothing. unknown:
    what stands for NaN in whole numbers. per_unit: a standardised number in the `unit`'s."""

    @property
    def mixed(self) -> bool: ...
    @property
    def unit(self) -> str: ...
    @property
    def outside(self) -> float: ...
    @property
    def unknown(self) -> float: ...
    @property
    def per_unit(self) -> float: ...
    def shown(self, tokens: Tokens) -> Float[Tensor, "c h w"]: ...
    def grid(self) -> tuple[int, int, int]: ...
    def patch(self) -> tuple[int, int]: ...
    def stored(
        self, numbers: Num[np.ndarray, "c h w"], like: RasterFormat
    ) -> Num[np.ndarray, "c h w"]: ...


@dataclass(frozen=True)
class Pictures:
    """In files whole numbers count from 0 to full brightness."""

    tokenizer: ImagePatches
    reader: ImageReader

    mixed = True
    outside = 0.0  # pictures have no way to say unknown: black
    unit = "brightness, 1 is full"
    unknown = 0.0

    @property
    def per_unit(self) -> float:
        return float(np.mean(self.tokenizer.std))

    def grid(self) -> tuple[int, int, int]:
        return (1, *self.tokenizer.grid)

    def patch(self) -> tuple[int, int]:
        return pair(self.tokenizer.patch)

    def shown(self, tokens: Tokens) -> Float[Tensor, "c h w"]:
        return self.tokenizer.untokenize(tokens)[0].float()

    def stored(
        self, numbers: Num[np.ndarray, "c h w"], like: RasterFormat
    ) -> Num[np.ndarray, "c h w"]:
        if not like.whole:
            return numbers
        white = 255 if like.dtype == "u1" else self.reader.white or 65535
        return numbers.clip(0, 1) * white


@dataclass(frozen=True)
class Labels:
    tokenizer: LabelMaps
    reader: LabelMapReader

    mixed = False
    outside = nan
    unit = "probability of the class that was answered"
    per_unit = 1.0

    @property
    def unknown(self) -> float:
        reader = self.reader
        return float(
            unknown_number(reader.numbers, reader.ignore) if reader.numbers else reader.ignore
        )

    def grid(self) -> tuple[int, int, int]:
        return (1, *self.tokenizer.grid)

    def patch(self) -> tuple[int, int]:
        return pair(self.tokenizer.patch)

    def shown(self, tokens: Tokens) -> Float[Tensor, "c h w"]:
        labels = self.tokenizer.untokenize(tokens)[0]
        return labels.double().masked_fill(labels == self.tokenizer.ignore, nan)[None]

    def stored(
        self, numbers: Num[np.ndarray, "c h w"], like: RasterFormat
    ) -> Num[np.ndarray, "c h w"]:
        known = ~np.isnan(numbers)
        classes = np.where(known, numbers, 0).astype(np.int64)
        return np.where(known, self.reader.in_file_numbers(classes[0])[None], np.nan)


@dataclass(frozen=True)
class Depths:
    """level: (mean, std) that standardised maps are laid on, in the tokenizer's unit."""

    tokenizer: DepthMaps
    reader: DepthMapReader
    level: tuple[float, float]

    mixed = True
    outside = nan
    unit = "the files' numbers"

    @property
    def unknown(self) -> float:
        return 0.0 if self.reader.hole is None else self.reader.hole

    @property
    def per_unit(self) -> float:
        return self.level[1] / self.reader.unit

    def grid(self) -> tuple[int, int, int]:
        return (1, *self.tokenizer.grid)

    def patch(self) -> tuple[int, int]:
        return pair(self.tokenizer.patch)

    def shown(self, tokens: Tokens) -> Float[Tensor, "c h w"]:
        depth = self.tokenizer.untokenize(tokens).double()
        if self.tokenizer.scale == "sample":
            depth = depth * self.level[1] + self.level[0]
        return depth

    def stored(
        self, numbers: Num[np.ndarray, "c h w"], like: RasterFormat
    ) -> Num[np.ndarray, "c h w"]:
        return numbers / self.reader.unit


@dataclass(frozen=True)
class Cubes:
    tokenizer: SpectralPatches
    reader: SpectralReader

    mixed = True
    outside = nan
    unit = "the files' numbers, mean over bands"

    @property
    def unknown(self) -> float:
        return 0.0 if self.reader.nodata is None else self.reader.nodata

    @property
    def per_unit(self) -> float:
        return float(np.mean(self.tokenizer.std)) / self.reader.scale

    def grid(self) -> tuple[int, int, int]:
        return self.tokenizer.grid

    def patch(self) -> tuple[int, int]:
        return pair(self.tokenizer.patch)

    def shown(self, tokens: Tokens) -> Float[Tensor, "c h w"]:
        tall, wide = pair(self.tokenizer.size)
        known = len(self.tokenizer.wavelengths) + len(self.tokenizer.names)
        return self.tokenizer.untokenize(tokens)["pixels"][0, :known, :tall, :wide].double()

    def stored(
        self, numbers: Num[np.ndarray, "c h w"], like: RasterFormat
    ) -> Num[np.ndarray, "c h w"]:
        return (numbers - self.reader.offset) / self.reader.scale
