"""Folder layouts of public sets: each reads a tiny copy written in the real folders."""

from pathlib import Path

import numpy as np
import pytest
import torch

from multimask import collate
from multimask.datasets.layouts import bids as bids_layout
from multimask.datasets.layouts import brats as brats_layout
from multimask.datasets.layouts import ixi as ixi_layout
from multimask.datasets.layouts import msd as msd_layout
from multimask.datasets.layouts.dicom import dicom_series
from multimask.datasets.synthetic_volume import (
    MIDDLE,
    made_brain,
    mixed_signal,
    write_brains,
)
from multimask.datasets.table import Table
from multimask.modalities.volume import VolumePatches


@pytest.mark.parametrize("year", [2021, 2023])
def test_brats(tmp_path: Path, year: int) -> None:
    brats_layout.write_fake(tmp_path / "data", year)
    listing = "Grade,BraTS_2020_subject_ID\nHGG,BraTS2021_00000\nLGG,BraTS2021_00002\n"
    (tmp_path / "data/name_mapping.csv").write_text(listing)
    table = brats_layout.brats(tmp_path)
    assert len(table) == 3
    assert set(table.readers) == {"t1", "t1ce", "t2", "flair", "seg"}
    assert table.missing()["t2"].tolist() == [False, True, False]
    sample = table[1]
    assert "t2" not in sample  # absent, not zero
    assert sample["seg"].data.dtype == torch.int64
    assert sample["t1"].source_affine[1, 3] == 239
    tokenizers = {name: VolumePatches(8, 4) for name in ("t1", "t1ce", "t2", "flair")}
    batch = collate([table[0], table[1]], tokenizers)
    assert batch.parts["t2"].rows.tolist() == [0]
    if year == 2021:
        assert list(table.columns["label"]) == ["HGG", None, "LGG"]
    else:
        assert table.columns["subject"][0] == "BraTS-GLI-00000"


def test_ixi(tmp_path: Path) -> None:
    ixi_layout.write_fake(tmp_path)
    table = ixi_layout.ixi(tmp_path)
    assert list(table.columns["id"]) == ["IXI002", "IXI012", "IXI035"]
    assert list(table.columns["site"]) == ["Guys", "HH", "IOP"]
    assert list(table.columns["age"]) == [35.8, 38.78, None]
    assert list(table.columns["sex"]) == ["f", "m", None]
    assert "t2" not in table[2]
    assert table[0]["t2"].shape != table[0]["t1"].shape  # not on one grid


@pytest.mark.parametrize("channels", [1, 2])
def test_msd(tmp_path: Path, channels: int) -> None:
    msd_layout.write_fake(tmp_path, channels)
    table = msd_layout.msd(tmp_path)
    assert list(table.columns["split"]) == ["train"] * 3 + ["test"]
    assert table[0]["scan"].shape == (channels, 8, 8, 8)
    assert "seg" not in table[3]
    assert msd_layout.labels(tmp_path) == {0: "background", 1: "anterior", 2: "posterior"}
    assert len(msd_layout.contrasts(tmp_path)) == channels
    text = (tmp_path / "dataset.json").read_text()
    (tmp_path / "dataset.json").write_text(text.replace("./imagesTr/organ_000", "../organ_000"))
    with pytest.raises(ValueError, match="inside the task's folder"):
        msd_layout.msd(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(ValueError, match="expected the JSON file of a Decathlon task"):
        msd_layout.msd(tmp_path)


def test_bids(tmp_path: Path) -> None:
    bids_layout.write_fake(tmp_path)
    table = bids_layout.bids(tmp_path)
    wanted = ["sub-01", "sub-02_ses-a", "sub-02_ses-a_run-2", "sub-02_ses-b"]
    assert list(table.columns["id"]) == wanted
    assert list(table.columns["subject"]) == ["sub-01"] + ["sub-02"] * 3
    assert list(table.columns["age"]) == [34, None, None, None]
    assert list(table.columns["sex"]) == ["F", "M", "M", "M"]
    assert table.missing()["t2w"].tolist() == [False, True, True, True]
    assert table[3]["t1w"].shape == (1, 8, 8, 8)


def test_folders_of_dicom_series(shared_data: Path) -> None:
    table = dicom_series(shared_data / "mri")
    assert "ct_dicom_series" in list(table.columns["id"])
    row = list(table.columns["id"]).index("ct_dicom_series")
    assert table[row]["scan"].shape == (1, 17, 128, 88)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    for layout in (brats_layout.brats, ixi_layout.ixi, bids_layout.bids, dicom_series):
        with pytest.raises(ValueError, match="expected"):
            layout(tmp_path)


# --- made brains ----------------------------------------------------------------------------------


def test_a_made_brain_depends_on_seed_and_subject_only() -> None:
    one, again, other = made_brain(0, 1, 24), made_brain(0, 1, 24), made_brain(0, 3, 24)
    assert all(np.array_equal(one.contrasts[c], again.contrasts[c]) for c in one.contrasts)
    assert not np.array_equal(one.tissue, other.tissue)
    assert one.ill
    assert set(np.unique(one.labels)) == {0, 1, 2}
    assert not made_brain(0, 2, 24).labels.any()


def test_only_the_contrast_agent_shows_the_rim() -> None:
    brain = made_brain(0, 1, 48)
    rim, white = brain.tissue == 8, brain.tissue == 4
    bright = {
        name: array[rim].mean() / array[white].mean() for name, array in brain.contrasts.items()
    }
    assert bright["t1ce"] > 1.15
    assert bright["t1"] < 0.85


def test_no_voxel_of_the_mixed_contrast_tells_the_middle_tissue() -> None:
    random = np.random.default_rng(0)
    means = []
    for index, middle in enumerate(MIDDLE):
        signals = np.array([mixed_signal(random, middle) for _ in range(600)])[:, [2, 3, 4]]
        between = np.sort(signals, axis=1)[:, 1] == signals[:, index]
        assert between.mean() > 0.99
        means.append(signals.mean(axis=0))
    np.testing.assert_allclose(means, 0.6, atol=0.05)


def test_brains_are_written_as_a_table_with_holes(tmp_path: Path) -> None:
    listing = write_brains(tmp_path, 10, size=16, missing=0.4)
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.nii.gz")}
    write_brains(tmp_path, 10, size=16, missing=0.4)
    assert files == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.nii.gz")}
    from multimask.datasets.formats.volumes import VolumeReader

    contrasts = ("t1", "t1ce", "t2", "flair")
    readers = {name: VolumeReader() for name in contrasts} | {"seg": VolumeReader(labels=True)}
    table = Table.from_csv(listing, (*contrasts, "seg"), readers)
    lacking = np.stack([table.missing()[name] for name in contrasts])
    assert lacking.any()
    assert not lacking.all(axis=0).any()
    assert list(table.columns["split"]).count("test") == 4
    assert set(table.columns["label"]) == set(MIDDLE)
    seg = next(table[i]["seg"] for i in range(10) if table.columns["lesions"][i] == "yes")
    assert seg.data.max() == 2
    np.testing.assert_allclose(seg.spacing, (12.5,) * 3)
