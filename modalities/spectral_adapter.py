"""What turns spectral tokens into width and back: wavelengths are an input, not an index."""

import math
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn

from multimask.modalities.spectral import SpectralPatches
from multimask.modalities.spectral_projections import (
    BandProjections,
    Closeness,
    SharedProjection,
    split_coords,
)
from multimask.nn.adapters import Target
from multimask.nn.blocks import init_weights
from multimask.nn.positions import cached_sincos
from multimask.plugins import remembers_arguments
from multimask.tokens import Grid

SHORTEST, LONGEST = 0.25, 32.0  # octaves of wavelength per turn: 20 nm at 842 nm are a tenth


def wavelength_features(nm: Float[Tensor, "*s"], frequencies: int) -> Float[Tensor, "*s two_f"]:
    """Sines and cosines of the wavelength's octave, `log2(nm / 1000)`: relative distance counts, as
    features of spectra widen with wavelength. Turns last from 32 octaves down to a quarter."""
    steps = torch.linspace(0, 1, frequencies, device=nm.device)
    turns = 1 / (LONGEST * (SHORTEST / LONGEST) ** steps)
    angles = 2 * math.pi * torch.log2(nm.clamp(min=1.0) / 1000)[..., None] * turns
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


@remembers_arguments
class BandPosition(nn.Module):
    """Where a token is in the picture and in the spectrum: a fixed sin-cos table of its row and
    column, plus a linear layer of its bands' wavelengths, or a learned vector a named channel.

    The wavelength enters as a number, so bands never seen in training have a place too. Several
    bands of one token are averaged. Named vectors start orthogonal (DiChaViT, Pham et al. 2024).
    """

    def __init__(self, tokenizer: SpectralPatches, width: int, frequencies: int = 16) -> None:
        super().__init__()
        self.group, self.width, self.frequencies = tokenizer.group, width, frequencies
        self.octave = nn.Linear(2 * frequencies, width)
        self.channel = None  # every weight has a part in every step
        if tokenizer.names:
            self.channel = nn.Parameter(torch.empty(len(tokenizer.names), width))
            nn.init.orthogonal_(self.channel)

    def forward(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        if grid is None or len(grid) != 3:
            raise ValueError(
                f"BandPosition: expected a lattice (groups, rows, columns), not {grid}."
            )
        table = cached_sincos(grid[1:], self.width, slots.device)
        return table.index_select(0, slots % (grid[1] * grid[2])) + self.spectrum(coords)

    def spectrum(self, coords: Num[Tensor, "m p"]) -> Float[Tensor, "m w"]:
        nm, channels = split_coords(coords, self.group)
        has_nm, named = (nm > 0).float(), (channels >= 0).float()
        count = (has_nm + named).sum(dim=1, keepdim=True).clamp(min=1)
        features = wavelength_features(nm, self.frequencies) * has_nm[..., None]
        features = (features.sum(dim=1) / count).to(self.octave.weight.dtype)
        place = self.octave(features) * (has_nm.sum(dim=1, keepdim=True) / count)
        if self.channel is not None:
            vectors = self.channel[channels.clamp(min=0)] * named[..., None]
            place = place + vectors.sum(dim=1) / count
        return place


@remembers_arguments
class SpectralAdapter(nn.Module):
    """Content through a projection, place from picture and spectrum, squared error over the pixels
    that are there.

    Missing pixels enter as the mean (0 after standardising) with a learned vector times their
    share, and are left out of a token's statistics and of its error.

    Args:
        target: how values become targets ("patch" takes all bands of a token together, "channel"
            each alone); the unbiased spread counts present pixels only.
        projections: "shared" (`SharedProjection`) or "bands" (`BandProjections`, with `anchors`
            and `closeness`).
    """

    answers_by_place = True

    def __init__(
        self,
        tokenizer: SpectralPatches,
        width: int,
        decoder_width: int | None,
        target: Target = Target(),  # noqa: B008 - frozen
        projections: Literal["shared", "bands"] = "shared",
        anchors: tuple[float, ...] = (),
        closeness: Closeness = "inverse",
    ) -> None:
        super().__init__()
        answer_width = width if decoder_width is None else decoder_width
        if projections not in ("shared", "bands"):
            raise ValueError(
                f"SpectralAdapter: projections={projections!r} must be 'shared' or 'bands'."
            )
        self.target, self.group = target, tokenizer.group
        self.projection = (
            SharedProjection(tokenizer, width, answer_width)
            if projections == "shared"
            else BandProjections(tokenizer, width, answer_width, anchors, closeness)
        )
        self.position = BandPosition(tokenizer, width)
        self.decoder_position = BandPosition(tokenizer, answer_width)
        self.missing = nn.Parameter(torch.zeros(width))
        self.decoder_name = nn.Parameter(torch.zeros(answer_width))
        self.apply(init_weights)

    def embed(self, values: Num[Tensor, "m c"], coords: Num[Tensor, "m p"]) -> Float[Tensor, "m w"]:
        absent = values.isnan()
        content = values.masked_fill(absent, 0.0).to(self.missing.dtype)
        share = absent.to(self.missing.dtype).mean(dim=1, keepdim=True)
        return self.projection.embed(content, coords) + share * self.missing

    def place(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        return self.position(coords, slots, grid)

    def decoder_place(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        return self.decoder_position(coords, slots, grid) + self.decoder_name

    def predict(
        self, features: Float[Tensor, "m w"], coords: Num[Tensor, "m p"]
    ) -> Float[Tensor, "m c"]:
        return self.projection.answer(features, coords)

    def targets(self, values: Float[Tensor, "m c"]) -> Float[Tensor, "m c"]:
        """What `predict` is asked for: the values, normalised as `target` says; NaN where a pixel
        is missing."""
        if self.target.unit == "none":
            return values
        known = ~values.isnan()
        mean, spread = self.statistics(values.masked_fill(~known, 0.0), known)
        return (values - mean) / spread

    def error(
        self, prediction: Float[Tensor, "m c"], values: Num[Tensor, "m c"]
    ) -> Float[Tensor, " m"]:
        known = ~values.isnan()
        # under autocast predictions come in half precision; targets never do
        exact = torch.promote_types(prediction.dtype, torch.float32)
        wanted = self.targets(values.to(exact)).masked_fill(~known, 0.0)
        squared = (prediction.to(exact) - wanted).square() * known
        return squared.sum(dim=1) / known.sum(dim=1).clamp(min=1)

    @property
    def restoring_leaks(self) -> bool:
        """Whether `restore` uses the hidden token's true mean and spread."""
        return self.target.unit != "none"

    def restore(
        self, prediction: Float[Tensor, "m c"], values: Num[Tensor, "m c"]
    ) -> Float[Tensor, "m c"]:
        """Answers in the scale of token values, missing pixels answered too. Normalised targets get
        the token's TRUE mean and spread back: right to look at, not a fair score."""
        if self.target.unit == "none":
            return prediction
        known = ~values.isnan()
        mean, spread = self.statistics(values.masked_fill(~known, 0.0).to(prediction.dtype), known)
        return prediction * spread + mean

    def statistics(
        self, filled: Float[Tensor, "m c"], known: Bool[Tensor, "m c"]
    ) -> tuple[Float[Tensor, "m c"], Float[Tensor, "m c"]]:
        """Mean and spread over the present pixels of each token, or of each of its bands."""
        units = self.group if self.target.unit == "channel" else 1
        x = rearrange(filled, "m (s u) -> m s u", u=units)
        has = rearrange(known, "m (s u) -> m s u", u=units).to(x.dtype)
        count = has.sum(dim=1, keepdim=True)
        mean = (x * has).sum(dim=1, keepdim=True) / count.clamp(min=1)
        free = count - 1 if self.target.unbiased else count
        var = ((x - mean).square() * has).sum(dim=1, keepdim=True) / free.clamp(min=1)
        spread = (var + self.target.epsilon).sqrt()
        return mean.expand_as(x).flatten(1), spread.expand_as(x).flatten(1)
