"""What the model answers: pictures of any size, given back where only the hidden was asked for."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from multimask.masking import Block, Count, Masker, Ratio
from multimask.modalities.image import ImagePatches
from multimask.modality import collate
from multimask.nn.adapters import Target
from multimask.objectives import Reconstruction
from multimask.tokens import Step
from small_models import DAY, KINDS, MIXED, NIGHT, build, sample, tokens_and_masking


def test_encoding_mixed_native_sizes_is_encoding_one_by_one() -> None:
    model = build()
    sizes = [(8, 12), (16, 8), (8, 12), (4, 4), (16, 8)]
    samples = [sample("day", "night", seed=index) for index in range(5)]
    for one, (height, width) in zip(samples, sizes, strict=True):
        one["day"] = torch.rand(3, height, width, dtype=torch.double)
    del samples[2]["night"]
    whole = model.encode(collate(samples, KINDS), taps=(-1,))
    for row, one in enumerate(samples):
        alone = model.encode(collate([one], KINDS), taps=(-1,))
        count = alone.tokens.shape[1]
        torch.testing.assert_close(whole.tokens[row, :count], alone.tokens[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(whole.taps[0][row, :count], alone.taps[0][0], rtol=0, atol=1e-9)
        for pool in ("mean", "global"):
            mine, its = whole.pooled(pool)[row], alone.pooled(pool)[0]
            torch.testing.assert_close(mine, its, rtol=0, atol=1e-9)


def stripes(channels: int) -> Tensor:
    """96 x 160, where every pixel tells its row, column and channel."""
    rows, columns = torch.arange(96).double()[:, None] / 96, torch.arange(160).double() / 160
    return torch.stack([(0.9 * rows + 0.1 * columns + c / 7) / 2 for c in range(channels)])


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_wide_picture_is_trained_on_and_answered(channels: int) -> None:
    patches = ImagePatches((96, 160), 16, channels)
    model = build({"photo": patches}).train()
    objective = Reconstruction(Masker(Block(), Ratio(0.5)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch, losses = collate([{"id": "x", "photo": stripes(channels)}], model.tokenizers), []
    for index in range(25):
        loss = objective(model, batch, Step(0, index))["photo"].value()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2
    found = model.reconstruct(batch, objective.masker)
    assert model.training
    assert found.visible["photo"].sum() == 30
    picture = cast(Tensor, model.untokenize("photo", found.restored["photo"]))
    assert picture.shape == (1, channels, 96, 160)
    drawn = patches.picture(found.restored["photo"], found.visible["photo"][0])
    assert drawn.shape == (96, 160, 3)


class Knows(nn.Module):
    """An adapter that answers every token with its true values."""

    def __init__(self, inner: Any, truth: Tensor, leaks: bool) -> None:
        super().__init__()
        self.inner, self.truth, self.restoring_leaks = inner, truth, leaks
        for name in ("embed", "place", "decoder_place", "error"):
            setattr(self, name, getattr(inner, name))
        self.slots = torch.zeros(0, dtype=torch.long)

    def predict(self, features: Tensor) -> Tensor:
        return self.truth.index_select(0, self.slots)

    def restore(self, prediction: Tensor, values: Tensor) -> Tensor:
        return prediction


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_true_answers_give_back_the_picture(channels: int) -> None:
    """Rows, columns and channels land where they belong: hidden patches answered with their true
    values are the picture, and single pixels are those that were put in."""
    patches, image = ImagePatches((96, 160), 16, channels), stripes(channels)
    model = build({"photo": patches})
    batch = collate([{"id": "x", "photo": image}], model.tokenizers)
    tokens, masking = tokens_and_masking(model, [{"id": "x", "photo": image}], Masker())
    knows = Knows(model.adapters["photo"], tokens.modalities["photo"].values[0], leaks=False)
    knows.slots = masking.decoded_ids[0]
    model.adapters["photo"] = knows
    found = model.reconstruct(replace(batch, masking=masking))
    restored = cast(Tensor, model.untokenize("photo", found.restored["photo"]))[0]
    torch.testing.assert_close(restored, image, rtol=0, atol=1e-9)
    for channel, row, column in ((0, 0, 0), (0, 95, 0), (0, 0, 159), (channels - 1, 17, 130)):
        wanted = (0.9 * row / 96 + 0.1 * column / 160 + channel / 7) / 2
        assert restored[channel, row, column].item() == pytest.approx(wanted, abs=1e-6)
    drawn = patches.picture(found.restored["photo"])
    shown = [0, 0, 0] if channels == 1 else [0, 1, 2]
    for row, column in ((0, 0), (95, 0), (0, 159), (40, 120)):
        levels = [round(255 * image[c, row, column].item()) for c in shown]
        assert drawn[row, column].tolist() == levels
    blanked = patches.picture(found.tokens["photo"], found.visible["photo"][0])
    for row, column in ((0, 0), (95, 0), (0, 159), (40, 120)):
        slot = (row // 16) * 10 + column // 16
        levels = [round(255 * image[c, row, column].item()) for c in shown]
        assert blanked[row, column].tolist() == (
            levels if found.visible["photo"][0, slot] else [128, 128, 128]
        )


def test_only_what_was_hidden_is_answered() -> None:
    model = build()
    found = model.reconstruct(collate(MIXED, KINDS), Masker(budget=Count(3, 5)))
    for name, part in found.tokens.items():
        same = torch.isclose(found.restored[name].values, part.values, equal_nan=True).all(dim=2)
        assert torch.equal(~same, found.target[name][part.rows])
    assert sum(int(target.sum()) for target in found.target.values()) > 5
    assert found.leaks == ()


@pytest.mark.parametrize("unit", ["patch", "channel"])
def test_restoring_normalised_targets_is_told_as_a_leak(unit: Any) -> None:
    model = build({"day": DAY, "night": NIGHT}, target=Target(unit))
    found = model.reconstruct(collate([sample("day", "night", seed=1)], model.tokenizers), Masker())
    assert found.leaks == ("day", "night")
    hidden = found.target["day"][0]
    mean = (lambda x: x.mean(1)) if unit == "patch" else (lambda x: x.view(-1, 16, 3).mean(1))
    adapter = cast(Any, model.adapters["day"])
    nn.init.zeros_(adapter.pred.weight)
    nn.init.zeros_(adapter.pred.bias)
    answered = model.reconstruct(
        collate([sample("day", "night", seed=1)], model.tokenizers), Masker()
    )
    torch.testing.assert_close(
        mean(answered.restored["day"].values[0][hidden]),
        mean(answered.tokens["day"].values[0][hidden]),
    )
