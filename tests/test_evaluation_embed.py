"""Vectors of samples: what a row holds does not depend on batches, workers or order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from multimask.evaluation import embed
from multimask.modalities.image import ImagePatches
from multimask.model import MaskedModel
from multimask.tokens import BadSample, Part, Sample
from small_pictures import build


def pictures(count: int, seed: int = 0) -> list[Sample]:
    """Every third lacks `night`, some of the rest lack `day`; two native sizes."""
    generator, samples = torch.Generator().manual_seed(seed), []
    for index in range(count):
        side = 16 if index % 4 else 24
        sample: Sample = {"id": f"s{index}", "kind": index % 2}
        if index % 5:
            sample["day"] = torch.rand(2, side, side, generator=generator)
        if index % 3 or not index % 5:
            sample["night"] = torch.rand(2, side, side, generator=generator)
        samples.append(sample)
    return samples


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_row_does_not_depend_on_the_batch_it_was_in(batch_size: int) -> None:
    model, samples = build(), pictures(13)
    whole = embed(model, samples, batch_size=64)
    parts = embed(model, samples, batch_size=batch_size)
    assert parts.ids == whole.ids == tuple(f"s{index}" for index in range(13))
    np.testing.assert_allclose(parts.features, whole.features, rtol=0, atol=1e-6)


def test_workers_change_nothing() -> None:
    model, samples = build(), pictures(7)
    alone, with_workers = (embed(model, samples, batch_size=2, workers=w) for w in (0, 2))
    assert with_workers.ids == alone.ids
    assert np.array_equal(with_workers.features, alone.features)


def test_rows_follow_the_order_of_the_samples() -> None:
    model, samples = build(), pictures(9)
    forth = embed(model, samples, batch_size=4)
    back = embed(model, samples[::-1], batch_size=4)
    assert back.ids == forth.ids[::-1]
    np.testing.assert_allclose(back.features, forth.features[::-1], rtol=0, atol=1e-6)
    assert back.labels["kind"].tolist() == forth.labels["kind"].tolist()[::-1]


def test_embedding_from_one_modality_is_embedding_samples_that_lack_the_other() -> None:
    model, samples = build(), pictures(8)
    chosen = embed(model, samples, modalities=["day"])
    lacking = [{k: v for k, v in s.items() if k != "night"} for s in samples if "day" in s]
    assert chosen.ids == tuple(sample["id"] for sample in lacking)
    assert [name for name, _ in chosen.skipped] == ["s0", "s5"]  # they have nothing but `night`
    np.testing.assert_allclose(chosen.features, embed(model, lacking).features, atol=1e-6)
    assert set(chosen.labels) == {"kind"}
    with pytest.raises(ValueError, match=r"\['dusk'\] must be some of \['day', 'night'\]"):
        embed(model, samples, modalities=["dusk"])


def test_the_model_is_left_as_it_was() -> None:
    model = build().train()
    embed(model, pictures(3))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_global_pooling_takes_the_global_token() -> None:
    model, samples = build(), pictures(4)[1:2]
    features = embed(model, samples, pool="global").features
    assert not np.allclose(features, embed(model, samples).features)


class Broken:
    """A table of five of which some cannot be used, each in another way."""

    def __init__(self, whole: Sequence[int]) -> None:
        self.whole = set(whole)
        self.columns = {"id": ["a", "b", "c", "d", "e"]}

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Sample:
        name = self.columns["id"][index]
        picture = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(index))
        if index not in self.whole:
            if index == 0:
                raise FileNotFoundError("a.png: no such file")
            if index == 1:
                raise BadSample("b.png: cut short")
            picture = picture.log() / 0 if index == 2 else picture[:1]
        return {"id": name, "day": picture}

    def with_columns(self, **columns: Sequence[Any]) -> "Broken":
        raise NotImplementedError


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_bad_samples_are_left_out_and_told(batch_size: int) -> None:
    model = build()
    found = embed(model, Broken(whole=[4]), batch_size=batch_size)
    assert found.ids == ("e",)
    assert sorted(name for name, _ in found.skipped) == ["a", "b", "c", "d"]
    reasons = dict(found.skipped)
    assert reasons["a"] == "a.png: no such file"
    assert reasons["b"] == "b.png: cut short"
    assert "512 pixels are NaN" in reasons["c"]
    assert "(1, 16, 16)" in reasons["d"]
    undisturbed = embed(model, Broken(whole=range(5))).features[4:]
    np.testing.assert_allclose(found.features, undisturbed, atol=1e-6)


def test_nothing_but_bad_samples_is_an_error() -> None:
    samples = [{"id": "x", "day": torch.full((2, 16, 16), torch.nan)}]
    with pytest.raises(ValueError, match=r"none of 1 samples could be read; the first: x: .*NaN"):
        embed(build(), samples)


def test_a_sample_that_only_the_tokenizer_refuses_is_left_out() -> None:
    @dataclass(frozen=True)
    class Picky(ImagePatches):
        def __call__(self, part: Part) -> Any:
            if (part.data > 2).any():
                raise BadSample("Picky: too bright")
            return super().__call__(part)

    model = MaskedModel({"day": Picky(16, 4)}, width=24, depth=1, heads=2, decoder=False)
    samples = [{"id": str(i), "day": torch.full((3, 16, 16), float(i))} for i in range(5)]
    found = embed(model, samples)
    assert found.ids == ("0", "1", "2")
    assert found.skipped == (("3", "Picky: too bright"), ("4", "Picky: too bright"))


def test_labels_become_arrays() -> None:
    extra = [
        {"age": 1.5, "name": "x", "seen": torch.tensor(3), "map": torch.zeros(2, 2)},
        {"age": None, "name": "y", "seen": np.int64(4)},
    ]
    samples = [s | more for s, more in zip(pictures(2), extra, strict=True)]
    labels = embed(build(), samples).labels
    assert set(labels) == {"age", "kind", "name", "seen"}  # a map is no single value
    assert labels["age"].tolist() == [1.5, None]
    assert labels["name"].tolist() == ["x", "y"]
    assert labels["seen"].dtype.kind == labels["kind"].dtype.kind == "i"
