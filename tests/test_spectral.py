"""The spectral kind: what a token holds and which tokens exist."""

from typing import Any

import numpy as np
import pytest
import torch

from multimask.evaluation import raw_means, raw_values
from multimask.masking import Masker, Natural, Ratio, Slab, Uniform, masker_for
from multimask.methods.mae import mae
from multimask.modalities.spectral import SpectralPatches
from multimask.modalities.spectral_masking import ChannelPatch
from multimask.testing import check_masker, check_modality
from multimask.tokens import BadSample
from small_cubes import NM, PATCHES, cube, tokens_of

# --- tokens ---------------------------------------------------------------------------------------


def test_a_token_is_one_patch_of_one_band_with_its_wavelength() -> None:
    sample = cube(1)
    tokens = tokens_of(sample)
    assert tokens.grid == (6, 4, 4)
    token = 3 * 16 + 1 * 4 + 2  # band 3, patch row 1, patch column 2
    assert torch.equal(tokens.values[0, token], sample["pixels"][3, 4:8, 8:12].flatten())
    assert tokens.coords[0, token].tolist() == [6.0, 10.0, 665.0, -1.0]
    assert tokens.valid is not None
    assert tokens.valid[0].sum() == 5 * 16  # the sixth band is a slot that nothing fills


def test_pixels_come_back_exactly_also_those_beside_missing_ones() -> None:
    sample = cube(2)
    sample["pixels"][1, :2, 5] = torch.nan
    patches = SpectralPatches(size=16, patch=4, bands=5, mean=0.3, std=2.0)
    back = patches.untokenize(tokens_of(sample, patches=patches))
    torch.testing.assert_close(back["pixels"][0], sample["pixels"], equal_nan=True)
    assert back["wavelengths"].tolist() == [list(NM)]


def test_groups_hold_neighbouring_bands() -> None:
    patches = SpectralPatches(size=8, patch=4, bands=6, group=3)
    sample = cube(3, (400.0, 500.0, 600.0, 700.0, 800.0, 900.0), size=8)
    tokens = tokens_of(sample, patches=patches)
    assert tokens.values.shape == (1, 8, 48)
    assert tokens.coords[0, 4, 2:5].tolist() == [700.0, 800.0, 900.0]
    wanted = sample["pixels"][3:, :4, :4].permute(1, 2, 0).flatten()
    assert torch.equal(tokens.values[0, 4], wanted)
    back = patches.untokenize(tokens)["pixels"][0]
    torch.testing.assert_close(back, sample["pixels"])


@pytest.mark.parametrize(("missing", "exists"), [(0, True), (8, True), (9, False), (16, False)])
def test_a_token_exists_when_at_least_half_of_it_does(missing: int, exists: bool) -> None:
    sample = cube(4)
    patch = sample["pixels"][2, :4, :4].clone().flatten()
    patch[:missing] = torch.nan
    sample["pixels"][2, :4, :4] = patch.view(4, 4)
    tokens = tokens_of(sample)
    assert tokens.valid is not None
    assert bool(tokens.valid[0, 2 * 16]) == exists
    assert bool(tokens.valid[0, 2 * 16 + 1])


def test_samples_of_other_sizes_stand_in_one_batch() -> None:
    tokens = tokens_of(cube(1), cube(2, size=10), cube(3, NM[:2]))
    assert tokens.valid is not None
    per_band = tokens.valid.view(3, 6, 16).sum(dim=2)
    assert per_band.tolist() == [[16] * 5 + [0], [8] * 5 + [0], [16] * 2 + [0] * 4]


def test_statistics_follow_the_wavelength_not_the_index() -> None:
    patches = SpectralPatches(
        size=4, patch=4, bands=3, wavelengths=(500.0, 600.0), names=("VV",), mean=(1.0, 3.0, -9.0)
    )
    flat = {"pixels": torch.zeros(3, 4, 4), "wavelengths": (600.0, 550.0, torch.nan)}
    tokens = tokens_of({**flat, "names": ["", "", "VV"]}, patches=patches)
    assert tokens.values[0, :, 0].tolist() == [-3.0, -2.0, 9.0]


