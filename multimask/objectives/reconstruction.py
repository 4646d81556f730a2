"""Reconstruct what was hidden: the objective of MAE and its many relatives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from multimask.masking.masker import Masker
from multimask.modality import Adapter
from multimask.model import MaskedModel
from multimask.objectives.base import Objective
from multimask.objectives.outputs import ExtraOutput
from multimask.tokens import Batch, Masking, Step, Term, TokenBatch

Average = Literal["token", "sample"]


@dataclass(frozen=True)
class Answered:
    """Answers of a batch: by term (answers, true values, where they stand), and who scores them."""

    tokens: TokenBatch
    masking: Masking
    answers: dict[str, tuple[Tensor, Tensor, Tensor]]
    scorers: Mapping[str, ExtraOutput | Adapter]


class Reconstruction(Objective):
    """Each modality's own error over its hidden tokens; one term a modality.

    How values become targets is the adapter's (`Target`); how errors are averaged is said here.
    average="token": mean over all hidden tokens of the batch (MAE). "sample": mean over each
    sample's hidden tokens first, then over the samples that have any, so that samples with few
    tokens weigh as much as others. With fixed counts and nothing missing the two averages are the
    same number. weights: a factor per term, default 1.

    outputs: more answers to a modality than its adapter's, by the name of their term, each with its
    own decoder and head; they belong to the objective and stay behind when the model is saved.
    learnt: terms that are balanced by a learnt uncertainty s instead: `exp(-s) * loss + s` (Kendall
    et al., CVPR 2018; an option of MultiMAE), s starting at 0.
    """

    def __init__(
        self,
        masker: Masker = Masker(),  # noqa: B008 - frozen
        average: Average = "token",
        weights: Mapping[str, float] | None = None,
        outputs: Mapping[str, ExtraOutput] | None = None,
        learnt: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        if average not in ("token", "sample"):
            raise ValueError(f"Reconstruction: average={average!r} must be 'token' or 'sample'.")
        self.masker, self.average, self.weights = masker, average, dict(weights or {})
        self.outputs = nn.ModuleDict(dict(outputs or {}))
        self.uncertainty = nn.ParameterDict({n: nn.Parameter(torch.zeros(())) for n in learnt})

    def forward(self, model: MaskedModel, batch: Batch, step: Step) -> dict[str, Term]:
        return self.terms(self.answered(model, batch, step))

    def answered(self, model: MaskedModel, batch: Batch, step: Step) -> Answered:
        """The walk from raw data to answers, not yet scored."""
        self.check(model)
        tokens = model.tokenize(batch)
        masking = self.masking(model, tokens, batch, step)
        masking = model.picked(tokens, masking)
        latents = model.encode_visible(tokens, masking)
        features = model.decode(tokens, latents, masking)
        answers = model.predict(tokens, features, masking)
        scorers: dict[str, ExtraOutput | Adapter] = {n: model.adapter(n) for n in answers}
        for name, module in self.outputs.items():
            scorers[name] = output = cast(ExtraOutput, module)
            answers[name] = output(model, tokens, latents, masking)
        return Answered(tokens, masking, answers, scorers)

    def terms(self, made: Answered) -> dict[str, Term]:
        num_decoded = made.masking.decoded_ids.shape[1]
        asked = made.masking.asked.flatten()
        terms = {}
        for name, (prediction, values, at) in made.answers.items():
            error = made.scorers[name].error(prediction, values)
            error = error.to(torch.promote_types(error.dtype, torch.float32))  # sums, counts: exact
            scored = asked.index_select(0, at).to(error.dtype)
            if self.average == "token":
                total, count = (error * scored).sum(), scored.sum()
            else:
                rows = at // max(num_decoded, 1)
                total, count = per_sample(error * scored, scored, rows, made.tokens.size)
            terms[name] = self.balanced(name, total, count)
        return terms

    def balanced(self, name: str, total: Tensor, count: Tensor) -> Term:
        total = total * self.weights.get(name, 1.0)
        if name in self.uncertainty:
            s = self.uncertainty[name]
            total = torch.exp(-s) * total + s * count
        return Term(total, count)

    def check(self, model: MaskedModel) -> None:
        names = [*model.slots, *self.outputs]
        for what, given in (("weights", self.weights), ("learnt", self.uncertainty)):
            unknown = sorted(set(given) - set(names))
            if unknown:
                raise ValueError(
                    f"Reconstruction: {what} for {', '.join(unknown)}, which the model does not "
                    f"have; it has {', '.join(names)}."
                )
        if len(set(names)) < len(names):
            raise ValueError(
                f"Reconstruction: outputs {', '.join(self.outputs)} must not be named as the "
                f"modalities {', '.join(model.slots)} are."
            )

    def counts(self, model: MaskedModel, batch: Batch) -> dict[str, Tensor]:
        """Known where the loader drew the masking."""
        if batch.masking is None:
            return {}
        target = batch.masking.target
        blocks = {name: target[:, w.start : w.stop] for name, w in model.slots.items()}
        if self.average == "sample":
            blocks = {name: block.any(dim=1) for name, block in blocks.items()}
        sums = {name: block.sum().float() for name, block in blocks.items()}
        extra = {name: sums[cast(ExtraOutput, o).modality] for name, o in self.outputs.items()}
        return sums | extra


def per_sample(error: Tensor, scored: Tensor, rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Sum over samples of each sample's mean error, and how many samples have one."""
    sums = torch.zeros(size, dtype=error.dtype, device=error.device).index_add(0, rows, error)
    counts = torch.zeros_like(sums).index_add(0, rows, scored)
    return (sums / counts.clamp(min=1)).sum(), (counts > 0).to(error.dtype).sum()
