"""Hidden tokens answered for, in the scale of token values: what pictures and fills are made of."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from multimask.masking.masker import Masker
from multimask.modality import Restores
from multimask.tokens import Batch, Masking, Picks, Step, Tokens

if TYPE_CHECKING:
    from multimask.model import MaskedModel


@dataclass(frozen=True)
class Reconstructed:
    """What a model made of a batch: per modality the true tokens, the same with hidden ones
    answered (`restored`, in the scale of token values), and which are visible and scored.

    `leaks` names modalities whose answers were put back to scale with true statistics of the
    hidden tokens: right to look at, not a fair score.
    """

    tokens: dict[str, Tokens]
    restored: dict[str, Tokens]
    visible: dict[str, Tensor]
    target: dict[str, Tensor]
    masking: Masking
    leaks: tuple[str, ...]


@torch.no_grad()
def reconstruct(model: "MaskedModel", batch: Batch, masker: Masker, step: Step) -> Reconstructed:
    """In eval mode whatever the mode before. The restored tokens hold true values where a token
    is visible or was not asked for; modalities whose adapter cannot restore are left out."""
    was_training = model.training
    model.eval()
    try:
        tokens = model.tokenize(batch)
        masking = batch.masking
        if masking is None:
            generators = step.generators(batch.sample_ids, "masking")
            masking = masker(tokens.exists, generators, model.context(tokens))
        masking = model.picked(tokens, masking)
        features = model.decode(tokens, model.encode_visible(tokens, masking), masking)
        answers = model.predict(tokens, features, masking)
    finally:
        model.train(was_training)
    restored, leaks = {}, []
    for name, part in tokens.modalities.items():
        adapter = model.adapter(name)
        if not isinstance(adapter, Restores):
            continue
        if adapter.restoring_leaks:
            leaks.append(name)
        prediction, values, at = answers[name]
        source = cast(Picks, masking.decoded_picks).source[name]
        asked = masking.asked.flatten()[at]
        filled = part.values.to(prediction.dtype).flatten(0, 1).clone()
        filled[source[asked]] = adapter.restore(prediction, values)[asked]
        restored[name] = replace(part, values=filled.view_as(part.values))
    return Reconstructed(
        tokens.modalities,
        restored,
        {name: masking.visible[:, w.start : w.stop] for name, w in model.slots.items()},
        {name: masking.target[:, w.start : w.stop] for name, w in model.slots.items()},
        masking,
        tuple(leaks),
    )
