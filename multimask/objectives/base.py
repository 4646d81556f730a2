"""What a pre-training method adds to a model."""

from torch import nn

from multimask.masking.masker import Masker
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

    def masking(
        self, model: MaskedModel, tokens: TokenBatch, batch: Batch, step: Step, view: int = 0
    ) -> Masking:
        """The loader's masking where there is one (first view), else drawn now, the same way."""
        if batch.masking is not None and view == 0:
            return batch.masking
        generators = step.generators(batch.sample_ids, "masking", view)
        return self.masker(tokens.exists, generators, model.context(tokens))
