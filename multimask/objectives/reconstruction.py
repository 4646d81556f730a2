"""Reconstruct what was hidden: the objective of MAE and its many relatives."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from multimask.masking.masker import Masker
from multimask.model import MaskedModel
from multimask.objectives.base import Objective
from multimask.tokens import Batch, Step, Term

Average = Literal["token", "sample"]


class Reconstruction(Objective):
    """Each modality's own error over its hidden tokens; one term a modality.

    How values become targets is the adapter's (`Target`); how errors are averaged is said here.
    average="token": mean over all hidden tokens of the batch (MAE). "sample": mean over each
    sample's hidden tokens first, then over the samples that have any, so that samples with few
    tokens weigh as much as others. weights: a factor per modality, default 1.

    With fixed counts and nothing missing the two averages are the same number.
    """

    def __init__(
        self,
        masker: Masker = Masker(),  # noqa: B008 - frozen
        average: Average = "token",
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        if average not in ("token", "sample"):
            raise ValueError(f"Reconstruction: average={average!r} must be 'token' or 'sample'.")
        self.masker, self.average, self.weights = masker, average, dict(weights or {})

    def forward(self, model: MaskedModel, batch: Batch, step: Step) -> dict[str, Term]:
        unknown = sorted(set(self.weights) - set(model.slots))
        if unknown:
            raise ValueError(
                f"Reconstruction: weights for {', '.join(unknown)}, which the model does not have; "
                f"it has {', '.join(model.slots)}."
            )
        tokens = model.tokenize(batch)
        masking = self.masking(model, tokens, batch, step)
        masking = model.picked(tokens, masking)
        latents = model.encode_visible(tokens, masking)
        features = model.decode(tokens, latents, masking)
        num_decoded = masking.decoded_ids.shape[1]
        asked = masking.asked.flatten()
        terms = {}
        for name, (prediction, values, at) in model.predict(tokens, features, masking).items():
            error = model.adapter(name).error(prediction, values)
            error = error.to(torch.promote_types(error.dtype, torch.float32))  # sums, counts: exact
            scored = asked.index_select(0, at).to(error.dtype)
            if self.average == "token":
                total, count = (error * scored).sum(), scored.sum()
            else:
                rows = at // max(num_decoded, 1)
                total, count = per_sample(error * scored, scored, rows, batch.size)
            terms[name] = Term(total * self.weights.get(name, 1.0), count)
        return terms

    def counts(self, model: MaskedModel, batch: Batch) -> dict[str, Tensor]:
        """Known where the loader drew the masking."""
        if batch.masking is None:
            return {}
        target = batch.masking.target
        blocks = {name: target[:, w.start : w.stop] for name, w in model.slots.items()}
        if self.average == "sample":
            blocks = {name: block.any(dim=1) for name, block in blocks.items()}
        return {name: block.sum().float() for name, block in blocks.items()}


def per_sample(error: Tensor, scored: Tensor, rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Sum over samples of each sample's mean error, and how many samples have one."""
    sums = torch.zeros(size, dtype=error.dtype, device=error.device).index_add(0, rows, error)
    counts = torch.zeros_like(sums).index_add(0, rows, scored)
    return (sums / counts.clamp(min=1)).sum(), (counts > 0).to(error.dtype).sum()
