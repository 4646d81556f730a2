"""Whole modalities answered from the others: `encode(modalities=)` and `reconstruct(targets=)`.

A modality that is asked for is never read: whether a sample has it changes nothing in what is
answered. Samples that lack it get tokens made from a blank one, which tell where answers belong.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Bool
from torch import Tensor

from multimask.masking.context import Context
from multimask.masking.rules import Uniform
from multimask.modality import KnowsPlaces, Restores
from multimask.reconstruct import Reconstructed
from multimask.tokens import Batch, Masking, Part, Picks, Step, TokenBatch, Tokens

if TYPE_CHECKING:
    from multimask.model import MaskedModel


def only(batch: Batch, names: Sequence[str], known: Sequence[str]) -> Batch:
    """The batch as if its samples had nothing but these modalities.

    Raises: ValueError for names that the model does not have, and for samples that have none of
    the modalities that are left.
    """
    check_names(names, known, "modalities")
    parts = {name: part for name, part in batch.parts.items() if name in set(names)}
    check_left(batch, parts, f"none of the modalities {', '.join(sorted(names))}")
    return replace(batch, parts=parts, masking=None)


def answered(
    model: "MaskedModel", batch: Batch, targets: Sequence[str], share: float, step: Step
) -> Reconstructed:
    """All tokens of the targets, for every sample, from what else it has; in eval mode.

    share: how much of what else it has is visible, at least one token; below 1 it is drawn from
    the samples' own generators, so that another step shows another part.
    `restored[target]` has a row a sample, its holes answered too; `tokens` are those that the batch
    came with.
    """
    check_names(targets, list(model.slots), "targets")
    if not 0 < share <= 1:
        raise ValueError(f"reconstruct: share={share} of what is there must lie in (0, 1].")
    for name in targets:
        check_restores(model, name)
    made = answer_all(model, batch, targets, share, step)
    restored = dict(made.given)
    for name, part in made.asked.items():
        adapter = cast(Restores, model.adapter(name))
        prediction, values, _ = made.answers[name]
        filled = part.values.to(prediction.dtype).flatten(0, 1).clone()
        filled[made.order(name)] = adapter.restore(prediction, values)
        restored[name] = replace(part, values=filled.view_as(part.values))
    masking, slots = made.masking, model.slots.items()
    return Reconstructed(
        made.given,
        restored,
        {n: masking.visible[:, w.start : w.stop] for n, w in slots},
        {n: scored(masking.target[:, w.start : w.stop], made.given.get(n)) for n, w in slots},
        masking,
        (),
    )


def scored(asked: Bool[Tensor, "b n"], truth: Tokens | None) -> Bool[Tensor, "b n"]:
    """What was asked for, without what samples do not know of it themselves."""
    if truth is None or truth.valid is None:
        return asked
    known = torch.ones_like(asked)
    known[truth.rows, : truth.valid.shape[1]] = truth.valid
    return asked & known


@dataclass(frozen=True)
class Given:
    """Answers for whole modalities. given: the batch's tokens. asked: the targets', with a row a
    sample. answers: as `MaskedModel.predict` makes them."""

    given: dict[str, Tokens]
    asked: dict[str, Tokens]
    masking: Masking
    answers: dict[str, tuple[Tensor, Tensor, Tensor]]

    def order(self, name: str) -> Tensor:
        """Which of `asked[name].values.flatten(0, 1)` the flat answers are for."""
        return cast(Picks, self.masking.decoded_picks).source[name]


def answer_all(
    model: "MaskedModel",
    batch: Batch,
    targets: Sequence[str],
    share: float,
    step: Step,
    training: bool = False,
) -> Given:
    """Every token of the targets from what else the samples have; in eval mode and without
    gradients unless `training`."""
    left = {name: part for name, part in batch.parts.items() if name not in set(targets)}
    check_left(batch, left, f"nothing beside the targets {', '.join(sorted(targets))}")
    if all(len(part.rows) == batch.size for part in left.values()):  # all samples read the same
        warn_unseen(model.seen, left)
    was_training = model.training
    model.train(training)
    try:
        with torch.set_grad_enabled(training):
            given = model.tokenize(batch)
            asked = {name: on_every_row(model, batch, given, name) for name in targets}
            tokens = TokenBatch(batch.size, {**given.modalities, **asked}, model.slots)
            context = model.context(tokens)
            masking = all_of(targets, tokens.exists, context, share, step, batch.sample_ids)
            masking = model.picked(tokens, masking)
            features = model.decode(tokens, model.encode_visible(tokens, masking), masking)
            answers = model.predict(tokens, features, masking)
    finally:
        model.train(was_training)
    return Given(given.modalities, asked, masking, answers)


def all_of(
    targets: Sequence[str],
    exists: Bool[Tensor, "b n"],
    context: Context,
    share: float,
    step: Step,
    sample_ids: tuple[str, ...],
) -> Masking:
    """Nothing of the targets is visible and all of them decoded; of the rest a share is visible."""
    slots = [torch.arange(w.start, w.stop) for n, w in context.slots.items() if n in set(targets)]
    decoded = torch.cat(slots).to(exists.device).expand(len(exists), -1)
    readable = exists.scatter(1, decoded, False)
    scores = torch.zeros(exists.shape, device=exists.device)
    if share < 1:
        scores = Uniform()(exists, step.generators(sample_ids, "masking"), context)
    existing = readable.sum(dim=1)
    counts = (existing * share).floor().long().clamp(min=1) if share < 1 else existing
    k = int(counts.max())
    ids = scores.masked_fill(~readable, torch.inf).argsort(dim=1, stable=True)[:, :k]
    some_absent = not bool(exists.gather(1, decoded).all())
    padded = bool((counts < k).any())
    return Masking(ids, decoded, exists, padded, some_absent, counts=counts)


def on_every_row(model: "MaskedModel", batch: Batch, given: TokenBatch, name: str) -> Tokens:
    """The modality's tokens with a row for every sample; those that lack it get a blank one's.

    The blank one also tells which tokens there are to answer, where a sample's lie at its places:
    holes in what is asked for must not show in the answers.
    """
    part = given.modalities.get(name)
    whole = part is not None and len(part.rows) == batch.size
    if part is not None and whole and part.valid is None:
        return part
    try:
        made = blank_tokens(model, name, batch.size)
    except ValueError:
        if part is not None and whole:
            return part  # only its own tokens tell what there is to answer
        raise
    if part is None:
        return made
    if part.values.shape[1:] != made.values.shape[1:]:
        if whole:
            return part
        raise ValueError(
            f"reconstruct: samples that have {name!r} bring {part.values.shape[1]} tokens, blank "
            f"ones {made.values.shape[1]}; ask for samples of one size."
        )
    valid = None
    if part.valid is not None or made.valid is not None:
        there = filled_valid(made)
        alike = (rows_of(made.coords, part.rows) == part.coords).flatten(1).all(dim=1)
        own = torch.where(alike[:, None], there[part.rows], filled_valid(part))
        valid = with_rows(there, part.rows, own)
    return replace(
        made,
        values=with_rows(made.values.to(part.values.dtype), part.rows, part.values),
        coords=merged_coords(made, part, batch.size),
        valid=valid,
        edges=part.edges,
    )


def blank_tokens(model: "MaskedModel", name: str, size: int) -> Tokens:
    """Raises: ValueError where the tokenizer does not know its tokens' places."""
    tokenizer, rows = model.tokenizers[name], torch.arange(size, device=model.device)
    if not isinstance(tokenizer, KnowsPlaces):
        raise ValueError(
            f"reconstruct: some sample lacks {name!r}, and {type(tokenizer).__name__} does not say "
            "where its tokens would be (`blank`); ask only for samples that have it."
        )
    return tokenizer(Part(tokenizer.blank(size), rows).to(model.device))


