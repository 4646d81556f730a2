"""Point files: every format gives the same cloud back."""

from pathlib import Path

import numpy as np
import pytest
import torch

from multimask import BadSample
from multimask.datasets.formats.lzf import decompressed
from multimask.datasets.formats.points import PointReader
from multimask.datasets.table import Table
from point_files import RGB, WHOLE, WRITERS, XYZ, hdf5, ply, saved

COLOURED = PointReader(num_points=None, normalise="none", features=("red", "green", "blue"))


# --- every format ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_a_cloud_comes_back(name: str, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path / name)
    torch.testing.assert_close(
        WHOLE.read(str(path)), torch.from_numpy(XYZ).float(), atol=1e-4, rtol=0
    )
    report = WHOLE.probe(str(path))
    assert report["points"] == 20


@pytest.mark.parametrize("name", ["a.ply", "big.ply", "ascii.ply", "packed.pcd", "a.las", "a.laz"])
def test_colours_come_back_in_0_to_1(name: str, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path / name)
    torch.testing.assert_close(COLOURED.read(path)[:, 3:], torch.from_numpy(RGB).float() / 255)


def test_a_cloud_of_a_file_of_many(tmp_path: Path) -> None:
    for path in (hdf5(tmp_path / "a.h5"), saved(tmp_path / "a.npy", np.stack([XYZ - 5, XYZ]))):
        torch.testing.assert_close(WHOLE.read(f"{path}#1"), torch.from_numpy(XYZ).float())
        assert WHOLE.probe(f"{path}#0")["points"] == 20
        with pytest.raises(BadSample, match=r"holds 2 clouds; name one as .*#0"):
            WHOLE.read(path)
        with pytest.raises(BadSample, match="cloud 2 was asked for, but there are 2"):
            WHOLE.read(f"{path}#2")
    normals = PointReader(None, ("nx", "ny", "nz"), normalise="none").read(f"{tmp_path}/a.h5#1")
    torch.testing.assert_close(normals[:, 3:], torch.from_numpy(XYZ).float())


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    path = ply(tmp_path / "in_truth_a_ply.xyz")
    assert WHOLE.read(path).shape == (20, 3)


def test_repetitions_that_reach_into_themselves() -> None:
    assert decompressed(bytes([0]) + b"a" + bytes([0b111_00000, 20, 0]), 30, "x") == b"a" * 30


# --- real files -----------------------------------------------------------------------------------


def test_real_meshes_are_a_table(shared_data: Path) -> None:
    table = Table.from_folder(shared_data / "points/kaykit_meshes", "points", PointReader())
    bad, checked = table.check()
    assert (len(table), bad) == (189, [])
    assert all(points and points >= 8 for points in checked.columns["points.points"])
    cloud = table[0]["points"]
    assert cloud.shape == (1024, 3)


def test_real_scans_with_all_their_features(shared_data: Path) -> None:
    names = ("nx", "ny", "nz", "red", "green", "blue")
    reader = PointReader(1024, names, normalise="none")
    for path in sorted((shared_data / "points/ycb_scans").glob("*.ply")):
        cloud = reader.read(path)
        assert cloud.shape == (1024, 9)
        torch.testing.assert_close(cloud[:, 3:6].norm(dim=1), torch.ones(1024), atol=0.05, rtol=0)
        assert 0 <= cloud[:, 6:].min() <= cloud[:, 6:].max() <= 1
        assert cloud[:, :3].abs().max() < 1  # metres


def test_real_lidar_and_depth_cameras(shared_data: Path) -> None:
    pytest.importorskip("laspy")
    folder = shared_data / "points/real_scans"
    reader = PointReader(None, 1, normalise="centre")
    assert reader.read(folder / "simple.las").equal(reader.read(folder / "simple.laz"))
    counts = {"autzen_trim.laz": 110000, "milk.pcd": 12575, "lamppost.pcd": 1771}
    for name, count in counts.items():
        cloud = PointReader(None, normalise="centre").read(folder / name)
        assert cloud.shape == (count, 3)
