"""Held-out rows: masked alike every time, never trained on, asked after every epoch."""

import pytest

from multimask import MaskedModel, Reconstruction
from multimask.tokens import Batch, Sample, Step, Term
from small_training import MASKER, rows, sample, trained


def test_held_out_rows_are_masked_alike_every_time() -> None:
    _, first = trained(validation=rows(6), lr=1e-9)
    values = [record["loss_val"] for record in first.epochs]
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    _, second = trained(validation=rows(6), lr=1e-9, batch_size=4)
    assert second.loss_val == pytest.approx(values[1], rel=1e-5)  # nor does the batch matter


def test_a_share_is_held_out_and_never_trained_on() -> None:
    class Seen(Reconstruction):
        def forward(self, model: MaskedModel, batch: Batch, step: Step) -> dict[str, Term]:
            (inside if self.training else outside).update(batch.sample_ids)
            return super().forward(model, batch, step)

    inside: set[str] = set()
    outside: set[str] = set()
    trained(objective=Seen(MASKER), validation=1 / 3)
    assert (len(inside), len(outside)) == (16, 8)
    assert not inside & outside
    with pytest.raises(ValueError, match=r"validation=0\.001 of 24 samples is 0"):
        trained(validation=0.001)


def test_neighbours_are_asked_after_every_epoch() -> None:
    def told_apart(index: int) -> Sample:
        plain = sample(index)
        return {**plain, "b": plain["b"] * 0.1 + (0.8 if plain["label"] == "x" else 0.0)}

    samples = [told_apart(index) for index in range(24)]
    _, result = trained(samples, online_knn="label")
    assert [record["knn"] for record in result.epochs] == [1.0, 1.0]
    _, result = trained(samples, online_knn="label", validation=0.25)
    assert result.epochs[-1]["knn"] == 1.0
    with pytest.raises(ValueError, match="online_knn='colour', but the samples have no such label"):
        trained(samples, online_knn="colour")
