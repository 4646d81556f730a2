"""Clips of motion: cut, centred and turned, at random only where a generator is given."""

import numpy as np
import pytest

from multimask.datasets.motion import Augment, Clip, centred, most_active
from multimask.modalities.skeleton_topologies import SMPL24
from multimask.tokens import BadSample
from skeleton_files import generator, single


def test_clips_are_deterministic_without_a_generator_and_random_with_one() -> None:
    crop, spread = Clip(4), Clip(4, "resample")
    assert crop(10).tolist() == [3, 4, 5, 6]
    assert crop(3).tolist() == [0, 1, 2]
    assert spread(8).tolist() == [1, 3, 5, 7]
    assert spread(2).tolist() == [0, 0, 1, 1]
    starts = {int(crop(10, generator(str(name)))[0]) for name in range(60)}
    assert starts == set(range(7))
    for name in range(20):
        drawn = spread(100, generator(str(name)))
        assert (drawn // 25).tolist() == [0, 1, 2, 3]
    assert crop(10, generator()).tolist() == crop(10, generator()).tolist()


def test_centring_puts_the_root_at_zero_and_fills_its_gaps() -> None:
    data = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype(np.float32)
    frame = centred(data, (1,), "frame")
    assert np.allclose(frame[0, :, 1], 0)
    assert np.allclose(frame[1] - frame[0], data[1] - data[0], atol=1e-6)  # both moved alike
    once = centred(data, (0, 1), "clip")
    assert np.allclose(once[0, 0, :2].mean(axis=0), 0, atol=1e-6)
    assert np.allclose(np.diff(once, axis=1), np.diff(data, axis=1), atol=1e-5)
    lost = data.copy()
    lost[0, 2, 1] = np.nan
    between = (data[0, 1, 1] + data[0, 3, 1]) / 2
    assert np.allclose(centred(lost, (1,), "frame")[0, 2, 0], data[0, 2, 0] - between, atol=1e-6)
    lost[0, :, 1] = np.nan
    with pytest.raises(BadSample, match="found it in none"):
        centred(lost, (1,), "frame")
    with pytest.raises(BadSample, match="expected joint 9, the root, found 4 joints"):
        centred(data, (9,), "frame")


def test_the_most_active_bodies_are_kept() -> None:
    data = np.zeros((3, 10, 4, 3), np.float32)
    data[1] = np.arange(10)[:, None, None]
    data[2] = np.nan
    assert np.array_equal(most_active(data, 1), data[1:2])
    assert np.array_equal(most_active(data, 2), data[[1, 0]])
    assert np.isnan(most_active(data, 3)[2]).all()


def test_augmentation_turns_about_the_vertical_mirrors_and_keeps_distances() -> None:
    rest = np.random.default_rng(0).normal(size=(1, 6, 24, 3)).astype(np.float32)
    turned = Augment(turn=180.0)(rest, generator())
    assert np.allclose(turned[..., 1], rest[..., 1], atol=1e-5)
    assert np.allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(rest, axis=-1), atol=1e-5)
    assert not np.allclose(turned, rest)
    flips = [Augment(mirror=SMPL24.mirror)(rest, generator(str(n))) for n in range(20)]
    mirrored = rest[:, :, list(SMPL24.mirror)] * single([-1, 1, 1])
    alike = [np.array_equal(flip, mirrored) for flip in flips]
    assert any(alike)
    assert all(same or np.array_equal(flip, rest) for same, flip in zip(alike, flips, strict=True))
    long = np.tile(rest, (1, 50, 1, 1))
    assert np.isnan(Augment(drop=0.3)(long, generator())).mean() == pytest.approx(0.3, abs=0.03)
    assert Augment(turn=90.0, noise=1.0, drop=0.5)(rest) is rest  # nothing without a generator
    once, again = (Augment(noise=0.1)(rest, generator()) for _ in range(2))
    assert np.array_equal(once, again)
