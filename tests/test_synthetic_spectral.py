"""Made scenes: the same on every machine, and blind to what numbers at fixed places tell."""

import pytest
import torch

from multimask.datasets.synthetic_spectral import (
    BRIGHTNESS,
    GRID,
    MATERIALS,
    SENSORS,
    WAVELENGTHS,
    abundances,
    cluster_maps,
    mixture_scenes,
    spectra,
)


def test_scenes_repeat_and_follow_the_seed() -> None:
    first, again, other = (mixture_scenes(4, 2, size=16, seed=seed) for seed in (0, 0, 1))
    pixels = [table[0]["cube"]["pixels"] for table in (first, again, other)]
    assert torch.equal(pixels[0], pixels[1])
    assert not torch.equal(pixels[0], pixels[2])
    assert pixels[0].shape == (12, 16, 16)
    assert pixels[0].isfinite().all()
    assert list(first.columns["split"]) == ["train"] * 4 + ["test"] * 2


def test_every_scene_has_bands_of_its_own() -> None:
    table = mixture_scenes(6, 2, size=16, bands=5)
    seen = [tuple(table[row]["cube"]["wavelengths"].tolist()) for row in range(len(table))]
    assert len(set(seen)) == len(table)
    assert {round(nm, 1) for bands in seen for nm in bands} <= set(GRID)
    assert all(len(set(bands)) == 5 for bands in seen)
    assert any(bands != tuple(sorted(bands)) for bands in seen)


def test_over_all_bands_materials_are_equally_bright() -> None:
    means = spectra(GRID).mean(dim=1)
    torch.testing.assert_close(means, torch.full((len(MATERIALS),), BRIGHTNESS))


def test_a_larger_set_begins_with_the_smaller() -> None:
    small, large = mixture_scenes(2, 2, size=16), mixture_scenes(4, 2, size=16)
    assert torch.equal(small[1]["cube"]["pixels"], large[1]["cube"]["pixels"])


def test_every_scene_holds_every_material_and_most_of_one() -> None:
    maps = cluster_maps("train")
    for main in range(len(MATERIALS)):
        shares = abundances(maps, 32, main, torch.Generator().manual_seed(main))
        torch.testing.assert_close(shares.sum(dim=0), torch.ones(32, 32))
        amounts = shares.mean(dim=(1, 2))
        assert amounts.argmax() == main
        assert amounts.min() > 0


def test_sensors_see_the_same_scene() -> None:
    tables = [mixture_scenes(1, 1, 16, nm) for nm in (SENSORS["sentinel2"], WAVELENGTHS)]
    few, many = (table[0]["cube"] for table in tables)
    assert few["pixels"].shape[0] == 12
    assert many["wavelengths"].tolist() == pytest.approx(WAVELENGTHS)
    red, near = few["pixels"][3], many["pixels"][8]  # 665 and 671 nm
    together = torch.stack((red.flatten(), near.flatten()))
    assert torch.corrcoef(together)[0, 1] > 0.9


def test_spectra_have_the_features_they_are_known_by() -> None:
    at = dict(zip(MATERIALS, spectra((550.0, 670.0, 842.0, 1030.0, 1650.0, 2205.0)), strict=True))
    leaf, water, snow, clay = (at[name] for name in ("leaf", "water", "snow", "clay"))
    assert leaf[2] > 5 * leaf[1]  # the red edge
    assert leaf[0] > leaf[1]  # green
    assert water[2] < water[0] / 10
    assert snow[4] < snow[0] / 4
    assert clay[5] < clay[4] / 1.3
