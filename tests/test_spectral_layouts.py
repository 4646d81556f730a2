"""Folders of public sets of band cubes: a small made copy is written, found and read."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from multimask.datasets.formats.cubes import Box
from multimask.datasets.formats.geokeys import write_geotiff
from multimask.datasets.formats.geotiff import open_tiff_cube
from multimask.datasets.layouts import (
    bigearthnet,
    chammi,
    eurosat_ms,
    hyperspectral_scenes,
    land_cover,
    so2sat,
)
from multimask.modalities.spectral import SpectralPatches
from multimask.modality import collate
from multimask.tokens import BadSample


def test_eurosat(tmp_path: Path) -> None:
    eurosat_ms.write_fake(tmp_path, per_class=3)
    table = eurosat_ms.eurosat_ms(tmp_path)
    assert len(table) == 30
    assert sorted(set(table.columns["label"])) == list(eurosat_ms.CLASSES)
    sample = table[0]
    assert sample["cube"]["pixels"].shape == (13, 64, 64)
    assert 0.04 < sample["cube"]["pixels"].mean() < 0.2  # reflectance
    assert sample["cube"]["wavelengths"][-1] == 865  # B8A stands last
    bad, report = table.check()
    assert not bad
    assert set(report.columns["cube.epsg"]) == {32632}
    with pytest.raises(ValueError, match="expected folders AnnualCrop"):
        eurosat_ms.eurosat_ms(tmp_path / "Forest")


def test_bigearthnet(tmp_path: Path) -> None:
    bigearthnet.write_fake(tmp_path)
    table = bigearthnet.bigearthnet(tmp_path)
    assert len(table) == 2
    assert table.missing()["s1"].tolist() == [False, True]
    assert list(table.columns["labels"]) == ["Coniferous forest|Peatbogs", "Pastures"]
    sample = table[0]
    assert sample["s2"]["pixels"].shape == (12, 120, 120)
    assert sample["s1"]["names"] == ("VV", "VH")
    patches = {
        "s2": SpectralPatches(size=120, patch=12),
        "s1": SpectralPatches(size=120, patch=12, bands=2, names=("VV", "VH")),
    }
    batch = collate([table[0], table[1]], patches)
    assert batch.parts["s1"].rows.tolist() == [0]


def test_bigearthnet_by_resolution(tmp_path: Path) -> None:
    bigearthnet.write_fake(tmp_path)
    sample = bigearthnet.bigearthnet(tmp_path, by_resolution=True)[1]
    shapes = {name: tuple(cube["pixels"].shape) for name, cube in sample.items() if "s2_" in name}
    assert shapes == {"s2_10m": (4, 120, 120), "s2_20m": (6, 60, 60), "s2_60m": (2, 20, 20)}


def test_a_broken_bigearthnet_patch(tmp_path: Path) -> None:
    bigearthnet.write_fake(tmp_path)
    patch = next(tmp_path.glob("S2A*_1_55"))
    (patch / f"{patch.name}_B04.tif").unlink()
    bad, _ = bigearthnet.bigearthnet(tmp_path).check()
    assert [name for name, _ in bad] == [patch.name]
    (patch / f"{patch.name}_labels_metadata.json").write_text(json.dumps([1]))
    with pytest.raises(BadSample, match="expected an object with a list of labels"):
        bigearthnet.bigearthnet(tmp_path)


def test_so2sat(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    so2sat.write_fake(tmp_path)
    table = so2sat.so2sat(tmp_path)
    assert len(table) == 18
    test = table.where(split="test")
    assert list(test.columns["label"]) == [0, 1, 2, 3, 4, 5]
    sample = test[3]
    assert sample["s2"]["pixels"].shape == (10, 32, 32)
    assert sample["s2"]["wavelengths"][0] == 490
    assert sample["s1"]["pixels"].shape == (8, 32, 32)
    assert not torch.equal(sample["s2"]["pixels"], test[2]["s2"]["pixels"])
    assert table.check(full=True)[0] == []


def test_pixel_labels_of_one_scene(tmp_path: Path) -> None:
    hyperspectral_scenes.write_fake(tmp_path)
    table = hyperspectral_scenes.hyperspectral_scene(tmp_path, "indian_pines", window=5, block=20)
    sample = table[0]
    assert sample["cube"]["pixels"].shape == (200, 5, 5)
    assert 0 < sample["label"] < 5
    train, test = table.where(split="train"), table.where(split="test")
    assert not set(train.columns["block"]) & set(test.columns["block"])
    seen = [pixels_of(part) for part in (train, test)]
    assert not seen[0] & seen[1]  # no pixel is in both
    with pytest.raises(ValueError, match="choose a smaller window"):
        hyperspectral_scenes.hyperspectral_scene(tmp_path, "indian_pines", window=30)


def pixels_of(table: object) -> set[tuple[int, int]]:
    columns = table.columns  # type: ignore[attr-defined]
    return {
        (row + down, column + right)
        for row, column in zip(columns["row"], columns["column"], strict=True)
        for down in range(-2, 3)
        for right in range(-2, 3)
    }


def test_scenes_state_as_many_wavelengths_as_bands() -> None:
    for scene in hyperspectral_scenes.SCENES.values():
        assert len(scene.wavelengths) == scene.bands
        assert scene.wavelengths[0] == scene.first


def test_chammi(tmp_path: Path) -> None:
    chammi.write_fake(tmp_path)
    table = chammi.chammi(tmp_path)
    assert len(table) == 9
    assert set(table.columns["split"]) == {"train", "task_one", "task_two"}
    patches = SpectralPatches(size=32, patch=8, bands=5, names=chammi.NAMES)
    batch = collate([table[0], table[3], table[6]], {"cell": patches})
    tokens = patches(batch.parts["cell"])
    assert tokens.valid is not None
    assert tokens.valid.sum(dim=1).tolist() == [3 * 16, 4 * 16, 5 * 16]
    assert tokens.coords[2, 4 * 16, 3] == chammi.NAMES.index("CP/mito")


def test_a_tape_is_cut_into_its_channels(tmp_path: Path) -> None:
    chammi.write_fake(tmp_path)
    from PIL import Image

    tape = torch.arange(4).repeat_interleave(8).expand(8, -1).to(torch.uint8)
    path = tmp_path / "HPA" / "a.png"
    Image.fromarray(tape.numpy()).save(path)
    pixels = chammi.ChannelTape().read(str(path))["pixels"]
    assert (pixels * 255).round().flatten(1).unique(dim=1).tolist() == [[0.0], [1.0], [2.0], [3.0]]
    Image.fromarray(tape.numpy()[:, :-1]).save(path)
    with pytest.raises(BadSample, match="4 channels of one width side by side"):
        chammi.ChannelTape().read(str(path))


def test_real_bigearthnet_patches(shared_data: Path) -> None:
    table = bigearthnet.bigearthnet(shared_data / "spectral/bigearthnet")
    assert len(table) == 5
    assert table.check(full=True)[0] == []


def test_land_cover_windows_are_pure_and_split_by_blocks(tmp_path: Path) -> None:
    land_cover.write_fake(tmp_path)
    table = land_cover.land_cover_windows(tmp_path, window=8, block=28 * 2, fewest=1)
    assert len(table) == 2 * 14 * 14  # every window lies in one field
    blocks = {
        split: {
            b
            for b, s in zip(table.columns["block"], table.columns["split"], strict=True)
            if s == split
        }
        for split in ("train", "test")
    }
    assert blocks["train"]
    assert blocks["test"]
    assert not blocks["train"] & blocks["test"]
    sample = table[17]
    assert sample["cube"]["pixels"].shape == (12, 8, 8)
    row, column = map(int, str(sample["id"]).rpartition("/")[2].split(","))
    truth = open_tiff_cube(tmp_path / sample["scene"] / "LULC.tif")
    inside = truth.read(Box(row, column, 8, 8), [0])
    assert (inside == sample["label"]).all()
    with pytest.raises(ValueError, match="multiple of window"):
        land_cover.land_cover_windows(tmp_path, block=50)
    with pytest.raises(ValueError, match="no class has 999"):
        land_cover.land_cover_windows(tmp_path, fewest=999)
    with pytest.raises(ValueError, match="expected folders with"):
        land_cover.land_cover_windows(tmp_path / "scene_0")


def test_a_map_on_another_grid_is_refused(tmp_path: Path) -> None:
    land_cover.write_fake(tmp_path)
    write_geotiff(tmp_path / "scene_1/LULC.tif", np.ones((1, 56, 56), np.uint8))
    with pytest.raises(BadSample, match=r"scene_1.*112 x 112"):
        land_cover.land_cover_windows(tmp_path)


def test_real_land_cover_windows_are_those_listed(shared_data: Path) -> None:
    folder = shared_data / "spectral/terramesh_tiles"
    with (folder / "lulc_windows.csv").open() as file:
        listed = {
            (f"{row['tile']}/{int(row['row']):05d},{int(row['col']):05d}", int(row["lulc_class"]))
            for row in csv.DictReader(file)
            if row["size"] == "8"
        }
    table = land_cover.land_cover_windows(folder, fewest=0)
    assert set(zip(table.columns["id"], table.columns["label"], strict=True)) == listed
    assert list(table.columns["split"]).count("test") > 600
