"""Crops: where they lie, what they keep, and that generators alone decide."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from multimask.datasets.transforms import Crop, RandomResizedCrop, ResizeCrop, Transform


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_equal_generators_give_equal_crops_and_others_do_not() -> None:
    crop = RandomResizedCrop(32)
    drawn = [crop(100, 80, seeded(seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_registered_pictures_of_other_resolution_are_cropped_alike() -> None:
    crop = RandomResizedCrop(32)
    for seed in range(20):
        fine, coarse = crop(800, 1000, seeded(seed)), crop(400, 500, seeded(seed))
        assert fine.flip == coarse.flip
        for side in ("top", "left", "height", "width"):
            assert abs(getattr(fine, side) / 2 - getattr(coarse, side)) <= 1.5


@pytest.mark.parametrize("size", [(300, 400), (400, 300), (64, 64)])
def test_random_boxes_lie_inside_and_keep_area_and_shape(size: tuple[int, int]) -> None:
    crop = RandomResizedCrop(8, scale=(0.2, 0.9))
    for seed in range(200):
        box = crop(*size, seeded(seed))
        assert box.top >= 0
        assert box.left >= 0
        assert box.top + box.height <= size[0]
        assert box.left + box.width <= size[1]
        assert 0.18 < box.height * box.width / math.prod(size) < 0.93
        assert 0.72 < box.width / box.height < 1.37


def test_random_boxes_reach_every_corner_and_half_are_mirrored() -> None:
    boxes = [RandomResizedCrop(8)(40, 40, seeded(seed)) for seed in range(400)]
    assert min(min(box.top, box.left) for box in boxes) == 0
    assert max(box.top + box.height for box in boxes) == 40
    assert max(box.left + box.width for box in boxes) == 40
    assert 150 < sum(box.flip for box in boxes) < 250


def test_where_no_box_fits_the_centre_of_allowed_shape_is_taken() -> None:
    wide = RandomResizedCrop(8, scale=(1.0, 1.0), flip=0.0)(10, 100, seeded(0))
    assert (wide.height, wide.width, wide.left) == (10, 13, 43)
    tall = RandomResizedCrop(8, scale=(1.0, 1.0), flip=0.0)(100, 10, seeded(0))
    assert (tall.height, tall.width, tall.top) == (13, 10, 43)


@pytest.mark.parametrize("transform", [RandomResizedCrop((4, 8)), ResizeCrop((4, 8))])
def test_without_a_generator_the_largest_centred_box_is_taken(transform: Transform) -> None:
    assert transform(20, 30) == Crop(top=2, left=0, height=15, width=30, size=(4, 8))


def test_share_is_of_the_sides() -> None:
    box = ResizeCrop(224, share=0.875)(256, 300)
    assert (box.height, box.width, box.top) == (224, 224, 16)


def test_resizing_equals_pillows() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    expected = Image.fromarray(picture[10:50, 20:70]).resize((24, 16), Image.Resampling.BICUBIC)
    crop = Crop(top=10, left=20, height=40, width=50, size=(16, 24))
    found = crop.cut(torch.from_numpy(picture).permute(2, 0, 1)).permute(1, 2, 0)
    assert np.abs(found.numpy().astype(int) - np.asarray(expected).astype(int)).max() <= 1


def test_mirroring_is_left_to_right() -> None:
    picture = torch.arange(6.0).view(1, 2, 3)
    mirrored = Crop(top=0, left=0, height=2, width=3, size=(2, 3), flip=True).cut(picture)
    assert mirrored.tolist() == [[[2, 1, 0], [5, 4, 3]]]


def test_floats_stay_within_the_range_of_their_box() -> None:
    picture = torch.zeros(5, 16, 16)
    picture[:, 8:] = 1.0  # bicubic overshoots at edges
    found = Crop(top=0, left=0, height=16, width=16, size=(33, 33)).cut(picture)
    assert found.min() >= 0
    assert found.max() <= 1


def test_decoding_smaller_leaves_twice_the_pixels() -> None:
    shrinks = [Crop(0, 0, side, side, size=(56, 56)).shrink for side in (112, 223, 224, 448, 5000)]
    assert shrinks == [1, 1, 2, 4, 8]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ResizeCrop(0),
        lambda: ResizeCrop(8, share=1.5),
        lambda: RandomResizedCrop(8, scale=(0.5, 0.2)),
        lambda: RandomResizedCrop(8, scale=(0.5, 2.0)),
        lambda: RandomResizedCrop(8, ratio=(0.0, 1.0)),
    ],
)
def test_impossible_arguments_are_refused(make: Callable[[], Transform]) -> None:
    with pytest.raises(ValueError, match=r"Crop: .* must be"):
        make()
