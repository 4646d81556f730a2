"""Pictures while a run goes: the same few samples after every epoch, and the losses at the end."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np

from multimask import pictures
from multimask.curves import Line
from multimask.masking.budgets import Count
from multimask.masking.masker import Masker
from multimask.masking.rules import Uniform
from multimask.model import MaskedModel
from multimask.tokens import Batch
from multimask.training.missing import foreseen
from multimask.training.result import Record
from multimask.training.shell import Shell

MOST_COPIES = 100  # per-epoch pictures kept in a run


class Snapshots(L.Callback):
    """Fixed samples, masked alike, reconstructed before training and after every epoch:
    `reconstructions.png`, and a copy an epoch in `pictures/`."""

    def __init__(self, shell: Shell, batch: Batch, masker: Masker, out: Path, epochs: int) -> None:
        self.shell, self.batch, self.out = shell, batch, out
        self.masker = drawn_alone(shell.model, masker)
        self.every = -(-epochs // MOST_COPIES)

    def on_train_start(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == 0:  # a tokenizer that cannot draw says so now
            self.draw(trainer, 0)

    def on_train_epoch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self.draw(trainer, -(-trainer.global_step // self.shell.run.steps_per_epoch))

    def draw(self, trainer: L.Trainer, epoch: int) -> None:
        with self.shell.gathered():
            if trainer.is_global_zero and self.batch.size:
                self.draw_alone(epoch)

    def draw_alone(self, epoch: int) -> None:
        batch = self.batch.to(self.shell.device)
        picture = pictures.reconstruction_rows(self.shell.model, batch, self.masker)
        if picture is None:
            return
        pictures.save(picture, self.out / "reconstructions.png")
        if epoch % self.every == 0:
            pictures.save(picture, self.out / "pictures" / f"epoch-{epoch:04d}.png")


def drawn_alone(model: MaskedModel, masker: Masker) -> Masker:
    """A masker that needs no objective's help: one that looks at content is replaced by random
    masking of as many tokens."""
    if masker.content_free:
        return masker
    k, d = masker.counts(sum(model.num_tokens.values()), foreseen(model))
    return Masker(Uniform(), Count(k, d), masker.ragged)


def draw_curves(records: Sequence[Record], file: Path) -> None:
    """Losses by epoch, and below them kNN accuracy where there is one."""
    charts = [
        pictures.curves(lines(records, names), title, "epoch")
        for title, names in (("loss", ("loss", "loss_val")), ("kNN accuracy", ("knn",)))
        if lines(records, names)
    ]
    if charts:
        pictures.save(np.concatenate(charts), file)


def lines(records: Sequence[Record], names: Sequence[str]) -> dict[str, Line]:
    found = {
        name: [(record["epoch"] + 1, record[name]) for record in records if name in record]
        for name in names
    }
    return {name: line for name, line in found.items() if line}