def rows_of(coords: Tensor, rows: Tensor) -> Tensor:
    """Places of these samples; a lattice shares one set among all."""
    return coords if len(coords) == 1 else coords[rows]


def with_rows(whole: Tensor, rows: Tensor, some: Tensor) -> Tensor:
    return whole.index_copy(0, rows, some)


def filled_valid(tokens: Tokens) -> Tensor:
    shape = tokens.values.shape[:2]
    if tokens.valid is not None:
        return tokens.valid
    return torch.ones(shape, dtype=torch.bool, device=tokens.values.device)


def merged_coords(made: Tokens, part: Tokens, size: int) -> Tensor:
    """A lattice's shared places stay shared where both agree."""
    if len(made.coords) == len(part.coords) == 1 and torch.equal(made.coords, part.coords):
        return made.coords
    whole = made.coords.expand(size, -1, -1).to(part.coords.dtype).clone()
    some = part.coords.expand(len(part.rows), -1, -1)
    return with_rows(whole, part.rows, some)


class UnseenModalities(UserWarning):
    """An encoder reads a set of modalities that it never read in training."""


def warn_unseen(seen: tuple[tuple[str, ...], ...] | None, names: Iterable[str]) -> None:
    """Say that an encoder reads what it never did in training; nothing where nobody noted."""
    asked = tuple(sorted(set(names)))
    if seen is not None and asked not in seen:
        warnings.warn(
            f"{' + '.join(asked)}: in training the encoder never read something of just these "
            "modalities, so what it makes of them is untried; hide whole modalities in training "
            "(budgets Dirichlet and Dropped with a total that they can hold, the rule Subset).",
            UnseenModalities,
            stacklevel=3,
        )


def check_names(names: Sequence[str], known: Sequence[str], what: str) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown or not names:
        raise ValueError(
            f"{what}={list(names)}: expected at least one of {', '.join(known)}"
            + (f", found {', '.join(unknown)}." if unknown else ".")
        )


def check_left(batch: Batch, parts: dict[str, Part], what: str) -> None:
    seen = {row for part in parts.values() for row in part.rows.tolist()}
    lost = [name for row, name in enumerate(batch.sample_ids) if row not in seen]
    if lost:
        raise ValueError(
            f"sample {lost[0]!r} has {what} ({len(lost)} of {batch.size} samples); leave it out."
        )


def check_restores(model: "MaskedModel", name: str) -> None:
    adapter = model.adapter(name)
    if not isinstance(adapter, Restores):
        raise ValueError(
            f"reconstruct: modality {name!r} cannot be filled, {type(adapter).__name__} has no way "
            "from answers to values (`restore`)."
        )
    if adapter.restoring_leaks:
        raise ValueError(
            f"reconstruct: modality {name!r} cannot be filled, it answers in values normalised per "
            "token, whose mean and spread only the hidden truth tells; train it with target 'none'."
        )
