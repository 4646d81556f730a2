"""What the data lack, known before anything is read, and what that leaves to be visible."""

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Int

from multimask.masking.budgets import Natural
from multimask.masking.context import Context
from multimask.masking.masker import Masker
from multimask.masking.rules import Ties
from multimask.masking.sharing import lowered
from multimask.model import MaskedModel
from multimask.tokens import Samples, Slots, Step
from multimask.training.reading import blanks

Missing = Bool[np.ndarray, "rows modalities"]
Subsets = tuple[tuple[str, ...], ...]

DRAWS, PATTERNS = 2048, 32  # of maskings, and of what rows lack


def missing_matrix(samples: Samples, names: Iterable[str]) -> Missing:
    """Which row lacks which modality, by the columns alone: None or blank text is missing. Of a
    modality without a column nothing is known; it is taken to be there."""
    columns = samples.columns
    found = [
        blanks(columns[name]) if name in columns else np.zeros(len(samples), bool) for name in names
    ]
    return np.stack(found, axis=1)


def tokens_per_row(missing: Missing, slots: Slots) -> Int[np.ndarray, " rows"]:
    """How many tokens a row has, every modality that is there filling its slots."""
    return ~missing @ np.array([len(where) for where in slots.values()])


def foreseen(model: MaskedModel) -> Context:
    """What a masker may know before any sample is read."""
    return Context(model.slots, {name: model.static_grid(name) for name in model.slots}, True)


def settled(
    masker: Masker,
    slots: Slots,
    missing: Missing,
    context: Context,
    max_visible_share: float = 0.75,
) -> Masker:
    """The masker with its counts fixed for data that lack modalities.

    k is one number for the run, small enough for the row with the fewest tokens:
    `min(asked, floor(max_visible_share * fewest))`. All else is decoded, so that every row's
    hidden tokens are scored. Unchanged when nothing is missing, when the masker asks for no more
    than that, when it is ragged, or when its rule brings its own counts (`Natural` pads to its
    cap). Rows without any modality do not count: they are skipped when read. `missing` has a column
    a modality, in the order of `slots`.

    Raises: ValueError when even the smallest count is too many for some row.
    """
    counts = tokens_per_row(missing, slots)
    counts = counts[counts > 0]
    total = sum(len(where) for where in slots.values())
    own_counts = masker.ragged or isinstance(masker.budget, Natural)
    if own_counts or len(counts) == 0 or counts.min() == total:
        return masker
    masker.counts(total, context)  # what cannot be is said before anything else
    unit = masker.rule.unit(context) if isinstance(masker.rule, Ties) else 1
    limit = math.floor(max_visible_share * int(counts.min()) + 1e-6) // unit
    if limit == 0:
        raise ValueError(
            f"fit: some row has {counts.min()} tokens, of which max_visible_share="
            f"{max_visible_share} leaves fewer than {unit} visible; leave such rows out with "
            "drop_below, or give the masker ragged=True (pads and attention-masks)."
        )
    budget = lowered(masker.budget, total // unit, limit)
    return masker if budget is masker.budget else replace(masker, budget=budget)


def subsets_seen(masker: Masker, missing: Missing, context: Context) -> Subsets:
    """Sets of modalities of which an encoder reads something, and nothing of others, in training:
    those that come up in some thousand draws over what rows lack.

    `missing` has a column a modality, in the order of the context's slots.
    """
    slots, found = context.slots, set()
    patterns, often = np.unique(missing, axis=0, return_counts=True)
    common = [p for p in patterns[np.argsort(-often)] if not p.all()][:PATTERNS]
    starts = [start for start, _ in getattr(masker.budget, "stages", ((0, None),))]
    for start in starts:
        for number, lacking in enumerate(common):
            there = [not p for p, where in zip(lacking, slots.values(), strict=True) for _ in where]
            exists = torch.tensor(there).expand(max(64, DRAWS // len(common)), -1)
            ids = [f"{start}/{number}/{draw}" for draw in range(len(exists))]
            now = replace(context, complete=not lacking.any(), step=start)
            visible = masker(exists, Step().generators(ids, "seen"), now).visible
            reads = [visible[:, w.start : w.stop].any(dim=1) for w in slots.values()]
            found |= set(map(tuple, torch.stack(reads, dim=1).tolist()))
    names = list(slots)
    return tuple(sorted(tuple(n for n, read in zip(names, row, strict=True) if read)
                        for row in found))  # fmt: skip


def told(
    asked: int, visible: int, missing: Missing, slots: Slots, names: list[str], share: float
) -> str:
    """The sentence that says why fewer tokens stay visible than were asked for."""
    counts = tokens_per_row(missing, slots)
    fewest = counts[counts > 0].min()
    rows = np.flatnonzero(counts == fewest)
    lacking = [name for name, gone in zip(slots, missing[rows[0]], strict=True) if gone]
    return (
        f"{visible} tokens stay visible instead of {asked}: {len(rows)} of {len(counts)} rows "
        f"have only {fewest} tokens (first {some(names[row] for row in rows[:3])}, which lacks "
        f"{', '.join(lacking)}), of which at most {share:.0%} may be visible. Leave such rows out "
        "with drop_below, or give the masker ragged=True, to keep more."
    )


def some(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
