"""Rules that bring their own size, and rules that tie tokens: counts, padding, no leak."""

import math

import pytest
import torch

from multimask.masking import Context, Masker, Natural, Ratio, Tied, Uniform
from multimask.modalities.spectral_masking import ChannelPatch
from multimask.tokens import Masking, Step

CHANNELS, PATCHES = 8, 16
CONTEXT = Context({"cube": range(CHANNELS * PATCHES)}, {"cube": (CHANNELS, 4, 4)}, True)


def draw(masker: Masker, size: int = 200, exists: torch.Tensor | None = None) -> Masking:
    if exists is None:
        exists = torch.ones(size, CHANNELS * PATCHES, dtype=torch.bool)
    generators = Step(seed=3).generators([str(row) for row in range(len(exists))], "masking")
    return masker(exists, generators, CONTEXT)


def visible(masking: Masking) -> torch.Tensor:
    return masking.visible.view(-1, CHANNELS, PATCHES)


@pytest.mark.parametrize("draws", [4_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_hidden_channels_are_uniform_and_one_always_stays(draws: int) -> None:
    """None to seven of eight, each number equally likely: mean 3.5, variance 63/12."""
    rule, there = ChannelPatch(patch=0.0, channel=1.0), torch.ones(CHANNELS, PATCHES).bool()
    generator = torch.Generator().manual_seed(3)
    seen = torch.stack([rule.draw(there, generator) < 1 for _ in range(draws)])
    per_channel = seen.sum(dim=2)
    assert set(per_channel.unique().tolist()) == {0, PATCHES}  # fully hidden or fully visible
    hidden = (per_channel == 0).sum(dim=1)
    counts = torch.bincount(hidden, minlength=CHANNELS)
    assert len(counts) == CHANNELS
    chance = 1 / CHANNELS
    error = math.sqrt(chance * (1 - chance) / draws)
    assert (counts / draws - chance).abs().max() < 4 * error
    assert abs(hidden.float().mean() - 3.5) < 4 * math.sqrt(63 / 12 / draws)
    chances = (per_channel == 0).float().mean(dim=0)  # of each channel alike
    assert (chances - 3.5 / CHANNELS).abs().max() < 4 * math.sqrt(0.25 / draws)


def test_patch_mode_keeps_the_same_number_in_each_channel() -> None:
    seen = visible(draw(Masker(ChannelPatch(patch=1.0, channel=0.0, ratio=0.75), Natural())))
    assert (seen.sum(dim=2) == 4).all()
    assert (seen[:, 0] != seen[:, 1]).any()  # each channel its own patches


def test_combination_keeps_no_token_of_a_hidden_channel() -> None:
    per_channel = visible(draw(Masker(ChannelPatch(0.0, 0.0, 0.25), Natural()))).sum(dim=2)
    assert set(per_channel.unique().tolist()) == {0, 12}
    assert (per_channel > 0).any(dim=1).all()


def test_the_published_preset_alternates() -> None:
    per_channel = visible(draw(Masker(ChannelPatch(), Natural()), 1000)).sum(dim=2)
    patches_only = (per_channel == 4).all(dim=1)
    channels_only = ((per_channel == 0) | (per_channel == PATCHES)).all(dim=1)
    assert (patches_only | channels_only).all()
    assert 0.45 < patches_only.float().mean() < 0.55


def test_padding_is_never_visible_and_everything_hidden_is_decoded() -> None:
    masking = draw(Masker(ChannelPatch(), Natural()))
    assert masking.padded
    assert masking.valid is not None
    assert (masking.valid.sum(dim=1) == masking.visible.sum(dim=1)).all()
    assert (masking.target == ~masking.visible).all()


def test_a_cap_limits_what_is_visible() -> None:
    masking = draw(Masker(ChannelPatch(patch=0.0, channel=1.0), Natural(visible=0.5)))
    assert masking.ids.shape[1] == CHANNELS * PATCHES // 2
    assert masking.visible.sum(dim=1).max() == CHANNELS * PATCHES // 2


def test_absent_channels_are_not_counted() -> None:
    exists = torch.ones(500, CHANNELS * PATCHES, dtype=torch.bool)
    exists[:, 3 * PATCHES :] = False
    masking = draw(Masker(ChannelPatch(patch=0.0, channel=1.0), Natural()), exists=exists)
    per_channel = visible(masking).sum(dim=2)
    assert not per_channel[:, 3:].any()
    assert set((per_channel[:, :3] == 0).sum(dim=1).tolist()) == {0, 1, 2}


def test_a_natural_budget_needs_a_rule_that_says_how_much() -> None:
    with pytest.raises(ValueError, match="Uniform does not say how many"):
        draw(Masker(Uniform(), Natural()))


def test_a_sample_draws_alike_in_any_company() -> None:
    masker = Masker(ChannelPatch(), Natural())
    alone = draw(masker, 1)
    assert torch.equal(draw(masker, 5).visible[0], alone.visible[0])


@pytest.mark.parametrize(("axes", "unit"), [((0,), 8), ((1, 2), 16)])
def test_tied_tokens_are_hidden_together(axes: tuple[int, ...], unit: int) -> None:
    masking = draw(Masker(Tied(axes), Ratio(0.75)))
    seen = visible(masking)
    if axes == (0,):  # tubes: the same places in every band
        assert (seen == seen[:, :1]).all()
        assert (seen[:, 0].sum(dim=1) == 4).all()
    else:  # whole bands
        assert (seen == seen[..., :1]).all()
        assert (seen[..., 0].sum(dim=1) == 2).all()
    assert masking.ids.shape[1] % unit == 0
    assert len(seen.unique(dim=0)) > 20  # and not the same in every sample


def test_tied_needs_the_axis() -> None:
    with pytest.raises(ValueError, match="lattice of 3 axes, no axis 4"):
        draw(Masker(Tied((4,)), Ratio(0.75)))
