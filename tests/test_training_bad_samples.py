"""Bad samples in training: skipped, counted and listed, until there are too many."""

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from multimask import BadSample
from multimask.tokens import Sample
from multimask.training import TrainingError
from small_training import sample, trained, weights


@dataclass(frozen=True)
class Damaged:
    """Rows of which some cannot be read; with `whole_batches` all of the first eight drawn."""

    bad: frozenset[int]
    size: int = 24

    def __len__(self) -> int:
        return self.size

    @property
    def columns(self) -> dict[str, Sequence[Any]]:
        return {"id": [f"s{index}" for index in range(self.size)]}

    def with_columns(self, **columns: Sequence[Any]) -> "Damaged":
        raise NotImplementedError

    def __getitem__(self, index: int) -> Sample:
        if index in self.bad:
            raise BadSample(f"s{index}: noise, not a picture.")
        return sample(index)


def test_bad_samples_are_skipped_counted_and_listed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        _, result = trained(Damaged(frozenset({3, 5})), out=tmp_path, epochs=3)
    assert sorted(result.skipped) == [(f"s{i}", f"s{i}: noise, not a picture.") for i in (3, 5)]
    assert result.seen == 72
    assert "2 samples could not be used" in caplog.text
    with (tmp_path / "log" / "skipped.csv").open() as file:
        listed = list(csv.reader(file))
    assert listed[0] == ["id", "reason"]
    assert sorted(listed[1:]) == sorted(map(list, result.skipped))


def test_too_many_bad_samples_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"max_bad=20% .* the first is 's\d+': s\d+: noise"):
        trained(Damaged(frozenset(range(12))), out=tmp_path)
    assert (tmp_path / "log" / "skipped.csv").exists()
    early: list[int] = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
            early.append(trainer.global_step)

    with pytest.raises(TrainingError, match=r"of 56 samples"):
        trained(Damaged(frozenset(range(500)), 1000), callbacks=[Watch()])
    assert early[-1] == 6  # long before the epoch's end


@pytest.mark.parametrize("accumulate", [1, 2, 8])
def test_a_batch_of_which_nothing_can_be_read_is_survived(accumulate: int) -> None:
    samples = Damaged(frozenset(range(12)), 16)
    made, result = trained(samples, max_bad=1.0, epochs=4, batch_size=2 * accumulate, seed=1)
    assert torch.isfinite(weights(made)).all()
    assert len(result.skipped) == 12
    if accumulate == 1:
        assert any(loss != loss for loss in result.losses)
    assert torch.isfinite(torch.tensor([record["loss"] for record in result.epochs])).all()
