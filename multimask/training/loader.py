"""Loaders over draws: shuffled windows to train on, and rows that are read alike every time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from multimask.masking.masker import Masker
from multimask.model import MaskedModel
from multimask.tokens import Batch
from multimask.training import hardware
from multimask.training.collate import Collate, Windows
from multimask.training.parcel import OpeningLoader, Packed
from multimask.training.reading import Reading
from multimask.training.rows import Chosen
from multimask.training.sampler import Draw, EpochSampler
from multimask.training.shell import Shell


def loaders(
    shell: Shell, train: Chosen, alike: "ReadAlike | None", accumulate: int, workers: int, pin: bool
) -> list[DataLoader[Any]]:
    """Windows to train on and, where rows are held out, batches of them, for this rank."""
    run, rank, ranks = shell.run, hardware.rank(), hardware.ranks()
    if run.batch_size % (accumulate * ranks):
        raise ValueError(
            f"fit: batch_size={run.batch_size} samples a step cannot be cut into "
            f"accumulate={accumulate} equal micro-batches on each of {ranks} ranks; "
            f"choose a multiple of {accumulate * ranks}."
        )
    sampler = EpochSampler(
        train.rows,
        run.batch_size,
        run.seed,
        rank,
        ranks,
        trained=lambda: shell.global_step,
        weights=train.weights,
    )
    masker = getattr(shell.objective, "masker", None)
    windows = Windows(Collate.of(shell.model, masker, run.seed), accumulate)
    made = [loader(Reading(train.samples, run.seed), sampler, windows, workers, pin)]
    if alike is not None:
        batches = alike.batches(sampler.share // accumulate, rank, ranks)
        made.append(loader(alike.reading, batches, alike.collate, workers, pin))
    return made


def loader(
    reading: Reading,
    batches: EpochSampler | Sequence[list[Draw]],
    collate: Callable[[Sequence[Any]], Any],
    workers: int = 0,
    pinned: bool = False,
) -> DataLoader[Any]:
    """Reads what `batches` lists. Takes nothing from torch's global generator."""
    return OpeningLoader(
        reading,
        batch_sampler=batches,
        collate_fn=Packed(collate),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pinned,
        generator=torch.Generator().manual_seed(0),
    )


@dataclass(frozen=True, eq=False)
class ReadAlike:
    """Rows without augmentation, their masks those of epoch 0 and a purpose of their own."""

    chosen: Chosen
    reading: Reading
    collate: Collate

    @classmethod
    def of(
        cls, chosen: Chosen, model: MaskedModel, masker: Masker | None, seed: int
    ) -> "ReadAlike":
        reading = Reading(chosen.samples, seed, augmented=False)
        return cls(chosen, reading, Collate.of(model, masker, seed, "validation"))

    def batches(self, size: int, rank: int = 0, ranks: int = 1) -> list[list[Draw]]:
        """A rank's rows in batches, the last one as it comes."""
        mine = [Draw(index, 0) for index in self.chosen.rows[rank::ranks].tolist()]
        return [mine[start : start + size] for start in range(0, len(mine), size)]

    def first(self, count: int) -> Batch:
        """The first rows that can be read."""
        found: list[Any] = []
        for index in self.chosen.rows.tolist():
            item = self.reading[Draw(index, 0)]
            if self.collate([item]).size:
                found.append(item)
            if len(found) == count:
                break
        return self.collate(found)
