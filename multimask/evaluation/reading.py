"""Samples as batches, in their own order; what cannot be read is left out and told."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from torch.utils.data import DataLoader, Dataset

from multimask.buckets import taken
from multimask.modality import Tokenizer, collate
from multimask.tokens import BadSample, Batch, Sample, Samples

T = TypeVar("T")


def batches(
    samples: Samples | Sequence[Sample],
    tokenizers: Mapping[str, Tokenizer],
    batch_size: int,
    workers: int = 0,
    ignored: Collection[str] = (),
    groups: Sequence[list[int]] | None = None,
) -> Iterable[Batch]:
    """Batches of these modalities. Other keys are labels; the `ignored` are dropped. `groups`
    names the rows of each batch; else all rows in order, `batch_size` at a time.

    `Batch.skipped` lists samples that raised BadSample or OSError; a batch of which nothing is
    left has size 0.
    """
    if batch_size < 1 or workers < 0:
        raise ValueError(
            f"batch_size={batch_size} must be at least 1 and workers={workers} at least 0."
        )
    unwanted = frozenset(ignored) - set(tokenizers)
    reading, together = Reading(samples, unwanted), Collated(dict(tokenizers))
    if groups is None:
        return DataLoader(reading, batch_size, num_workers=workers, collate_fn=together)
    return DataLoader(reading, batch_sampler=groups, num_workers=workers, collate_fn=together)


@dataclass(frozen=True)
class Unread:
    """Stands where a sample could not be read."""

    id: str
    reason: str


@dataclass(frozen=True)
class Reading(Dataset[Sample | Unread]):
    """Reads a sample, or says why not. Samples without an id are named by their index."""

    samples: Samples | Sequence[Sample]
    unwanted: frozenset[str]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample | Unread:
        try:
            sample = self.samples[index]
        except (BadSample, OSError) as error:
            return Unread(self.name(index), str(error))
        wanted = {key: value for key, value in sample.items() if key not in self.unwanted}
        return {"id": self.name(index), **wanted}

    def name(self, index: int) -> str:
        ids = getattr(self.samples, "columns", {}).get("id")
        known = None if ids is None else ids[index]
        return str(index) if known is None else str(known)


@dataclass(frozen=True)
class Collated:
    """Collates what was read. When that fails, the samples are tried one by one."""

    tokenizers: dict[str, Tokenizer]

    def __call__(self, items: list[Sample | Unread]) -> Batch:
        skipped = [(item.id, item.reason) for item in items if isinstance(item, Unread)]
        good = [item for item in items if not isinstance(item, Unread)]
        try:
            batch = collate(good, self.tokenizers)
        except BadSample:
            good, bad = self.sorted_out(good)
            skipped += bad
            batch = collate(good, self.tokenizers)
        return replace(batch, skipped=tuple(skipped))

    def sorted_out(self, items: list[Sample]) -> tuple[list[Sample], list[tuple[str, str]]]:
        good, bad = [], []
        for item in items:
            try:
                collate([item], self.tokenizers)
                good.append(item)
            except BadSample as error:
                bad.append((str(item["id"]), str(error)))
        return good, bad


def computed(
    batch: Batch, compute: Callable[[Batch], T], skipped: list[tuple[str, str]]
) -> Iterator[tuple[Batch, T]]:
    """A batch and what `compute` makes of it; sample by sample when it refuses one of them."""
    if batch.size == 0:
        return
    try:
        yield batch, compute(batch)
    except BadSample as error:
        if batch.size == 1:
            skipped.append((batch.sample_ids[0], str(error)))
            return
        for row in range(batch.size):
            yield from computed(taken(batch, [row]), compute, skipped)
