"""Rows drawn more often than others: in proportion, never twice in a batch, without state."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator

from multimask import MaskedModel, Masker, Ratio, Reconstruction, Uniform, fit
from multimask.datasets.table import Table
from multimask.modalities.image import ImagePatches
from multimask.tokens import Sample, Samples
from multimask.training import EpochSampler, Mixture
from multimask.training.loader import loader
from multimask.training.reading import Reading, blanks
from multimask.training.rows import Chosen
from multimask.training.weighting import row_weights, weighed


def draws(weights: np.ndarray, epochs: int, batch: int = 10, **of_rank: Any) -> np.ndarray:
    sampler = EpochSampler(np.arange(len(weights)), batch, seed=3, weights=weights, **of_rank)
    return np.array(
        [
            [d.index for b in range(len(sampler)) for d in sampler.batch(sampler.order(e), e, b)]
            for e in range(epochs)
        ]
    )


def test_rows_are_drawn_in_proportion_and_never_twice_in_a_batch() -> None:
    weights = np.random.default_rng(0).uniform(0, 1, 200) ** 3
    weights[7] = 0
    found = draws(weights, epochs=30)
    expected = 200 * weights / weights.sum()
    for epoch in found:  # every epoch is within one draw of its share
        assert np.abs(np.bincount(epoch, minlength=200) - expected).max() < 1
        assert all(len(set(batch)) == 10 for batch in epoch.reshape(-1, 10))
    np.testing.assert_allclose(np.bincount(found.ravel(), minlength=200) / 30, expected, atol=0.4)
    assert 7 not in found
    assert not np.array_equal(found[0], found[1])


def test_equal_weights_give_every_row_once() -> None:
    assert all(sorted(epoch) == list(range(60)) for epoch in draws(np.ones(60), epochs=3))


def test_ranks_share_each_batch_and_a_resumed_sampler_goes_on() -> None:
    weights = np.arange(1.0, 41.0)
    whole = EpochSampler(np.arange(40), 8, seed=1, weights=weights)
    parts = [EpochSampler(np.arange(40), 8, 1, rank, 2, weights=weights) for rank in range(2)]
    joined = [a + b for a, b in zip(*parts, strict=True)]
    assert joined == list(whole)
    later = EpochSampler(np.arange(40), 8, seed=1, weights=weights, trained=lambda: 7)
    again = list(later)  # epoch 1, from its third batch on
    order = whole.order(1)
    assert again == [whole.batch(order, 1, number) for number in (2, 3, 4)]


def test_a_sample_that_is_drawn_again_is_augmented_anew() -> None:
    table = Numbers(12)
    weights = np.array([9.0, *[1.0] * 11])
    sampler = EpochSampler(np.arange(12), 2, weights=weights)
    items = {
        workers: [i for batch in loader(Reading(table), sampler, list, workers) for i in batch]
        for workers in (0, 2)
    }
    seen = [item.sample["x"].item() for item in items[0] if item.sample["id"] == "0"]
    assert len(seen) >= 5
    assert len(set(seen)) == len(seen)
    assert [i.sample["x"].item() for i in items[2]] == [i.sample["x"].item() for i in items[0]]


class Numbers:
    """Each sample is a number drawn anew."""

    def __init__(self, count: int) -> None:
        self.columns = {"id": [str(row) for row in range(count)]}

    def __len__(self) -> int:
        return len(self.columns["id"])

    def __getitem__(self, index: int) -> Sample:
        return {"id": str(index), "x": torch.zeros(1)}

    def draw(self, index: int, generator: Generator) -> Sample:
        return {"id": str(index), "x": torch.rand(1, generator=generator)}

    def with_columns(self, **columns: Any) -> Samples:
        raise NotImplementedError


def table(rows: int = 40) -> Table:
    """Pictures of three classes, of which one is rare."""
    generator = Generator().manual_seed(0)
    pictures = torch.randint(256, (rows, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = ["rare" if row % 10 == 0 else "ab"[row % 2] for row in range(rows)]
    return Table.from_arrays(image=pictures, label=labels, weight=[float(r) for r in range(rows)])


def chosen(samples: Any) -> Chosen:
    return Chosen(samples, np.arange(len(samples)))


def test_classes_in_balance() -> None:
    samples = table()
    train = weighed(chosen(samples), None, "label", 4)
    assert train.weights is not None
    labels = np.array(list(samples.columns["label"]))
    found = labels[draws(train.weights, epochs=6, batch=4).ravel()]
    counts = [int((found == name).sum()) for name in ("rare", "a", "b")]
    assert max(counts) - min(counts) <= 24  # 240 draws, each row's share met to a draw an epoch
    assert sum(counts) == 240


def test_a_mixture_is_drawn_by_its_ratio_whatever_the_sizes() -> None:
    mixture = Mixture({"few": table(10), "many": table(90)}, {"few": 1, "many": 3})
    assert isinstance(mixture, Samples)
    assert (len(mixture), mixture.columns["id"][10]) == (100, "many/0")
    train = weighed(chosen(mixture), None, None, 5)
    assert train.weights is not None
    found = draws(train.weights, epochs=8, batch=5)
    shares = (found < 10).mean(axis=1)
    np.testing.assert_allclose(shares.mean(), 0.25, atol=0.01)
    assert [int(row) for row in found[0] if row < 10] != [int(row) for row in found[1] if row < 10]


def test_sets_of_a_mixture_may_know_different_modalities() -> None:
    waves = Table.from_arrays(wave=torch.rand(3, 4), label=[1, 2, 3])
    mixture = Mixture({"pictures": table(5), "waves": waves})
    assert mixture.columns["wave"][4] is None
    np.testing.assert_array_equal(blanks(mixture.columns["image"]), [False] * 5 + [True] * 3)
    assert mixture[6]["id"] == "waves/1"
    assert (mixture[6]["set"], set(mixture[6])) == ("waves", {"id", "set", "wave", "label"})
    more = mixture.with_columns(fold=list(range(8)))
    assert (more[6]["fold"], list(more.columns["fold"])[6]) == (6, 6)
    torch.testing.assert_close(mixture.draw(6, Generator())["wave"], waves[1]["wave"])


def trained(tmp_path: Path, name: str, samples: Any, **how: Any) -> Any:
    torch.manual_seed(0)
    model = MaskedModel(
        {"image": ImagePatches(8, patch=4, channels=1)},
        width=16,
        depth=1,
        heads=2,
        decoder_width=16,
        decoder_depth=1,
        decoder_heads=2,
    )
    objective = Reconstruction(Masker(Uniform(), Ratio(0.5)))
    quiet: dict[str, Any] = {"progress": False, "pictures": False, "warmup": 1, "device": "cpu"}
    return fit(
        model, objective, samples, epochs=2, batch_size=8, out=tmp_path / name, **quiet, **how
    )


def test_a_weighted_run_resumes_exactly(tmp_path: Path) -> None:
    samples = table()
    whole = trained(tmp_path, "whole", samples, weights="weight", workers=1)
    part = trained(tmp_path, "part", samples, weights="weight", limit_steps=3)
    last = tmp_path / "part" / "checkpoints" / "last.ckpt"
    rest = trained(tmp_path, "rest", samples, weights="weight", resume=last)
    assert (len(part.losses), rest.losses) == (3, whole.losses)
    with pytest.raises(ValueError, match="was written with weights="):
        trained(tmp_path, "other", samples, balanced="label", resume=last)


def test_a_mixture_trains(tmp_path: Path) -> None:
    mixture = Mixture({"few": table(16), "many": table(40)}, {"few": 1, "many": 2})
    assert np.isfinite(trained(tmp_path, "mixed", mixture, validation=0.2).losses).all()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"weights": "mass"}, "there is no column 'mass' to weigh by"),
        ({"weights": "label"}, "sample '0' has 'rare'; expected numbers"),
        ({"weights": "zero"}, "are all zero"),
        ({"weights": "hole"}, "sample '1' has None"),
        ({"balanced": "hole"}, "1 of 40 rows have none, the first is '1'"),
        ({"weights": "weight", "balanced": "label"}, "cannot both decide"),
    ],
)
def test_columns_that_do_not_weigh_are_told(how: dict[str, str], message: str) -> None:
    hole = [1.0, None, *[1.0] * 38]
    samples = table().with_columns(zero=[0.0] * 40, hole=hole)
    with pytest.raises(ValueError, match=message):
        row_weights(chosen(samples), how.get("weights"), how.get("balanced"))


def test_a_row_too_heavy_for_its_batches_is_told() -> None:
    heavy = table().with_columns(w=[1000.0, *[1.0] * 39])
    with pytest.raises(ValueError, match=r"'0' would be drawn 38.5 times in an epoch of 5 steps"):
        weighed(chosen(heavy), "w", None, 8)
    with pytest.raises(ValueError, match="must give each of the sets"):
        Mixture({"a": table()}, {"b": 1.0})
