"""Whole modalities answered from the others, beside two controls that know less.

One control answers every place with its mean over the training samples. The other is the same
model, given the other modalities of another sample: what is left is what it knows of the modality
at large. Only a model that reads the sample at hand beats both.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor
from torch.nn import functional as F

from multimask.buckets import taken
from multimask.ensembles import Answers
from multimask.evaluation.embeddings import evaluating
from multimask.evaluation.reading import batches, computed
from multimask.filling import answer_all
from multimask.modality import Restores
from multimask.model import MaskedModel
from multimask.tokens import Batch, Sample, Samples, Step, Tokens, sample_generator

Measure = Literal["squared error", "cross-entropy"]


@dataclass(frozen=True)
class Crossed:
    """Errors of one modality, a number a test item: the model's, those of the means of the training
    samples place by place, and the model's when it reads another item.

    Squared errors are of token values (standardised, as tokenizers give them), cross-entropies in
    nats; of the classes' frequencies where answers are distributions.
    """

    ids: tuple[str, ...]
    answered: Float[np.ndarray, " items"]
    of_mean: Float[np.ndarray, " items"]
    shuffled: Float[np.ndarray, " items"]
    measure: Measure


def crossmodal_errors(
    model: MaskedModel,
    samples: Samples | Sequence[Sample],
    train: Samples | Sequence[Sample],
    targets: Sequence[str] | None = None,
    *,
    batch_size: int = 64,
    workers: int = 0,
    device: str | torch.device = "auto",
    seed: int = 0,
) -> dict[str, Crossed]:
    """Hide each target whole, answer it from all else that a sample has, compare with the truth.

    Samples that lack the target or have nothing else are left out. Targets whose answers are
    neither values nor distributions, or cannot be put in scale without the truth, are left out, too
    (see `scorable`); by default all others are asked for. `seed` pairs samples for the control.

    Raises: ValueError when there is no such target, or no two samples in a batch have one.
    """
    known = [name for name in model.slots if scorable(model, name)]
    chosen = list(known if targets is None else targets)
    if not chosen or set(chosen) - set(known):
        raise ValueError(f"crossmodal_errors: targets={chosen} must be some of {known}.")
    found: dict[str, list[tuple[list[str], Tensor]]] = {name: [] for name in chosen}
    with evaluating(model, device):
        means = training_means(model, train, chosen, batch_size, workers)
        for read in batches(samples, model.tokenizers, batch_size, workers):
            for batch, made in computed(read, lambda b: scored(model, b, means, seed), []):
                for name, (rows, errors) in made.items():
                    found[name].append(([batch.sample_ids[row] for row in rows], errors))
    return {name: gathered(name, parts, model) for name, parts in found.items()}


def scorable(model: MaskedModel, name: str) -> bool:
    """Whether answers can be compared with true values without help of the truth."""
    adapter = model.adapter(name)
    if isinstance(adapter, Answers):
        return True
    leaks = not isinstance(adapter, Restores) or adapter.restoring_leaks
    return not (leaks or getattr(adapter, "unordered", False))


def gathered(name: str, parts: list[tuple[list[str], Tensor]], model: MaskedModel) -> Crossed:
    if not parts:
        raise ValueError(
            f"crossmodal_errors: no two samples of a batch have {name!r} and something else to "
            "answer it from."
        )
    ids = tuple(i for names, _ in parts for i in names)
    answered, of_mean, shuffled = torch.cat([errors for _, errors in parts], dim=1).numpy()
    entropy = isinstance(model.adapter(name), Answers)
    measure: Measure = "cross-entropy" if entropy else "squared error"
    return Crossed(ids, answered, of_mean, shuffled, measure)


# --- one batch ------------------------------------------------------------------------------------


def scored(
    model: MaskedModel, batch: Batch, means: Mapping[str, Tensor], seed: int
) -> dict[str, tuple[list[int], Float[Tensor, "3 items"]]]:
    """By target: rows of the batch, and the errors of the three answers for each."""
    made = {}
    for name, mean in means.items():
        rows = usable(batch, name)
        if len(rows) > 1:  # the control needs another sample
            errors = compared(model, taken(batch, rows).to(model.device), name, mean, seed).cpu()
            kept = ~errors.isnan().any(dim=0)  # nothing of it is known in both of a pair
            made[name] = ([r for r, k in zip(rows, kept.tolist(), strict=True) if k],
                          errors[:, kept])  # fmt: skip
    return made


def usable(batch: Batch, name: str) -> list[int]:
    """Rows that have the modality and something else."""
    if name not in batch.parts:
        return []
    others = {r for n, part in batch.parts.items() if n != name for r in part.rows.tolist()}
    return [row for row in batch.parts[name].rows.tolist() if row in others]


def compared(
    model: MaskedModel, batch: Batch, name: str, mean: Tensor, seed: int
) -> Float[Tensor, "3 b"]:
    given = answer_all(model, batch, [name], 1.0, Step())
    prediction, values, _ = given.answers[name]
    order, slots = given.order(name), given.asked[name].values.shape[1]
    answers = as_answers(model, name, prediction, values)
    size = batch.size * slots
    there = torch.zeros(size, dtype=torch.bool, device=order.device).index_fill(0, order, True)
    whole = answers.new_zeros(size, *answers.shape[1:]).index_copy(0, order, answers)
    row, slot = order // slots, order % slots
    other = derangement(batch, seed).to(order.device)[row] * slots + slot
    both, truth = there[other], given.given[name]
    if truth.valid is not None:  # holes are answered, but there is nothing to compare with
        both = both & truth.valid.flatten()[order]
    errors = [
        error_of(model, name, made, values)
        for made in (answers, mean.to(answers)[slot], whole[other])
    ]
    return torch.stack([row_means(e[both], row[both], batch.size) for e in errors])


def derangement(batch: Batch, seed: int) -> Int[Tensor, " b"]:
    """For each row another one: a random cycle."""
    generator = sample_generator(seed, 0, batch.sample_ids[0], "pairs")
    cycle = torch.randperm(batch.size, generator=generator)
    return torch.empty_like(cycle).index_copy(0, cycle, cycle.roll(1))


def row_means(
    errors: Float[Tensor, " m"], row: Int[Tensor, " m"], size: int
) -> Float[Tensor, " b"]:
    """NaN where a row has no error."""
    known = ~errors.isnan()
    sums = errors.new_zeros(size).index_add(0, row[known], errors[known])
    return sums / errors.new_zeros(size).index_add(0, row[known], torch.ones_like(errors[known]))


def as_answers(
    model: MaskedModel, name: str, prediction: Tensor, values: Tensor
) -> Float[Tensor, "m ..."]:
    """Values, or probabilities `(m, c, k)`."""
    adapter = model.adapter(name)
    if isinstance(adapter, Answers):
        return adapter.probabilities(prediction).float()
    return cast(Restores, adapter).restore(prediction, values).float()


def error_of(
    model: MaskedModel, name: str, answers: Tensor, values: Num[Tensor, "m c"]
) -> Float[Tensor, " m"]:
    """Mean error of a token's known numbers, NaN where none is known."""
    if not isinstance(model.adapter(name), Answers):
        return (answers - values.float()).square().nanmean(dim=1)
    codes = values.long()
    chances = answers.gather(2, codes.clamp(min=0)[..., None])[..., 0].clamp(min=1e-12)
    return (-chances.log()).masked_fill(codes < 0, torch.nan).nanmean(dim=1)


