"""The loader: what is drawn is a function of seed, epoch and id, whoever reads it."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from multimask import BadSample, Block, Count, MaskedModel, Masker, Ratio, Step, Uniform
from multimask.masking.context import Context
from multimask.modalities.image import ImagePatches
from multimask.tokens import Batch, Picks, Sample
from multimask.training import parcel
from multimask.training.collate import Collate, Windows
from multimask.training.loader import loader
from multimask.training.parcel import Packed, Parcel
from multimask.training.reading import Item, Listed, Reading, Rows, Skipped, as_samples
from multimask.training.sampler import Draw, EpochSampler

SIZES = {"a": 8, "b": 16}


def model() -> MaskedModel:
    torch.manual_seed(0)
    tokenizers = {name: ImagePatches(size, 4, channels=1) for name, size in SIZES.items()}
    return MaskedModel(tokenizers, width=16, depth=1, heads=2, decoder_width=16, decoder_depth=1)


def sample(index: int, names: str = "ab") -> Sample:
    generator = Generator().manual_seed(index)
    parts = {n: torch.rand(1, SIZES[n], SIZES[n], generator=generator) for n in names}
    return {"id": f"s{index}", **parts}


def items(*samples: Sample | Skipped, epoch: int = 3) -> list[Item]:
    return [Item(epoch, each) for each in samples]


# --- the sampler ----------------------------------------------------------------------------------


def drawn(sampler: EpochSampler) -> list[list[int]]:
    return [[draw.index for draw in batch] for batch in sampler]


def flat(sampler: EpochSampler) -> list[int]:
    return [draw.index for batch in sampler for draw in batch]


def test_every_epoch_is_a_permutation_that_seed_and_epoch_decide() -> None:
    def epoch(number: int, seed: int = 0) -> list[int]:
        sampler = EpochSampler(np.arange(12), 4, seed, trained=lambda: 3 * number)
        return flat(sampler)

    assert sorted(epoch(0)) == list(range(12))
    assert epoch(0) == epoch(0)
    assert epoch(0) != epoch(1)
    assert epoch(0) != epoch(0, seed=1)


def test_ranks_share_each_batch() -> None:
    whole = drawn(EpochSampler(np.arange(13), 6, seed=5))
    shares = [drawn(EpochSampler(np.arange(13), 6, 5, rank, world_size=2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*shares, strict=True)] == whole
    assert [len(batch) for batch in whole] == [6, 6]  # the thirteenth is left over


def test_it_starts_behind_what_is_trained_and_keeps_its_length() -> None:
    whole = drawn(EpochSampler(np.arange(20), 4))
    sampler = EpochSampler(np.arange(20), 4, trained=lambda: 3)
    assert drawn(sampler) == whole[3:]
    assert len(sampler) == 5
    later = EpochSampler(np.arange(20), 4, trained=lambda: 7)
    assert [draw.epoch for draw in next(iter(later))] == [1] * 4
    assert drawn(later) == drawn(EpochSampler(np.arange(20), 4, trained=lambda: 5))[2:]


def test_where_it_starts_is_settled_when_iteration_begins() -> None:
    trained = 0
    sampler = EpochSampler(np.arange(8), 4, trained=lambda: trained)
    batches = iter(sampler)
    trained = 1
    assert len(list(batches)) == 2


def test_rows_are_drawn_from_those_given() -> None:
    rows = np.array([3, 7, 11, 15])
    assert sorted(flat(EpochSampler(rows, 2))) == rows.tolist()


def test_too_few_samples_are_told_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"7 samples .* batch_size=8"):
        EpochSampler(np.arange(7), 8)


# --- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Augmented:
    """Samples that can draw; row 2 is damaged, row 4 is not there."""

    size: int = 12

    def __len__(self) -> int:
        return self.size

    @property
    def columns(self) -> dict[str, Sequence[Any]]:
        return {"id": [f"s{index}" for index in range(self.size)]}

    def with_columns(self, **columns: Sequence[Any]) -> "Augmented":
        raise NotImplementedError

    def __getitem__(self, index: int) -> Sample:
        if index == 2:
            raise BadSample("s2: expected a picture, found noise.")
        if index == 4:
            raise FileNotFoundError("s4 is gone")
        return sample(index)

    def draw(self, index: int, generator: Generator) -> Sample:
        plain = self[index]
        return {**plain, "b": plain["b"] * torch.rand(1, generator=generator)}


def read(reading: Reading, index: int, epoch: int) -> Sample:
    found = reading[Draw(index, epoch)].sample
    assert not isinstance(found, Skipped)
    return found


def test_augmentation_belongs_to_sample_and_epoch() -> None:
    reading = Reading(Augmented(), seed=3)
    once, again = read(reading, 1, epoch=0), read(reading, 1, epoch=0)
    torch.testing.assert_close(once["b"], again["b"], rtol=0, atol=0)
    assert not torch.equal(once["b"], read(reading, 1, epoch=1)["b"])
    assert not torch.equal(once["b"], read(Reading(Augmented(), seed=4), 1, epoch=0)["b"])
    plain = read(Reading(Augmented(), seed=3, augmented=False), 1, epoch=0)
    assert torch.equal(plain["b"], sample(1)["b"])


def test_what_cannot_be_read_says_why() -> None:
    reading = Reading(Augmented())
    assert reading[Draw(2, 0)].sample == Skipped("s2", "s2: expected a picture, found noise.")
    assert reading[Draw(4, 0)].sample == Skipped("s4", "s4 is gone")


def test_a_bug_is_not_a_bad_sample() -> None:
    class Broken(Augmented):
        def __getitem__(self, index: int) -> Sample:
            raise KeyError("a typo")

    with pytest.raises(KeyError):
        Reading(Broken())[Draw(0, 0)]


def test_a_sample_names_itself_else_its_column_else_its_index() -> None:
    unnamed = [{"a": torch.zeros(1, 8, 8)}, {"a": torch.zeros(1, 8, 8), "id": "own"}]
    plain = Reading(as_samples(unnamed))
    assert [read(plain, index, 0)["id"] for index in (0, 1)] == ["0", "own"]
    known = Reading(Listed(tuple(unnamed), extra={"id": ["column", "column"]}))
    assert [read(known, index, 0)["id"] for index in (0, 1)] == ["column", "own"]


def test_reading_and_collate_survive_pickling() -> None:
    made = model()
    reading = Reading(as_samples([sample(0), sample(1)]), seed=3)
    collate = Windows(Collate.of(made, Masker(Uniform(), Ratio(0.5))), 2)
    again, collate_again = pickle.loads(pickle.dumps((reading, collate)))
    draws = [Draw(0, 1), Draw(1, 1)]
    ours, theirs = (
        c([r[draw] for draw in draws]) for c, r in ((collate, reading), (collate_again, again))
    )
    assert_same(ours, theirs)


def test_a_list_of_samples_has_columns() -> None:
    columns = as_samples([sample(0, "a"), {**sample(1), "label": 1}], ("c",)).columns
    assert columns["id"] == ["s0", "s1"]
    assert columns["b"][0] is None
    assert columns["label"] == [None, 1]
    assert columns["c"] == [None, None]
    with pytest.raises(ValueError, match=r"the id 's1' occurs twice"):
        as_samples([sample(0), sample(1), sample(1)])


def test_rows_are_samples_too() -> None:
    rows = Rows(as_samples([sample(0), sample(1), sample(2)]), np.array([2, 0]))
    assert [each["id"] for each in (rows[0], rows[1])] == ["s2", "s0"]
    assert rows.columns["id"] == ["s2", "s0"]
    assert rows.with_columns(split=["x", "y"]).columns["split"] == ["x", "y"]


# --- collate --------------------------------------------------------------------------------------


def test_what_cannot_be_used_is_left_out_and_named() -> None:
    collate = Collate.of(model(), Masker(Uniform(), Count(5)))
    wrong = {**sample(7), "a": torch.rand(3, 8, 8)}
    none = {"id": "s8", "label": 1}
    batch = collate(items(sample(0), Skipped("s5", "gone"), wrong, none, sample(1, "a"), sample(2)))
    assert batch.sample_ids == ("s0", "s2")
    assert [name for name, _ in batch.skipped] == ["s5", "s7", "s8", "s1"]
    reasons = dict(batch.skipped)
    assert "none of the model's modalities" in reasons["s8"]
    assert "4 tokens, but 5 are to stay visible" in reasons["s1"]
    assert batch.masking is not None
    assert len(batch.masking.ids) == 2


def test_a_batch_of_nothing_is_a_batch() -> None:
    batch = Collate.of(model(), Masker(Uniform(), Ratio(0.5)))(items(Skipped("s0", "gone")))
    assert (batch.size, batch.parts) == (0, {})
    assert batch.masking is not None
    assert batch.masking.ids.shape == (0, 10)


def test_ragged_maskers_take_short_samples() -> None:
    batch = Collate.of(model(), Masker(Uniform(), Count(5), ragged=True))(items(sample(1, "a")))
    assert batch.size == 1
    assert batch.masking is not None
    assert batch.masking.padded


def test_a_masking_does_not_depend_on_batch_mates() -> None:
    collate = Collate.of(model(), Masker(Uniform(), Count(6)), seed=2)
    alone = collate(items(sample(1))).masking
    beside = collate(items(sample(0, "b"), sample(1), sample(2))).masking
    assert alone is not None
    assert beside is not None
    assert torch.equal(alone.ids[0], beside.ids[1])
    assert torch.equal(alone.decoded_ids[0], beside.decoded_ids[1])


def test_the_loader_masks_as_the_step_would() -> None:
    made, masker = model(), Masker(Block(), Count(6))
    batch = Collate.of(made, masker, seed=2)(items(sample(0), sample(1, "b"), epoch=4))
    tokens = made.tokenize(batch)
    generators = Step(seed=2, epoch=4).generators(batch.sample_ids, "masking")
    late = masker(tokens.exists, generators, made.context(tokens))
    assert batch.masking is not None
    assert torch.equal(batch.masking.ids, late.ids)
    picked, loaded = made.picked(tokens, late), batch.masking
    assert_same(picked.picks, loaded.picks)
    assert_same(picked.decoded_picks, loaded.decoded_picks)


@dataclass(frozen=True)
class Looks:
    needs_content = True

    def __call__(self, exists: Tensor, generators: list[Generator], context: Context) -> Tensor:
        assert context.tokens is not None
        return torch.rand(exists.shape)


def test_a_rule_that_looks_at_content_waits_for_it() -> None:
    for masker in (Masker(Looks(), Count(6)), Masker(Uniform(), Count(6), decoded=Looks())):
        batch = Collate.of(model(), masker)(items(sample(0), sample(1, "a")))
        assert batch.masking is None
        assert batch.sample_ids == ("s0",)  # too few tokens are known without looking


def test_a_parcel_holds_what_was_put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model()
    pack = Packed(Windows(Collate.of(made, Masker(Uniform(), Count(6))), 2))
    plain = pack(items(sample(0), sample(1)))
    monkeypatch.setattr(parcel, "get_worker_info", lambda: "in a worker")
    for limit in (parcel.SMALL, 0):
        monkeypatch.setattr(parcel, "SMALL", limit)
        sent = pack(items(sample(0), sample(1)))
        assert isinstance(sent, Parcel)
        assert bool(sent.large) == (limit == 0)
        assert_same(sent.opened(), plain)
    half = Packed(lambda items: {"x": torch.ones(3, dtype=torch.bfloat16)})([])
    assert_same(half.opened(), {"x": torch.ones(3, dtype=torch.bfloat16)})


# --- together -------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_number_of_workers_changes_nothing(accumulate: int) -> None:
    collate = Windows(Collate.of(model(), Masker(Uniform(), Count(6)), seed=1), accumulate)
    sampler = EpochSampler(np.arange(12), 4, seed=1)
    reading = Reading(Augmented(), seed=1)
    alone, together = (
        list(loader(reading, sampler, collate, workers=workers)) for workers in (0, 2)
    )
    assert len(alone) == len(together) == 3
    for ours, theirs in zip(alone, together, strict=True):
        assert_same(ours, theirs)


def test_a_loader_takes_nothing_from_the_global_generator() -> None:
    collate = Collate.of(model(), None)
    before = torch.get_rng_state()
    list(loader(Reading(Augmented()), EpochSampler(np.arange(12), 4), collate))
    assert torch.equal(before, torch.get_rng_state())


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal to the bit, through tuples, dicts and records."""
    if isinstance(ours, Tensor):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    elif isinstance(ours, Batch | Picks) or hasattr(ours, "__dataclass_fields__"):
        for name in ours.__dataclass_fields__:
            assert_same(getattr(ours, name), getattr(theirs, name))
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, tuple | list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    else:
        assert ours == theirs
