"""Which rows are trained on, and which are held out."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int

from multimask.tokens import Sample, Samples, Slots, sample_generator
from multimask.training.missing import Missing, missing_matrix, tokens_per_row
from multimask.training.reading import as_samples
from multimask.training.sampler import Weights

log = logging.getLogger("multimask")


@dataclass(frozen=True, eq=False)
class Chosen:
    """Some rows of samples. weights: how often they are drawn to train on; None is all alike."""

    samples: Samples
    rows: Int[np.ndarray, " n"]
    weights: Weights | None = None

    def missing(self, slots: Slots) -> Missing:
        return missing_matrix(self.samples, slots)[self.rows]

    def names(self) -> list[str]:
        ids = self.samples.columns.get("id")
        return [str(row if ids is None else ids[row]) for row in self.rows.tolist()]

    def fingerprint(self) -> str:
        """The same for the same samples in the same order, as far as their ids tell."""
        digest = hashlib.sha256("\n".join(self.names()).encode())
        return digest.hexdigest()[:16]

    def above(self, share: float, slots: Slots) -> "Chosen":
        """Without the rows that have less than this share of the tokens."""
        whole = sum(len(where) for where in slots.values())
        enough = tokens_per_row(self.missing(slots), slots) >= share * whole
        return Chosen(self.samples, self.rows[enough])


def chosen_rows(
    samples: Samples | Sequence[Sample],
    validation: Samples | Sequence[Sample] | float | None,
    seed: int,
    slots: Slots,
    drop_below: float | None = None,
) -> tuple[Chosen, Chosen | None]:
    """Rows to train on and rows held out: other samples, a share drawn by the seed, or none."""
    if validation is not None and not isinstance(validation, int | float):
        validation = as_samples(validation, slots)
    train, held = split(as_samples(samples, slots), validation, seed)
    if drop_below is None:
        return train, held
    kept = train.above(drop_below, slots)
    if gone := len(train.rows) - len(kept.rows):
        log.warning("%d rows have less than %s of all tokens: left out.", gone, f"{drop_below:.0%}")
    return kept, None if held is None else held.above(drop_below, slots)


def split(
    samples: Samples, validation: Samples | float | None, seed: int
) -> tuple[Chosen, Chosen | None]:
    every = np.arange(len(samples))
    if validation is None:
        return Chosen(samples, every), None
    if not isinstance(validation, int | float):
        return Chosen(samples, every), Chosen(validation, np.arange(len(validation)))
    count = round(validation * len(samples))
    if not 0 < count < len(samples):
        raise ValueError(
            f"fit: validation={validation} of {len(samples)} samples is {count}; give a share that "
            "leaves some on both sides, or samples of their own."
        )
    generator = sample_generator(seed, 0, "", "held out")
    order = torch.randperm(len(samples), generator=generator).numpy()
    return Chosen(samples, np.sort(order[count:])), Chosen(samples, np.sort(order[:count]))
