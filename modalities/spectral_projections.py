"""Pixels of a token's bands to width and back: one projection for all, or one per known band."""

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from multimask.modalities.spectral import SpectralPatches
from multimask.plugins import remembers_arguments

Closeness = Literal["inverse", "as-released"]


def split_coords(
    coords: Num[Tensor, "m p"], group: int
) -> tuple[Float[Tensor, "m e"], Int[Tensor, "m e"]]:
    """Wavelengths (nm, 0 for none) and channel numbers (-1 for none) of the tokens' bands."""
    return coords[:, 2 : 2 + group].float(), coords[:, 2 + group :].round().long()


class SharedProjection(nn.Module):
    """One linear layer in and one out for all bands; which band it is comes with the position
    (ChA-MAEViT, Pham et al. 2025)."""

    def __init__(self, tokenizer: SpectralPatches, width: int, answer_width: int) -> None:
        super().__init__()
        self.enter = nn.Linear(tokenizer.token_dim, width)
        self.leave = nn.Linear(answer_width, tokenizer.token_dim)

    def embed(self, values: Float[Tensor, "m c"], coords: Num[Tensor, "m p"]) -> Tensor:
        return self.enter(values)

    def answer(self, features: Float[Tensor, "m w"], coords: Num[Tensor, "m p"]) -> Tensor:
        return self.leave(features)


@remembers_arguments
class BandProjections(nn.Module):
    """A linear layer in and one out per known band, mixed for bands between two known ones.

    `embed` averages the projections of the token's bands and multiplies by the tokenizer's
    `group`: with all bands there it is their sum, and neither repeating nor permuting bands changes
    it. Source: SMARTIES (Sumbul et al., ICCV 2025). Beyond the first and the last known wavelength
    the end's projection is used; nothing is extrapolated.

    Args:
        anchors: nm of the known bands; default the tokenizer's `wavelengths`. Its `names` are known
            as well.
        closeness: "inverse" gives the nearer known band the larger weight; "as-released" weighs
            by distance itself, as the published code does, for its weights.
    """

    def __init__(
        self,
        tokenizer: SpectralPatches,
        width: int,
        answer_width: int,
        anchors: tuple[float, ...] = (),
        closeness: Closeness = "inverse",
    ) -> None:
        super().__init__()
        if closeness not in ("inverse", "as-released"):
            raise ValueError(
                f"BandProjections: closeness={closeness!r} must be 'inverse' or 'as-released'."
            )
        listed = tuple(sorted(anchors or tokenizer.wavelengths))
        known = len(listed) + len(tokenizer.names)
        if known == 0 or len(set(listed)) != len(listed):
            raise ValueError(
                f"BandProjections: anchors={listed} must list at least one wavelength (nm), each "
                "once, or the tokenizer must list wavelengths or names."
            )
        self.group, self.known, self.closeness = tokenizer.group, known, closeness
        self.pixels = tokenizer.token_dim // tokenizer.group
        self.register_buffer("nm", torch.tensor(listed, dtype=torch.float32), persistent=False)
        self.enter = nn.Linear(known * self.pixels, width, bias=False)
        self.enter_bias = nn.Parameter(torch.zeros(known, width))
        self.leave = nn.Linear(answer_width, known * self.pixels)

    def mixing(self, coords: Num[Tensor, "m p"]) -> Float[Tensor, "m e k"]:
        """Weights of the known bands for each band of each token; rows sum to 1, 0 if no band."""
        nm, channels = split_coords(coords, self.group)
        known = self.get_buffer("nm")
        weights = nm.new_zeros(*nm.shape, self.known)
        if len(known):
            right = torch.searchsorted(known, nm.contiguous()).clamp(max=len(known) - 1)
            left = (right - 1).clamp(min=0)
            span = (known[right] - known[left]).clamp(min=1e-6)
            toward = ((nm - known[left]) / span).clamp(0, 1)
            inside = (toward > 0) & (toward < 1)
            if self.closeness == "as-released":
                toward = torch.where(inside, 1 - toward, toward)
            has = (nm > 0).float()
            weights.scatter_add_(2, left[..., None], (has * (1 - toward))[..., None])
            weights.scatter_add_(2, right[..., None], (has * toward)[..., None])
        named = channels >= 0
        place = (len(known) + channels).clamp(min=0, max=self.known - 1)
        return weights.scatter_add(2, place[..., None], named.to(nm.dtype)[..., None])

    def embed(self, values: Float[Tensor, "m c"], coords: Num[Tensor, "m p"]) -> Tensor:
        weights = self.mixing(coords).to(values.dtype)
        bands = weights.sum(dim=(1, 2)).clamp(min=1)[:, None] / self.group
        pixels = rearrange(values, "m (s e) -> m e s", e=self.group)
        onto_known = torch.einsum("mek,mes->mks", weights, pixels).flatten(1)
        return (self.enter(onto_known) + weights.sum(dim=1) @ self.enter_bias) / bands

    def answer(self, features: Float[Tensor, "m w"], coords: Num[Tensor, "m p"]) -> Tensor:
        weights = self.mixing(coords).to(features.dtype)
        of_known = rearrange(self.leave(features), "m (k s) -> m k s", k=self.known)
        return rearrange(torch.einsum("mek,mks->mes", weights, of_known), "m e s -> m (s e)")
