"""Label maps as a modality: classes in, classes out (segmentations, land cover, instance kinds)."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Num, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from multimask.modality import unless_all
from multimask.nn.blocks import init_weights
from multimask.nn.positions import SinCos
from multimask.plugins import remembers_arguments
from multimask.sizes import pair
from multimask.tokens import BadSample, Grid, Part, Tokens

UNKNOWN = -1


@dataclass(frozen=True)
class LabelMaps:
    """Cut maps of class numbers into patches.

    Raw contract: `(height, width)` or `(1, height, width)` whole numbers in 0 .. classes - 1, or
    `ignore` where nothing is known; every sample of the size stated. Tokens hold class numbers, -1
    where nothing is known; one of which nothing is known does not exist. Labels are never
    interpolated: with `stride` the middle pixel of each cell stands for it (MultiMAE reads its maps
    at a quarter of the pictures' size).

    Args: size, patch, stride: pixels of the map. ignore: the number of unknown pixels. numbers: in
    files, of each class, as their reader was told; kept so that whoever has the saved model reads
    files as they were read, not applied here.
    Raises: ValueError for sizes that do not fit; BadSample for other classes, shapes, fractions.

    >>> maps = LabelMaps(classes=3, size=4, patch=2)
    >>> tokens = maps(Part(maps.collate([torch.tensor([[0, 1, 2, 2]] * 4)]), torch.arange(1)))
    >>> tokens.values[0].tolist(), tokens.grid
    ([[0, 1, 0, 1], [2, 2, 2, 2], [0, 1, 0, 1], [2, 2, 2, 2]], (2, 2))
    """

    classes: int
    size: int | tuple[int, int] = 224
    patch: int | tuple[int, int] = 16
    stride: int = 1
    ignore: int = 255
    width: int = 64
    """Numbers that a class is embedded in before it is projected."""
    numbers: tuple[tuple[int, ...], ...] = ()

    coord_dim = 2
    """Places are (row, column) of a patch's centre, in pixels."""

    def __post_init__(self) -> None:
        sides = (*pair(self.size), *pair(self.patch))
        if min(self.classes, self.stride, self.width, *sides) < 1:
            raise ValueError(
                f"LabelMaps: classes={self.classes}, size={self.size}, patch={self.patch}, "
                f"stride={self.stride} and width={self.width} must be at least 1."
            )
        for n, side in zip(pair(self.size), pair(self.patch), strict=True):
            if n % side or side % self.stride:
                raise ValueError(
                    f"LabelMaps: size={self.size} must be a multiple of patch={self.patch}, and "
                    f"that of stride={self.stride}."
                )
        if self.numbers and len(self.numbers) != self.classes:
            raise ValueError(
                f"LabelMaps: numbers={self.numbers} must list those of all {self.classes} classes."
            )
        if 0 <= self.ignore < self.classes:
            raise ValueError(
                f"LabelMaps: ignore={self.ignore} is one of the {self.classes} classes."
            )

    @property
    def cell(self) -> tuple[int, int]:
        """Labels down and across a token."""
        tall, wide = pair(self.patch)
        return tall // self.stride, wide // self.stride

    @property
    def token_dim(self) -> int:
        tall, wide = self.cell
        return tall * wide

    @property
    def grid(self) -> tuple[int, int]:
        (height, width), (tall, wide) = pair(self.size), pair(self.patch)
        return height // tall, width // wide

    @property
    def num_tokens(self) -> int:
        rows, columns = self.grid
        return rows * columns

    def collate(self, items: Sequence[Any]) -> Int[Tensor, "r h w"]:
        """Check each map against the contract; unknown pixels become -1."""
        return torch.stack([self.checked(torch.as_tensor(item)) for item in items])

    def blank(self, count: int) -> Int[Tensor, "r h w"]:
        return torch.zeros(count, *pair(self.size), dtype=torch.long)

    def checked(self, labels: Num[Tensor, "..."]) -> Int[Tensor, "h w"]:
        found = labels[0] if labels.ndim == 3 and len(labels) == 1 else labels
        if tuple(found.shape) != pair(self.size):
            raise BadSample(
                f"LabelMaps: expected a map of {pair(self.size)} pixels, found "
                f"{tuple(labels.shape)}; resize with nearest neighbours when reading."
            )
        whole = found.long()
        if found.is_floating_point() and not torch.equal(whole.to(found.dtype), found):
            raise BadSample(
                "LabelMaps: expected whole class numbers, found fractions; was the map "
                "interpolated?"
            )
        known = whole != self.ignore
        wrong = whole[known & ((whole < 0) | (whole >= self.classes))]
        if len(wrong):
            raise BadSample(
                f"LabelMaps: expected classes 0..{self.classes - 1} or {self.ignore}, found "
                f"{sorted(set(wrong.tolist()))[:5]} in {len(wrong)} pixels."
            )
        return torch.where(known, whole, UNKNOWN)

    def cut(self, maps: Int[Tensor, "r h w"]) -> Int[Tensor, "r n c"]:
        middle = self.stride // 2
        tall, wide = self.cell
        kept = maps[:, middle :: self.stride, middle :: self.stride]
        return rearrange(kept, "r (y tall) (x wide) -> r (y x) (tall wide)", tall=tall, wide=wide)

    def valid(self, part: Part) -> Bool[Tensor, "r n"] | None:
        return self.known(self.cut(part.data))

    def known(self, values: Int[Tensor, "r n c"]) -> Bool[Tensor, "r n"] | None:
        return unless_all((values != UNKNOWN).any(dim=2))

    def __call__(self, part: Part) -> Tokens:
        values = self.cut(part.data)
        tall, wide = pair(self.patch)
        rows, columns = torch.meshgrid(
            *(torch.arange(n, device=values.device) for n in self.grid), indexing="ij"
        )
        places = torch.stack((rows * tall + tall / 2, columns * wide + wide / 2), dim=-1)
        known = self.known(values)
        return Tokens(values, places.flatten(0, 1)[None], part.rows, known, self.grid)

    def untokenize(self, tokens: Tokens) -> Int[Tensor, "r h w"]:
        """Maps of class numbers at full size, `ignore` where nothing is known; with a stride every
        pixel of a cell gets the cell's class."""
        rows, _ = self.grid
        tall, wide = self.cell
        maps = rearrange(
            tokens.values.round().long() if tokens.values.is_floating_point() else tokens.values,
            "r (y x) (tall wide) -> r (y tall) (x wide)",
            y=rows,
            tall=tall,
            wide=wide,
        )
        full = maps.repeat_interleave(self.stride, 1).repeat_interleave(self.stride, 2)
        return torch.where(full == UNKNOWN, self.ignore, full)

    def picture(
        self, tokens: Tokens, shown: Bool[Tensor, " n"] | None = None
    ) -> UInt8[np.ndarray, "h w 3"]:
        """A colour a class; unknown pixels black, tokens not shown mid-grey."""
        labels = self.untokenize(tokens)[0].cpu().numpy()
        drawn = palette(self.classes)[np.where(labels == self.ignore, self.classes, labels)]
        if shown is not None:
            tall, wide = pair(self.patch)
            cells = shown.cpu().numpy().reshape(self.grid)
            drawn[~cells.repeat(tall, 0).repeat(wide, 1)] = 128
        return drawn

    def adapter(self, width: int, decoder_width: int | None) -> nn.Module:
        return LabelAdapter(self, width, decoder_width)

    def adapter_at(
        self, width: int, decoder_width: int | None, position: type, decoder_named: bool
    ) -> nn.Module:
        return LabelAdapter(self, width, decoder_width, position, decoder_named)


def palette(classes: int) -> UInt8[np.ndarray, "k 3"]:
    """Colours as far apart as hues allow, black behind the last class."""
    turns = [(index * 0.618034) % 1 for index in range(classes)]  # the golden section
    colours = [colorsys.hsv_to_rgb(turn, 0.65, 0.95) for turn in turns]
    return np.round(255 * np.array([*colours, (0, 0, 0)])).astype(np.uint8)


@remembers_arguments
class LabelAdapter(nn.Module):
    """Class embedding and a linear layer in, logits for every pixel out, cross-entropy over the
    pixels that are known (MultiMAE, Bachmann et al., ECCV 2022).

    Always in single precision at the way out, as published.
    """

    restoring_leaks = False

    def __init__(
        self,
        tokenizer: LabelMaps,
        width: int,
        decoder_width: int | None,
        position: type = SinCos,
        decoder_named: bool = True,
    ) -> None:
        super().__init__()
        self.classes = tokenizer.classes
        answer_width = width if decoder_width is None else decoder_width
        self.class_emb = nn.Embedding(tokenizer.classes, tokenizer.width)
        self.proj = nn.Linear(tokenizer.token_dim * tokenizer.width, width)
        self.pred = nn.Linear(answer_width, tokenizer.token_dim * tokenizer.classes)
        self.position = position(tokenizer, width)
        self.decoder_position = self.decoder_name = None
        if decoder_width is not None:
            self.decoder_position = position(tokenizer, decoder_width)
            if decoder_named:
                self.decoder_name = nn.Parameter(torch.zeros(decoder_width))
        self.apply(init_weights)
        nn.init.trunc_normal_(self.class_emb.weight, std=0.02)

    def embed(self, values: Num[Tensor, "m c"], coords: Num[Tensor, "m p"]) -> Float[Tensor, "m w"]:
        codes = values.long()
        content = self.class_emb(codes.clamp(min=0)) * (codes >= 0)[..., None]
        return self.proj(content.flatten(1))

    def place(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        return self.position(coords, slots, grid)

    def decoder_place(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        if self.decoder_position is None:
            raise ValueError("LabelAdapter: it was built for a model without a decoder.")
        place = self.decoder_position(coords, slots, grid)
        return place if self.decoder_name is None else place + self.decoder_name

    def predict(self, features: Float[Tensor, "m w"]) -> Float[Tensor, "m o"]:
        """Logits, laid out (pixel, class)."""
        with torch.autocast(features.device.type, enabled=False):
            return self.pred(features.to(self.pred.weight.dtype))

    def error(
        self, prediction: Float[Tensor, "m o"], values: Num[Tensor, "m c"]
    ) -> Float[Tensor, " m"]:
        codes = values.long()
        known = codes >= 0
        logits = rearrange(prediction, "m (c k) -> (m c) k", k=self.classes)
        wrong = F.cross_entropy(logits, codes.clamp(min=0).flatten(), reduction="none")
        wrong = wrong.view(codes.shape) * known
        return wrong.sum(dim=1) / known.sum(dim=1).clamp(min=1)

    def restore(
        self, prediction: Float[Tensor, "m o"], values: Num[Tensor, "m c"]
    ) -> Float[Tensor, "m c"]:
        """The likeliest class of every pixel."""
        logits = rearrange(prediction, "m (c k) -> m c k", k=self.classes)
        return logits.argmax(dim=-1).to(prediction.dtype)

    def probabilities(self, prediction: Float[Tensor, "m o"]) -> Float[Tensor, "m c k"]:
        """What ensembles average: never logits."""
        return rearrange(prediction, "m (c k) -> m c k", k=self.classes).softmax(dim=-1)
