"""Squared errors and spectra of what was reconstructed, one picture a channel."""

import math
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from multimask.masking.masker import Masker
from multimask.model import MaskedModel
from multimask.objectives.base import Objective
from multimask.objectives.reconstruction import Answered, Reconstruction
from multimask.tokens import Batch, Picks, Step, Term


class FourierReconstruction(Objective):
    """`(1 - weight) * reconstruction + weight * spectrum` (ChA-MAEViT, Pham et al., NeurIPS 2025).

    The spectrum term is the mean absolute difference of the magnitudes of a channel's 2-D Fourier
    transform (orthonormal), the picture holding answers where tokens were hidden and true values
    elsewhere, normalised per patch, 0 in both where nothing is known; averaged over the channels of
    which something was hidden. For lattices (channels, rows, columns) of square patches. With
    weight 0 it is the plain objective.
    """

    def __init__(self, masker: Masker, weight: float = 0.01) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise ValueError(f"FourierReconstruction: weight={weight} must lie in [0, 1].")
        self.masker, self.weight = masker, weight

    def forward(self, model: MaskedModel, batch: Batch, step: Step) -> dict[str, Term]:
        # built anew: who trains may have settled another masker since
        base = Reconstruction(self.masker)
        made = base.answered(model, batch, step)
        plain = base.terms(made)
        if self.weight == 0:
            return plain
        terms = {n: Term(t.total * (1 - self.weight), t.count) for n, t in plain.items()}
        for name in made.answers:
            terms[f"{name}_spectrum"] = self.spectrum(model, made, name)
        return terms

    def counts(self, model: MaskedModel, batch: Batch) -> dict[str, Tensor]:
        return Reconstruction(self.masker).counts(model, batch)

    def spectrum(self, model: MaskedModel, made: Answered, name: str) -> Term:
        prediction, _, at = made.answers[name]
        part = made.tokens.modalities.get(name)
        if part is None:
            zero = prediction.sum() * 0
            return Term(zero, torch.zeros_like(zero))
        source = cast(Picks, made.masking.decoded_picks).source[name]
        asked = made.masking.asked.flatten().index_select(0, at)
        truth = self.wanted(model, name, part.values.flatten(0, 1))
        known = ~truth.isnan()
        if part.valid is not None:
            known = known & part.valid.flatten()[:, None]
        truth = torch.where(known, truth, 0.0)
        scored = asked[:, None] & known.index_select(0, source)
        answers = torch.where(scored, prediction, truth.index_select(0, source))
        answered = truth.index_copy(0, source, answers.to(truth.dtype))
        hidden = torch.zeros(len(truth), dtype=torch.bool, device=truth.device)
        hidden = hidden.index_copy(0, source, asked)
        rows = len(part.rows)
        grid = part.grid or ()
        side = math.isqrt(truth.shape[1])
        if len(grid) != 3 or side**2 != truth.shape[1]:
            raise ValueError(
                f"FourierReconstruction: modality {name!r} has a lattice {grid} of tokens of "
                f"{truth.shape[1]} numbers; expected (channels, rows, columns) of square patches "
                "of one band."
            )
        spectra = [magnitudes(x.view(rows, -1, side**2), grid, side) for x in (answered, truth)]
        off = (spectra[0] - spectra[1]).abs().mean(dim=(2, 3))
        some = hidden.view(rows, grid[0], -1).any(dim=2).to(off.dtype)
        return Term((off * some).sum() * self.weight, some.sum())

    def wanted(
        self, model: MaskedModel, name: str, values: Float[Tensor, "m c"]
    ) -> Float[Tensor, "m c"]:
        """What answers are compared with; NaN where a number is missing."""
        targets = getattr(model.adapter(name), "targets", None)
        return values if targets is None else targets(values)


def magnitudes(
    values: Float[Tensor, "r n c"], grid: tuple[int, ...], side: int
) -> Float[Tensor, "r g h w"]:
    """Magnitudes of each channel's spectrum."""
    pictures = rearrange(
        values,
        "r (g y x) (tall wide) -> r g (y tall) (x wide)",
        g=grid[0],
        y=grid[1],
        tall=side,
    )
    return torch.fft.rfft2(pictures.float(), norm="ortho").abs()
