"""What a pre-training method adds to a model."""

from dataclasses import replace

from torch import Tensor, nn

from multimask.masking.masker import Masker
from multimask.modality import KnowsValid
from multimask.model import MaskedModel
from multimask.tokens import Batch, Masking, Step, Term, TokenBatch


class Objective(nn.Module):
    """Calls the model on a batch and says what was wrong, as named terms.

    It may own a teacher and extra heads (they train, and stay behind when the model is saved).
    The shell divides each term's total by its count and sums the terms.
    """

    masker: Masker

    def forward(self, model: MaskedModel, batch: Batch, step: Step) -> dict[str, Term]:
        raise TypeError(f"{type(self).__name__} must define forward(model, batch, step).")

    def after_step(self, model: MaskedModel) -> None:
        """Called after every optimiser step (EMA teachers follow here)."""

    def lr_factors(self, model: MaskedModel) -> dict[int, float]:
        """Factors on the learning rate by `id` of a parameter; 1 for those left out."""
        return {}

    def counts(self, model: MaskedModel, batch: Batch) -> dict[str, Tensor]:
        """Counts of terms that are known before `forward` runs, by the term's name, on the host.

        With them a step cut into micro-batches equals the whole one. Terms left out are divided by
        each micro-batch's own count, and these quotients averaged.
        """
        return {}

    def masking(
        self, model: MaskedModel, tokens: TokenBatch, batch: Batch, step: Step, view: int = 0
    ) -> Masking:
        """The loader's masking where there is one (first view), else drawn now, the same way."""
        if batch.masking is not None and view == 0:
            check_foreseen(model, tokens)
            return batch.masking
        generators = step.generators(batch.sample_ids, "masking", view)
        context = replace(model.context(tokens), step=step.index)
        return self.masker(tokens.exists, generators, context)


def check_foreseen(model: MaskedModel, tokens: TokenBatch) -> None:
    """The loader's masking took a modality for complete unless its tokenizer says `valid`. Costs
    the host a comparison, the device nothing."""
    for name, part in tokens.modalities.items():
        foreseen = isinstance(model.tokenizers[name], KnowsValid)
        if not foreseen and (
            part.valid is not None or part.values.shape[1] != model.num_tokens[name]
        ):
            raise ValueError(
                f"modality {name!r}: {part.values.shape[1]} tokens, not all of the model's "
                f"{model.num_tokens[name]} slots. Give all samples the size the model was built "
                f"for, or let {type(model.tokenizers[name]).__name__} say which tokens exist "
                "(`valid(part)`)."
            )
