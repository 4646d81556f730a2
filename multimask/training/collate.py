"""From samples that were read to batches with their maskings: the last thing a worker does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from multimask.masking.budgets import Natural
from multimask.masking.context import Context
from multimask.masking.masker import Masker
from multimask.modality import Tokenizer, collate, present
from multimask.model import MaskedModel
from multimask.packing import with_picks
from multimask.tokens import BadSample, Batch, Grid, Masking, Sample, Step, slots_of
from multimask.training.missing import foreseen
from multimask.training.reading import Item, Skipped

Window = tuple[Batch, ...]  # the micro-batches of one optimiser step


@dataclass(frozen=True, eq=False)
class Collate:
    """Puts samples side by side and draws the masking of maskers that do not look at content.

    Every sample draws from its own generator, so its masking depends neither on its batch mates
    nor on the worker. Samples that cannot be used, found one by one when the whole fails, end up
    in `Batch.skipped`; also those with fewer tokens than the masker keeps visible. A batch of
    which nothing is left has size 0.
    Args: seed and purpose, what masks are drawn from beside epoch and id.
    """

    tokenizers: Mapping[str, Tokenizer]
    num_tokens: Mapping[str, int]
    grids: Mapping[str, Grid | None] = field(default_factory=dict)
    masker: Masker | None = None
    seed: int = 0
    purpose: str = "masking"

    @classmethod
    def of(
        cls, model: MaskedModel, masker: Masker | None, seed: int = 0, purpose: str = "masking"
    ) -> "Collate":
        grids = foreseen(model).grids
        return cls(model.tokenizers, model.num_tokens, grids, masker, seed, purpose)

    def __call__(self, items: Sequence[Item]) -> Batch:
        epoch, step = (items[0].epoch, items[0].step) if items else (0, 0)
        skipped = [item.sample for item in items if isinstance(item.sample, Skipped)]
        samples = [item.sample for item in items if not isinstance(item.sample, Skipped)]
        try:
            batch = self.prepared(samples, epoch, step)
        except BadSample:
            samples, bad = self.sorted_out(samples, epoch, step)
            if not bad:
                raise
            skipped += bad
            batch = self.prepared(samples, epoch, step)
        return replace(batch, skipped=tuple(tuple(each) for each in skipped))

    def prepared(self, samples: list[Sample], epoch: int, step: int) -> Batch:
        slots = slots_of(self.num_tokens)
        if not samples:
            return Batch(0, (), {}, {}, self.nothing(step))
        batch = collate(samples, self.tokenizers)
        if self.masker is None:
            return batch
        exists, rows, counts = present(batch, self.tokenizers, self.num_tokens)
        context = Context(slots, self.grids, bool(exists.all()), step=step)
        check_enough(batch, exists, self.masker, context)
        if not self.masker.content_free:
            return batch
        generators = Step(self.seed, epoch).generators(batch.sample_ids, self.purpose)
        masking = self.masker(exists, generators, context)
        return replace(batch, masking=with_picks(masking, slots, rows, counts))

    def nothing(self, step: int) -> Masking | None:
        """The masking of no samples, so that counts are known to be zero."""
        if self.masker is None or not self.masker.content_free:
            return None
        total = sum(self.num_tokens.values())
        context = Context(slots_of(self.num_tokens), self.grids, True, step=step)
        k, d = self.masker.counts(total, context)
        ids = torch.zeros(0, max(k, d), dtype=torch.long)
        return Masking(ids[:, :k], ids[:, :d], torch.zeros(0, total, dtype=torch.bool))

    def sorted_out(
        self, samples: list[Sample], epoch: int, step: int
    ) -> tuple[list[Sample], list[Skipped]]:
        good, bad = [], []
        for sample in samples:
            try:
                self.prepared([sample], epoch, step)
                good.append(sample)
            except BadSample as error:
                bad.append(Skipped(str(sample["id"]), str(error)))
        return good, bad


@dataclass(frozen=True, eq=False)
class Windows:
    """One optimiser step's samples as `accumulate` micro-batches of equal size."""

    collate: Collate
    accumulate: int = 1

    def __call__(self, items: Sequence[Item]) -> Window:
        share = len(items) // self.accumulate
        starts = range(0, share * self.accumulate, share)
        return tuple(self.collate(items[start : start + share]) for start in starts)


def check_enough(batch: Batch, exists: torch.Tensor, masker: Masker, context: Context) -> None:
    """Raises BadSample for a sample with fewer tokens than stay visible."""
    if masker.ragged or isinstance(masker.budget, Natural):
        return
    k, _ = masker.counts(exists.shape[1], context)
    counts = exists.sum(dim=1).tolist()
    for name, count in zip(batch.sample_ids, counts, strict=True):
        if count < k:
            raise BadSample(
                f"sample {name!r}: {count} tokens, but {k} are to stay visible; keep fewer, or "
                "give the masker ragged=True (pads and attention-masks)."
            )