def test_named_channels_need_no_wavelength() -> None:
    sample = {"pixels": torch.rand(2, 16, 16), "names": ["VH", "VV"]}
    assert tokens_of(sample).coords[0, [0, 16], 2:].tolist() == [[0.0, 1.0], [0.0, 0.0]]


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"pixels": torch.rand(3, 16, 16)}, "nothing says what its 3 bands are"),
        ({"pixels": torch.rand(2, 16, 16), "names": ["VV", "HV"]}, "band 1 .'HV'. has no wave"),
        ({"pixels": torch.full((1, 4, 4), torch.inf), "wavelengths": [500.0]}, "infinite"),
        ({"pixels": torch.rand(4, 4), "wavelengths": [500.0]}, "found torch.float32 of .4, 4."),
        ({"pixels": torch.rand(1, 4, 4), "wavelengths": [-5.0]}, "nm above 0"),
        ({"pixels": torch.full((1, 4, 4), torch.nan), "wavelengths": [5.0]}, "missing .NaN or no"),
        ({"wavelengths": [500.0]}, "expected 'pixels'"),
    ],
)
def test_a_broken_sample_is_said_in_one_sentence(sample: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSample, match=message):
        PATCHES.collate([sample])


def test_grouped_bands_must_stand_in_order() -> None:
    patches = SpectralPatches(size=4, patch=4, bands=4, group=2)
    with pytest.raises(BadSample, match="in ascending order"):
        patches.collate([cube(0, (600.0, 500.0), 4)])
    listed = SpectralPatches(size=4, patch=4, bands=2, group=2, wavelengths=(600.0, 500.0))
    assert tokens_of(cube(0, (600.0, 500.0), 4), patches=listed).values.shape == (1, 1, 32)
    with pytest.raises(BadSample, match="as listed in wavelengths"):
        listed.collate([cube(0, (500.0, 600.0), 4)])


@pytest.mark.parametrize(
    "arguments",
    [
        {"bands": 0},
        {"std": 0.0},
        {"mean": (1.0, 2.0)},
        {"names": ("a", "a")},
        {"colours": (0.0,) * 3},
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="SpectralPatches"):
        SpectralPatches(**arguments)


# --- the contract ---------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(
    "patches",
    [
        SpectralPatches(16, 8, 5, wavelengths=NM, mean=0.4, std=0.3),
        SpectralPatches((16, 24), (8, 4), 5, group=2, wavelengths=NM),
        SpectralPatches(16, 8, 5, wavelengths=NM[:3], names=("VV", "VH"), projections="bands"),
    ],
    ids=["bands", "groups", "projections"],
)
def test_cubes_keep_the_contract(patches: SpectralPatches, missing: bool) -> None:
    height, width = (16, 24) if patches.size == (16, 24) else (16, 16)
    data = list(torch.rand(3, 5, height, width, generator=torch.Generator().manual_seed(0)))
    if missing:
        data[1][0, :9, :7] = torch.nan
    check_modality(patches, data)


@pytest.mark.parametrize("masker", [Masker(ChannelPatch(), Natural()), masker_for(Slab(), 0.7)])
def test_maskers_of_channels_keep_the_contract(masker: Masker) -> None:
    check_masker(masker, {"a": (5, 3, 2), "b": (4, 2, 3)})


def test_a_rule_with_its_own_size_keeps_it() -> None:
    assert masker_for(ChannelPatch(), 0.5) == Masker(ChannelPatch(ratio=0.5), Natural())
    assert masker_for(Uniform(), 0.5) == Masker(Uniform(), Ratio(0.5))
    recipe = mae({"cube": PATCHES}, width=32, depth=1, heads=2, rule=ChannelPatch(), ratio=0.6)
    assert recipe.objective.masker == Masker(ChannelPatch(ratio=0.6), Natural())


def test_controls_take_each_band_for_a_channel() -> None:
    """What is to be had without a model: a mean a band, a number a patch and band, no NaN."""
    patches = SpectralPatches(size=8, patch=4, bands=5, wavelengths=NM)
    pixels = torch.arange(5.0).view(5, 1, 1).expand(5, 8, 8).clone()
    pixels[2, 0, 0] = torch.nan
    samples = [{"id": "a", "cube": {"pixels": pixels, "wavelengths": NM}}]
    means = raw_means(samples, {"cube": patches}).features[0]
    values = raw_values(samples, {"cube": patches}, most=20).features[0]
    wanted = [0.0, 1.0, 2 * 63 / 64, 3.0, 4.0]
    assert means.tolist() == pytest.approx([*wanted, 1.0])  # the last: that it is there
    assert values.shape == (21,)
    assert np.isfinite(values).all()
