"""kNN accuracy while a run goes: are the features getting better at telling classes apart?"""

from typing import Any

import lightning as L
import numpy as np
import torch

from multimask.evaluation import embed, knn
from multimask.tokens import Samples, sample_generator
from multimask.training.reading import Rows, blanks
from multimask.training.rows import Chosen, split
from multimask.training.shell import Shell

MOST_KNOWN, MOST_ASKED = 2000, 1000  # rows: this runs after every epoch


class Neighbours(L.Callback):
    """Fixed rows are embedded after every epoch, nothing hidden, without augmentation; those
    `asked` are classified by those `known`. The share that is right is `knn` in the record; rows of
    classes that no known row has are not asked."""

    def __init__(
        self, shell: Shell, known: Samples, asked: Samples, label: str, batch_size: int
    ) -> None:
        self.shell, self.known, self.asked = shell, known, asked
        self.label, self.batch_size = label, batch_size

    @classmethod
    def of(
        cls, shell: Shell, train: Chosen, held: Chosen | None, label: str, batch_size: int
    ) -> "Neighbours":
        """Held-out rows classified by training rows; without any, one half of the training rows by
        the other."""
        seed = shell.run.seed
        if held is None:
            train, held = split(Rows(train.samples, train.rows), 0.5, seed)
            assert held is not None
        known = labelled(train, label, seed, MOST_KNOWN)
        return cls(shell, known, labelled(held, label, seed, MOST_ASKED), label, batch_size)

    def on_train_epoch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        with self.shell.gathered():
            if trainer.is_global_zero:
                self.ask()

    def ask(self) -> None:
        known, classes = self.features(self.known)
        asked, wanted = self.features(self.asked)
        told_of = np.isin(wanted, classes)
        voted = knn(known, classes, asked[told_of], wanted[told_of])
        assert voted.accuracy is not None
        self.shell.beside["knn"] = voted.accuracy

    def features(self, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
        model = self.shell.model
        made = embed(model, samples, batch_size=self.batch_size, device=self.shell.device)
        if self.label not in made.labels:
            raise ValueError(
                f"fit: online_knn={self.label!r}, but the samples have no such label; they have "
                f"{', '.join(made.labels) or 'none'}."
            )
        labels = made.labels[self.label]
        there = np.array([value is not None for value in labels])
        return made.features[there], labels[there].astype(str)


def labelled(chosen: Chosen, label: str, seed: int, most: int) -> Samples:
    """At most so many of these rows, drawn once, of those that have the label as far as columns
    tell."""
    columns, rows = chosen.samples.columns, chosen.rows
    if label in columns:
        rows = rows[~blanks(columns[label])[rows]]
    generator = sample_generator(seed, 0, "", "neighbours")
    order = torch.randperm(len(rows), generator=generator).numpy()[:most]
    return Rows(chosen.samples, np.sort(rows[order]))
