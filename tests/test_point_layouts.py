"""Public point sets in their own folders, and the made one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from multimask.datasets.formats.points import PointReader
from multimask.datasets.layouts import modelnet, scanobjectnn, shapenet55
from multimask.datasets.layouts.clouds import cloud_table
from multimask.datasets.synthetic_points import FAMILIES, shapes

FEW = PointReader(32)


def test_modelnet_meshes(tmp_path: Path) -> None:
    modelnet.write_fake(tmp_path)
    table = modelnet.modelnet(tmp_path, FEW)
    assert len(table) == 12
    assert set(table.columns["label"]) == {"chair", "night_stand", "table"}
    first = table.where(label="night_stand", split="test")[0]
    assert first["id"] == "night_stand_0101"
    assert first["points"].shape == (32, 3)


def test_modelnet_resampled(tmp_path: Path) -> None:
    modelnet.write_fake_resampled(tmp_path)
    table = modelnet.modelnet_resampled(tmp_path, PointReader(32, modelnet.NORMALS))
    assert list(table.columns["split"]) == ["train", "train", "test", "test"]
    assert table[1]["label"] == "night_stand"
    assert table[1]["points"].shape == (32, 6)


def test_modelnet_hdf5(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    modelnet.write_fake_hdf5(tmp_path)
    table = modelnet.modelnet_hdf5(tmp_path, PointReader(64, ("nx", "ny", "nz")))
    assert list(table.columns["label"]) == [
        "airplane",
        "bathtub",
        "airplane",
        "airplane",
        "bathtub",
    ]
    assert list(table.columns["id"])[4] == "ply_data_test0.h5#1"
    assert table[4]["points"].shape == (64, 6)
    assert not table.check(full=True)[0]


def test_shapenet55(tmp_path: Path) -> None:
    shapenet55.write_fake(tmp_path)
    table = shapenet55.shapenet55(tmp_path, FEW)
    assert len(table.where(split="train")) == 4
    assert set(table.columns["label"]) == {"02691156", "04379243"}
    assert table[0]["id"] == "02691156-1a04e3ea"
    assert table[0]["points"].shape == (32, 3)


@pytest.mark.parametrize("variant", ["obj_bg", "obj_only", "pb_t50_rs"])
def test_scanobjectnn(variant: scanobjectnn.Variant, tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    scanobjectnn.write_fake(tmp_path)
    table = scanobjectnn.scanobjectnn(tmp_path, variant)
    assert list(table.columns["split"]) == ["train"] * 3 + ["test"] * 2
    assert list(table.columns["label"])[:3] == ["bag", "door", "toilet"]
    cloud = table[0]["points"]
    assert cloud.shape == (2048, 3)
    assert cloud.norm(dim=1).max() > 2  # not normalised


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (modelnet.modelnet, "expected files like chair/train/chair_0001.off, found none"),
        (modelnet.modelnet_resampled, "expected a list of names"),
        (shapenet55.shapenet55, "expected a list of names"),
        (scanobjectnn.scanobjectnn, "expected an HDF5 file with a dataset 'label', found none"),
    ],
)
def test_other_folders_are_told_apart(load: object, said: str, tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    with pytest.raises(ValueError, match=said):
        load(tmp_path)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("write", "label", "rows"),
    [
        (modelnet.write_fake, "night_stand", 12),
        (modelnet.write_fake_resampled, "night_stand", 4),
        (modelnet.write_fake_hdf5, "bathtub", 5),
        (shapenet55.write_fake, "02691156", 6),
        (scanobjectnn.write_fake, "door", 5),
    ],
)
def test_a_public_set_is_known_by_its_files(
    write: Callable[[Path], None], label: str, rows: int, tmp_path: Path
) -> None:
    pytest.importorskip("h5py")
    write(tmp_path)
    table = cloud_table(tmp_path, FEW)
    assert len(table) == rows
    assert set(table.columns["split"]) == {"train", "test"}
    assert table.where(label=label)[0]["points"].shape == (32, 3)
    with pytest.raises(ValueError, match="layout 'kitti' is unknown"):
        cloud_table(tmp_path, FEW, "kitti")


def test_a_list_of_ones_own_goes_before_names_of_folders(tmp_path: Path) -> None:
    modelnet.write_fake(tmp_path)
    (tmp_path / "labels.csv").write_text("file,label\nchair/train/chair_0001.off,seat\n")
    table = cloud_table(tmp_path, FEW)
    assert list(table.columns["label"]) == ["seat"]
    assert len(cloud_table(tmp_path, FEW, "modelnet")) == 12
    (tmp_path / "labels.csv").unlink()
    assert set(cloud_table(tmp_path / "chair", FEW).columns["split"]) == {"train", "test"}


def test_a_listing_may_count_points_beside_the_files_of_points(tmp_path: Path) -> None:
    modelnet.write_fake(tmp_path)
    (tmp_path / "labels.csv").write_text("file,points\nchair/train/chair_0001.off,5\n")
    table = cloud_table(tmp_path, FEW)
    assert table[0]["points"].shape == (32, 3)
    assert list(table.columns["points.listed"]) == [5]


def test_a_list_with_strange_names_is_refused(tmp_path: Path) -> None:
    shapenet55.write_fake(tmp_path)
    (tmp_path / "ShapeNet-55/test.txt").write_text("chair_0001.off\n")
    with pytest.raises(ValueError, match=r"expected names like 02691156-1a04e3\.npy"):
        shapenet55.shapenet55(tmp_path)


def test_made_shapes_follow_from_the_seed() -> None:
    one, again, other = shapes(20, 10), shapes(20, 10), shapes(20, 10, seed=1)
    assert one[3]["points"].equal(again[3]["points"])
    assert not one[3]["points"].equal(other[3]["points"])
    longer = shapes(30, 10)  # a sample does not depend on how many there are
    assert longer[3]["points"].equal(one[3]["points"])
    assert list(one.columns["label"])[:10] == list(FAMILIES)
    assert sum(one.columns["partial"]) == 10  # the second ten of the train part


def test_made_shapes_are_clouds_in_the_unit_sphere() -> None:
    table = shapes(40, 0, points=256)
    for row in range(len(table)):
        cloud = table[row]["points"]
        assert cloud.shape == (256, 3)
        assert cloud.isfinite().all()
        torch.testing.assert_close(cloud.norm(dim=1).max(), torch.tensor(1.0))


def test_labels_cannot_be_read_from_raw_values_or_means() -> None:
    from sklearn.linear_model import LogisticRegression

    table = shapes(400, 200, points=256)
    clouds = np.stack([table[row]["points"].numpy() for row in range(len(table))])
    labels, train = np.array(list(table.columns["label"])), np.arange(600) < 400
    for features in (clouds.mean(1), clouds[:, :128].reshape(600, -1)):
        probe = LogisticRegression(max_iter=200).fit(features[train], labels[train])
        assert probe.score(features[~train], labels[~train]) < 0.25  # chance is 0.1