# --- the control of means -------------------------------------------------------------------------


def training_means(
    model: MaskedModel,
    train: Samples | Sequence[Sample],
    targets: Sequence[str],
    batch_size: int,
    workers: int,
) -> dict[str, Tensor]:
    """By target, slot by slot: `(n, c)` mean values, or `(n, c, k)` frequencies of classes."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    for read in batches(train, model.tokenizers, batch_size, workers):
        for tokens in token_parts(model, read, targets):
            for name, part in tokens.items():
                total, count = summed(model, name, part)
                sums[name] = sums.get(name, 0) + total
                counts[name] = counts.get(name, 0) + count
    if missing := [name for name in targets if name not in sums]:
        raise ValueError(f"crossmodal_errors: no training sample has {missing[0]!r}.")
    return {name: sums[name] / counts[name].clamp(min=1) for name in targets}


def token_parts(
    model: MaskedModel, read: Batch, targets: Sequence[str]
) -> Iterator[dict[str, Tokens]]:
    def cut(batch: Batch) -> dict[str, Tokens]:
        return model.tokenize(batch.to(model.device)).modalities

    for _, made in computed(read, cut, []):
        yield {name: made[name] for name in targets if name in made}


def summed(model: MaskedModel, name: str, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Sums over the rows, and how many numbers or labels were added up."""
    values = tokens.values.double()
    slots = model.num_tokens[name] - values.shape[1]
    exists: Bool[Tensor, "r n"] = torch.ones_like(values[..., 0], dtype=torch.bool)
    exists = exists if tokens.valid is None else tokens.valid
    known = exists[..., None] & ~values.isnan()
    if isinstance(model.adapter(name), Answers):
        codes = values.nan_to_num(nan=-1).long()
        marked = F.one_hot(codes.clamp(min=0), num_classes(model, name)).double()
        total = (marked * (known & (codes >= 0))[..., None]).sum(dim=0) + 1e-3  # none is impossible
        return with_slots(total, slots), with_slots(total.sum(dim=-1, keepdim=True), slots)
    total = values.nan_to_num().where(known, 0.0).sum(dim=0)
    return with_slots(total, slots), with_slots(known.double().sum(dim=0), slots)


def num_classes(model: MaskedModel, name: str) -> int:
    part = model.encoder if model.decoder is None else model.decoder
    adapter = model.adapter(name)
    features = torch.zeros(1, cast(int, part.width), device=model.device)
    return cast(Answers, adapter).probabilities(adapter.predict(features)).shape[-1]


def with_slots(values: Tensor, more: int) -> Tensor:
    return torch.cat((values, values.new_zeros(more, *values.shape[1:])))
