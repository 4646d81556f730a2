"""Clouds as they are read: drawn, sampled and normalised the same way every time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from multimask import BadSample
from multimask.datasets.formats.points import PointReader
from multimask.datasets.point_transforms import Augment
from point_files import WHOLE, XYZ, saved, text


def test_without_a_generator_a_reading_is_always_the_same(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npy")
    reader = PointReader(8, augment=Augment())
    assert reader.read(path).equal(reader.read(path))
    assert not reader.read(path, Generator().manual_seed(1)).equal(reader.read(path))
    twice = [reader.read(path, Generator().manual_seed(1)) for _ in range(2)]
    assert twice[0].equal(twice[1])


def test_points_are_drawn_without_repetition(tmp_path: Path) -> None:
    drawn = PointReader(20, normalise="none").read(XYZ)
    assert {tuple(p) for p in drawn.tolist()} == {tuple(p) for p in XYZ.astype(np.float32).tolist()}


def test_a_surface_is_sampled_by_area(tmp_path: Path) -> None:
    # two triangles, one three times as large as the other
    body = "OFF\n6 2 0\n0 0 0\n1 0 0\n0 1 0\n0 0 5\n3 0 5\n0 1 5\n3 0 1 2\n3 3 4 5\n"
    path = text(tmp_path / "a.off", body)
    cloud = PointReader(400, ("nx", "ny", "nz"), normalise="none").read(path)
    low = cloud[:, 2] < 2.5
    assert abs(int(low.sum()) - 100) <= 1
    assert (cloud[low, 0] + cloud[low, 1] <= 1 + 1e-6).all()
    torch.testing.assert_close(cloud[:, 3:].abs(), torch.tensor([[0.0, 0, 1]]).expand(400, 3))
    corners = PointReader(6, surface=False, normalise="none").read(path)
    assert len(corners) == 6


def test_a_sphere_has_its_mean_at_the_origin_and_radius_one() -> None:
    cloud = PointReader(None, normalise="sphere").read(XYZ * 100 + 5000)
    torch.testing.assert_close(cloud.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(cloud.norm(dim=1).max(), torch.tensor(1.0))


def test_normals_turn_with_the_cloud() -> None:
    draw = np.random.default_rng(0)
    across = np.tile([[0.0, 0, 1]], (5, 1))
    flat = np.c_[draw.normal(size=(5, 2)), np.zeros(5)]
    augment = Augment(rotate="any", shift=0.0)
    xyz, normals = augment(flat, across, ("nx", "ny", "nz"), draw)
    np.testing.assert_allclose((xyz * normals).sum(1), 0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)


def test_map_coordinates_keep_their_digits(tmp_path: Path) -> None:
    far = XYZ / 100 + [637_000, 849_000, 400]
    with pytest.raises(BadSample, match="lose their digits in single precision"):
        WHOLE.read(far)
    near = PointReader(None, normalise="centre").read(far)
    wanted = torch.from_numpy(XYZ / 100 - XYZ.mean(0) / 100).float()
    torch.testing.assert_close(near, wanted, atol=1e-7, rtol=0)
