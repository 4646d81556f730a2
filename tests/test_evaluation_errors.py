"""Reconstruction errors: of hidden pixels alone, in their own scale."""

from typing import Any, cast

import pytest
import torch

from multimask.evaluation import reconstruction_error
from multimask.masking import Masker, Ratio
from multimask.model import MaskedModel
from multimask.nn.adapters import Target
from multimask.tokens import Sample, Step
from small_pictures import build

MASKER = Masker(budget=Ratio(0.5))


def same_size(count: int, seed: int = 0) -> list[Sample]:
    generator = torch.Generator().manual_seed(seed)
    return [{"id": str(i), "day": torch.rand(2, 16, 16, generator=generator)} for i in range(count)]


def silent(model: MaskedModel) -> MaskedModel:
    """Answers 0 whatever it is asked."""
    for adapter in model.adapters.values():
        torch.nn.init.zeros_(cast(Any, adapter).pred.weight)
    return model


def test_the_error_is_that_of_hidden_pixels_in_their_own_scale() -> None:
    samples = same_size(5)
    found = reconstruction_error(silent(build(names=["day"])), samples, MASKER, train=samples)
    generators = Step(0).generators([s["id"] for s in samples], "masking")
    squares, from_mean, mean = [], [], torch.stack([s["day"] for s in samples]).mean(dim=0)
    for sample, generator in zip(samples, generators, strict=True):
        for slot in torch.rand(16, generator=generator).argsort()[8:].tolist():
            row, column = 4 * (slot // 4), 4 * (slot % 4)
            window = (slice(None), slice(row, row + 4), slice(column, column + 4))
            squares.append((sample["day"][window] - 0.5).square())  # 0 is the value 0.5
            from_mean.append((sample["day"][window] - mean[window]).square())
    error = found.modalities["day"]
    assert (error.scale, error.tokens) == ("raw values", 40)
    assert error.error == pytest.approx(torch.stack(squares).mean().item(), rel=1e-5)
    assert error.of_mean == pytest.approx(torch.stack(from_mean).mean().item(), rel=1e-5)
    assert error.ratio == pytest.approx(error.error / cast(float, error.of_mean))


def test_normalised_targets_are_reported_as_such() -> None:
    model = silent(build(Target("patch"), names=["day"]))
    samples = same_size(3)
    error = reconstruction_error(model, samples, MASKER, train=samples[:1]).modalities["day"]
    assert error.scale == "normalised targets"
    assert error.error == pytest.approx(31 / 32, rel=1e-4)  # (m - 1) / m for m numbers a token
    alone = reconstruction_error(model, samples[:1], MASKER, train=samples[:1]).modalities["day"]
    assert alone.of_mean == pytest.approx(0, abs=1e-10)  # the mean of one sample is that sample


def test_batches_and_missing_modalities_change_no_error() -> None:
    model, samples = build(), same_size(6)
    for index, sample in enumerate(samples):
        sample["night"] = torch.rand(2, 16, 16)
        if index % 3 == 0:
            del sample["day" if index else "night"]
    masker = Masker(budget=Ratio(0.75))
    one, six = (reconstruction_error(model, samples, masker, batch_size=b) for b in (1, 6))
    for name in ("day", "night"):
        assert one.modalities[name].tokens == six.modalities[name].tokens
        assert one.modalities[name].error == pytest.approx(six.modalities[name].error, rel=1e-6)
        assert one.modalities[name].of_mean is None
    other = reconstruction_error(model, samples, masker, seed=1)
    assert other.modalities["day"].error != one.modalities["day"].error


def test_bad_samples_are_told_by_the_error_as_well() -> None:
    samples = [*same_size(3), {"id": "bad", "day": torch.full((2, 16, 16), torch.inf)}]
    found = reconstruction_error(build(names=["day"]), samples, MASKER)
    assert [name for name, _ in found.skipped] == ["bad"]
    with pytest.raises(ValueError, match=r"no hidden token was scored; the first skipped: bad"):
        reconstruction_error(build(names=["day"]), samples[3:], MASKER)
