"""Many subsets of what a sample has, one answer: ensembles over hyper-edges, and their students."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from multimask.filling import answer_all, check_restores, only
from multimask.modality import Restores
from multimask.model import MaskedModel
from multimask.objectives.base import Objective
from multimask.tokens import Batch, Step, Term, Tokens


@runtime_checkable
class Answers(Protocol):
    """An adapter whose answers are distributions: `(m, c, classes)`, sums of 1."""

    def probabilities(self, prediction: Float[Tensor, "m o"]) -> Float[Tensor, "m c k"]: ...


@dataclass(frozen=True)
class Ensembled:
    """answer: `(b, n, c)` values or `(b, n, c, classes)` probabilities of the target, averaged over
    subsets (never logits). spread: their standard deviation over the subsets, 0 for one. tokens:
    the target's tokens, with places."""

    answer: Tensor
    spread: Tensor
    tokens: Tokens


def subsets_of(names: Sequence[str]) -> list[tuple[str, ...]]:
    """All non-empty subsets, small ones first.

    >>> subsets_of(["b", "a"])
    [('a',), ('b',), ('a', 'b')]
    """
    ordered = sorted(names)
    return [c for size in range(1, len(ordered) + 1) for c in combinations(ordered, size)]


def ensemble(
    model: MaskedModel, batch: Batch, target: str, subsets: Sequence[Sequence[str]]
) -> Ensembled:
    """The target answered from each subset in turn, in eval mode (PHG-MAE, 2025).

    The target itself is never read. Raises: ValueError for samples that have nothing of a subset.
    """
    if not subsets:
        raise ValueError("ensemble: expected at least one subset of modalities, found none.")
    if not isinstance(model.adapter(target), Answers):
        check_restores(model, target)
    made, last = [], None
    for names in subsets:
        read = [name for name in names if name != target]
        given = answer_all(model, only(batch, read, list(model.slots)), [target], 1.0, Step())
        prediction, values, _ = given.answers[target]
        made.append(shaped(model, target, prediction, values, given.order(target), batch.size))
        last = given.asked[target]
    assert last is not None
    stacked = torch.stack(made)
    return Ensembled(stacked.mean(dim=0), stacked.std(dim=0, correction=0), last)


def shaped(
    model: MaskedModel, target: str, prediction: Tensor, values: Tensor, source: Tensor, size: int
) -> Tensor:
    """Flat answers as rows: probabilities where the adapter has them, else values."""
    adapter = model.adapter(target)
    if isinstance(adapter, Answers):
        flat = adapter.probabilities(prediction)
    else:
        flat = cast(Restores, adapter).restore(prediction, values)
    rows = torch.zeros(size * model.num_tokens[target], *flat.shape[1:], device=flat.device)
    return rows.index_copy(0, source, flat.float()).unflatten(0, (size, -1))


@dataclass(frozen=True)
class Spread:
    """How much answers hang on what is shown. std: `(b, n)` standard deviation over draws, of a
    token's values (root mean square over them) or of the probability of the answered class.
    agreeing: `(b, n)` share of draws and values that restore exactly what was answered."""

    std: Float[Tensor, "b n"]
    agreeing: Float[Tensor, "b n"]


def spreads(
    model: MaskedModel,
    batch: Batch,
    targets: Sequence[str],
    answer: Mapping[str, Float[Tensor, "b n c"]],
    share: float = 0.5,
    draws: int = 8,
    seed: int = 0,
) -> dict[str, Spread]:
    """Answer for the targets from `draws` random parts, a `share` each, of what the samples have.

    answer: what `model.reconstruct(batch, targets=targets)` restored from all of it. The parts are
    drawn from the samples' own generators, so batch mates change nothing (PHG-MAE, 2025).

    Raises: ValueError for fewer than two draws, and for a share that leaves nothing to draw.
    """
    check_draws(draws, share)
    sums = {name: [torch.zeros(())] * 3 for name in targets}
    for draw in range(draws):
        given = answer_all(model, batch, targets, share, Step(seed, epoch=draw))
        for name in targets:
            prediction, values, _ = given.answers[name]
            order, answered = given.order(name), answer[name]
            adapter = cast(Restores, model.adapter(name))
            flat = answered.flatten(0, 1).index_select(0, order)
            restored = adapter.restore(prediction, values)
            agreeing = (restored == flat.to(restored.dtype)).float().mean(dim=1)
            found = restored
            if isinstance(adapter, Answers):
                classes = flat.round().long().clamp(min=0)[..., None]
                found = adapter.probabilities(prediction).gather(-1, classes)[..., 0]
            # float64, lest equal draws seem to differ
            found = found.double()
            added = (found, found.square(), agreeing.double())
            total = torch.zeros_like(answered, dtype=torch.float64).flatten(0, 1)
            whole = [(total if x.ndim == 2 else total[:, 0]).index_copy(0, order, x) for x in added]
            sums[name] = [a.to(b.device) + b for a, b in zip(sums[name], whole, strict=True)]
    made = {}
    for name, (first, second, agreeing) in sums.items():
        variance = (second / draws - (first / draws).square()).clamp(min=0).mean(dim=1)
        shape = answer[name].shape[:2]
        made[name] = Spread(
            variance.sqrt().float().view(shape), (agreeing / draws).float().view(shape)
        )
    return made


def check_draws(draws: int, share: float) -> None:
    if draws < 2 or not 0 < share < 1:
        raise ValueError(
            f"spreads: draws={draws} must be at least 2 and share={share} above 0 and below 1; "
            "what is always shown in full does not spread."
        )


class Distillation(Objective):
    """A student that reads few modalities answers what an ensemble of subsets of a teacher does.

    Soft cross-entropy where answers are distributions, else squared error, over all of the target's
    tokens. No labels are needed. The teacher is held outside the objective's weights.
    """

    def __init__(
        self,
        teacher: MaskedModel,
        target: str,
        read: tuple[str, ...],
        subsets: Sequence[Sequence[str]],
    ) -> None:
        super().__init__()
        self.teacher = (teacher.eval().requires_grad_(False),)  # a tuple: no part of this module
        self.target, self.read, self.subsets = target, read, tuple(map(tuple, subsets))

    def forward(self, model: MaskedModel, batch: Batch, step: Step) -> dict[str, Term]:
        wanted = ensemble(self.teacher[0].to(model.device), batch, self.target, self.subsets).answer
        part = only(batch, self.read, list(model.slots))
        given = answer_all(model, part, [self.target], 1.0, step, training=True)
        prediction = given.answers[self.target][0]
        source = given.order(self.target)
        truth = wanted.flatten(0, 1).index_select(0, source)
        adapter = model.adapter(self.target)
        if isinstance(adapter, Answers):
            logs = adapter.probabilities(prediction).clamp(min=1e-12).log()
            error = -(truth * logs).sum(dim=-1).mean(dim=-1)
        else:
            error = F.mse_loss(prediction, truth, reduction="none").mean(dim=-1)
        count = torch.tensor(float(len(error)), device=error.device)
        return {self.target: Term(error.sum(), count)}
