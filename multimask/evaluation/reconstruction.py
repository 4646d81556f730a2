"""How wrong the answers for hidden tokens are, beside the answers of a predictor of means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int, Num
from torch import Tensor
from torch.nn import functional as F

from multimask.evaluation.embeddings import evaluating
from multimask.evaluation.reading import batches, computed
from multimask.masking import Masker
from multimask.modality import Restores, Tokenizer, Untokenizes
from multimask.model import MaskedModel
from multimask.tokens import Batch, Picks, Sample, Samples, Step, Tokens

Scale = Literal["raw values", "token values", "normalised targets", "the adapter's own"]


@runtime_checkable
class HasTargets(Protocol):
    """An adapter that tells what its answers are compared to."""

    def targets(self, values: Float[Tensor, "m c"]) -> Float[Tensor, "m c"]: ...


@dataclass(frozen=True)
class HiddenError:
    """Mean squared error per number over the hidden tokens of one modality.

    `of_mean` is the error of answering every place with its mean over the training samples, None
    where none were given. `scale` says in what: raw values (the data's own unit, squared); token
    values (standardised), where a tokenizer has no way back; normalised targets, where putting
    the answers back would need the truth; or whatever the adapter calls its error.
    """

    error: float
    of_mean: float | None
    scale: Scale
    tokens: int

    @property
    def ratio(self) -> float | None:
        """Below 1: better than the means."""
        return None if self.of_mean is None else self.error / self.of_mean


@dataclass(frozen=True)
class Errors:
    """By modality; `skipped` lists (id, reason) of samples that could not be read."""

    modalities: dict[str, HiddenError]
    skipped: tuple[tuple[str, str], ...]


def reconstruction_error(
    model: MaskedModel,
    samples: Samples | Sequence[Sample],
    masker: Masker,
    *,
    train: Samples | Sequence[Sample] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    workers: int = 0,
    device: str | torch.device = "auto",
) -> Errors:
    """Hide what `masker` says, answer, compare: in eval mode, each sample hidden by a generator of
    its own, so that batches change nothing. `train` gives the means that a model has to beat.

    Raises: ValueError when no sample could be read, or none has a hidden token.
    """
    skipped: list[tuple[str, str]] = []
    sums: dict[str, list[Sums]] = {name: [] for name in model.slots}
    with evaluating(model, device):
        means = {} if train is None else place_means(model, train, batch_size, workers)
        for read in batches(samples, model.tokenizers, batch_size, workers):
            skipped += read.skipped
            for _, found in computed(
                read, lambda batch: scored(model, batch, masker, seed, means), skipped
            ):
                for name, part in found.items():
                    sums[name].append(part)
    modalities = {name: averaged(parts) for name, parts in sums.items() if parts}
    if not any(error.tokens for error in modalities.values()):
        reason = f"; the first skipped: {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise ValueError(f"reconstruction_error: no hidden token was scored{reason}")
    return Errors(modalities, tuple(skipped))


# --- one batch ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sums:
    """Errors per token, summed."""

    error: float
    of_mean: float | None
    tokens: int
    scale: Scale


def scored(
    model: MaskedModel, batch: Batch, masker: Masker, seed: int, means: Mapping[str, Tensor]
) -> dict[str, Sums]:
    tokens = model.tokenize(batch.to(model.device))
    generators = Step(seed).generators(batch.sample_ids, "masking")
    masking = model.picked(tokens, masker(tokens.exists, generators, model.context(tokens)))
    features = model.decode(tokens, model.encode_visible(tokens, masking), masking)
    picks, asked = cast(Picks, masking.decoded_picks), masking.asked.flatten()
    found = {}
    for name, (prediction, values, at) in model.predict(tokens, features, masking).items():
        if name in tokens.modalities:
            hidden = asked[at]
            answers = [prediction[hidden]]
            if name in means:
                answers.append(means[name][picks.slots[name][hidden]].to(prediction.dtype))
            part, source = tokens.modalities[name], picks.source[name][hidden]
            found[name] = compared(model, name, part, source, values[hidden], answers)
    return found


def compared(
    model: MaskedModel,
    name: str,
    part: Tokens,
    source: Int[Tensor, " m"],
    values: Num[Tensor, "m c"],
    answers: list[Tensor],
) -> Sums:
    """Errors of the model's answers, and of the means where there are any."""
    adapter = model.adapter(name)
    restores = isinstance(adapter, Restores)
    unordered = getattr(adapter, "unordered", False)  # entry by entry would compare chance pairs
    if restores and not adapter.restoring_leaks and not unordered:
        made = [with_answers(part, source, adapter.restore(a, values)) for a in answers]
        (true, *filled), scale = in_raw_scale(model.tokenizers[name], part, made)
        squares = [(data.double() - true.double()).square().nansum() for data in filled]
        known = (~values.isnan()).sum().clamp(min=1)  # numbers that a token lacks are not compared
        errors = [float(square * len(values) / known) for square in squares]
    else:
        scale = "normalised targets" if restores and not unordered else "the adapter's own"
        errors = [float(adapter.error(a, values).double().sum()) for a in answers]
    return Sums(errors[0], errors[1] if len(errors) > 1 else None, len(values), scale)


def in_raw_scale(
    tokenizer: Tokenizer, part: Tokens, made: list[Tokens]
) -> tuple[list[Tensor], Scale]:
    """Raw data of all, where the tokenizer has a way back to one tensor; else token values."""
    every = [part, *made]
    if isinstance(tokenizer, Untokenizes):
        raw = [tokenizer.untokenize(tokens) for tokens in every]
        if all(isinstance(data, Tensor) for data in raw):
            return raw, "raw values"
    return [tokens.values for tokens in every], "token values"


def with_answers(part: Tokens, source: Int[Tensor, " m"], answers: Num[Tensor, "m c"]) -> Tokens:
    """The tokens with those of `source` (an index of all rows' tokens, flat) replaced."""
    flat = part.values.to(answers.dtype).flatten(0, 1)
    return replace(part, values=flat.index_copy(0, source, answers).view_as(part.values))


def averaged(parts: list[Sums]) -> HiddenError:
    tokens = sum(part.tokens for part in parts)
    of_mean = [part.of_mean for part in parts if part.of_mean is not None]
    return HiddenError(
        sum(part.error for part in parts) / max(tokens, 1),
        sum(of_mean) / max(tokens, 1) if of_mean else None,
        parts[0].scale,
        tokens,
    )


# --- the predictor of means -----------------------------------------------------------------------


def place_means(
    model: MaskedModel, train: Samples | Sequence[Sample], batch_size: int, workers: int
) -> dict[str, Float64[Tensor, "_ _"]]:
    """Per modality `(n, c)`, slot by slot the mean of what answers are compared to; none for
    adapters that do not tell what that is."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    for read in batches(train, model.tokenizers, batch_size, workers):
        for _, tokens in computed(read, lambda b: model.tokenize(b.to(model.device)), []):
            for name, part in tokens.modalities.items():
                adapter, slots = model.adapter(name), model.num_tokens[name]
                if isinstance(adapter, HasTargets):
                    total, count = summed_targets(adapter, part, slots)
                    sums[name] = sums.get(name, 0) + total
                    counts[name] = counts.get(name, 0) + count
    return {name: total / counts[name].clamp(min=1) for name, total in sums.items()}


def summed_targets(
    adapter: HasTargets, part: Tokens, slots: int
) -> tuple[Float64[Tensor, "n c"], Int[Tensor, "n c"]]:
    """Sum of the targets of every slot over the rows where they exist, and how many these are."""
    rows, n = part.values.shape[:2]
    exists = torch.ones_like(part.values[..., :1], dtype=torch.bool)
    exists = exists if part.valid is None else part.valid[..., None]
    targets = adapter.targets(part.values.float().flatten(0, 1)).view(rows, n, -1)
    known = exists & ~targets.isnan()  # a token that exists may lack numbers
    total = targets.double().masked_fill(~known, 0.0).sum(dim=0)
    missing = (0, 0, 0, slots - n)
    return F.pad(total, missing), F.pad(known.sum(dim=0), missing)
