"""Cross-entropy on a head's logits: what fine-tuning minimises."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from multimask.evaluation.embeddings import plain
from multimask.finetuning.classifier import Head
from multimask.finetuning.layers import layer_factors
from multimask.finetuning.mixing import OTHER, SHARE
from multimask.model import MaskedModel
from multimask.objectives.base import Objective
from multimask.tokens import Batch, Step, Term


class Classification(Objective):
    """Names the class that each sample has under `label`, everything visible.

    Samples without the label count for nothing. Labels that `Mixing` blended count by their shares.
    Args:
        smoothing: probability given to all classes alike (label smoothing, Szegedy et al. 2016).
        layer_decay: see `layer_factors`.
    """

    def __init__(
        self,
        head: Head,
        classes: Sequence[str],
        label: str,
        smoothing: float = 0.1,
        layer_decay: float = 0.65,
    ) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise ValueError(f"finetune: smoothing={smoothing} must lie in [0, 1).")
        self.head, self.label = head, label
        self.places = {name: place for place, name in enumerate(classes)}
        self.smoothing, self.layer_decay = smoothing, layer_decay

    def forward(self, model: MaskedModel, batch: Batch, step: Step) -> dict[str, Term]:
        logits = self.head(model.encode(batch))
        wanted = self.wanted(batch).to(logits.device, non_blocking=True)
        chances = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=1)
        return {"classes": Term(-(wanted * chances).sum(), wanted.sum())}

    def counts(self, model: MaskedModel, batch: Batch) -> dict[str, Tensor]:
        return {"classes": self.wanted(batch).sum()}

    def lr_factors(self, model: MaskedModel) -> dict[int, float]:
        return layer_factors(model, self.layer_decay)

    def wanted(self, batch: Batch) -> Float[Tensor, "b classes"]:
        """Probabilities to be said; rows of zeros for samples without the label."""
        count = len(self.places)
        made = torch.zeros(batch.size, count)
        none = [None] * batch.size
        own = batch.labels.get(self.label, none)
        others = batch.labels.get(f"{self.label}{OTHER}", none)
        shares = batch.labels.get(f"{self.label}{SHARE}", none)
        for row, (value, other, share) in enumerate(zip(own, others, shares, strict=True)):
            if value is None:
                continue
            kept = 1.0 if share is None else float(share)
            made[row, self.place(value)] += kept
            if other is not None:
                made[row, self.place(other)] += 1 - kept
            made[row] = made[row] * (1 - self.smoothing) + self.smoothing / count
        return made

    def place(self, value: Any) -> int:
        name = str(plain(value))
        if name not in self.places:
            raise ValueError(
                f"finetune: the class {name!r} of label {self.label!r} was not among the training "
                f"rows' {len(self.places)} classes; leave such rows out of the validation rows."
            )
        return self.places[name]
