"""Modalities that lie on each other: one crop and one flip for all, on one grid, or a sentence."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from multimask.datasets.formats.depth_maps import DepthMapReader
from multimask.datasets.formats.images import ImageReader
from multimask.datasets.formats.label_maps import LabelMapReader
from multimask.datasets.formats.spectral import SpectralReader
from multimask.datasets.table import Table
from multimask.datasets.transforms import RandomResizedCrop, WindowCrop
from multimask.tokens import BadSample

CROP = RandomResizedCrop(12, scale=(0.3, 1.0))
READERS = {
    "depth": DepthMapReader(hole=None, transform=CROP),
    "labels": LabelMapReader(transform=CROP),
    "other": ImageReader(channels=1, transform=CROP),
    "rgb": ImageReader(channels=1, transform=CROP),
}
PLACES = np.arange(24 * 24).reshape(24, 24)  # a pixel says where it lies


def table() -> Table:
    across = np.broadcast_to(np.arange(24) * 10, (24, 24))
    return Table.from_arrays(
        modalities=list(READERS),
        reader=READERS,
        rgb=[across[None].astype("u1")] * 2,
        other=[across[None].astype("u1")] * 2,
        depth=[PLACES.astype("f4")] * 2,
        labels=[(across // 10 // 4).astype("u1")] * 2,
        id=["a", "b"],
    )


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_what_is_aligned_is_cropped_and_mirrored_alike_and_labels_stay_classes() -> None:
    together = table().with_aligned(["rgb", "depth", "labels"])
    mirrored = []
    for seed in range(24):
        drawn = together.draw(0, seeded(seed))
        column = drawn["depth"] % 24  # where each pixel came from
        assert torch.equal(drawn["labels"], (column // 4).long())
        assert (drawn["rgb"][0].float() / 10 - column).abs().max() < 2.5  # interpolated
        mirrored.append((bool(column[0, 0] > column[0, -1]), float(drawn["other"][0, 0, 0])))
    assert {flip for flip, _ in mirrored} == {True, False}


def test_what_is_not_aligned_draws_its_own() -> None:
    """Of 24 rows about half are mirrored otherwise; without a word all draw the same."""

    def differ(some: Table) -> int:
        rows = [some.draw(0, seeded(seed)) for seed in range(24)]
        turned = [(row["rgb"][0, 0, 0] > row["rgb"][0, 0, -1],
                   row["other"][0, 0, 0] > row["other"][0, 0, -1]) for row in rows]  # fmt: skip
        return sum(bool(one != two) for one, two in turned)

    assert differ(table()) == 0
    assert differ(table().with_aligned(["rgb", "other"])) == 0
    assert 4 < differ(table().with_aligned(["rgb", "depth"])) < 20
    assert 4 < differ(table().with_aligned()) < 20


def test_maps_beside_bands_are_cut_out_at_the_same_place() -> None:
    readers = {
        "bands": SpectralReader(size=8, flips=False),
        "depth": DepthMapReader(hole=None, transform=WindowCrop(8)),
        "labels": LabelMapReader(transform=WindowCrop(8)),
    }
    both = Table.from_arrays(
        modalities=list(readers), reader=readers, bands=PLACES[None, None].astype("f4"),
        depth=PLACES[None].astype("f4"), labels=(PLACES[None] % 24).astype("u1"),
    )  # fmt: skip
    corners = set()
    for seed in range(12):
        drawn = both.draw(0, seeded(seed))
        assert torch.equal(drawn["bands"]["pixels"][0], drawn["depth"])
        assert torch.equal(drawn["labels"], (drawn["depth"] % 24).long())
        corners.add(float(drawn["depth"][0, 0]))
    assert len(corners) > 6
    assert torch.equal(both[0]["depth"], torch.tensor(PLACES[8:16, 8:16]).float())


def test_a_missing_modality_changes_nothing_for_the_others() -> None:
    whole = table().with_aligned(["depth", "labels", "rgb"])
    columns = {name: list(whole.columns[name]) for name in READERS} | {"id": ["a", "b"]}
    columns["depth"] = [None, PLACES.astype("f4")]
    holes = Table.of(columns, READERS).with_aligned(["depth", "labels", "rgb"])
    one, other = whole.draw(0, seeded(3)), holes.draw(0, seeded(3))
    assert "depth" not in other
    for name in ("rgb", "labels", "other"):
        assert torch.equal(one[name], other[name])


def test_grids_of_different_sizes_are_one_sentence(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((24, 24, 3), "u1")).save(tmp_path / "rgb.png")
    Image.fromarray(np.zeros((12, 24), "u2")).save(tmp_path / "depth.png")
    columns = {"rgb": ["rgb.png"], "depth": ["depth.png"], "id": ["kitchen"]}
    readers = {name: replace(READERS[name], transform=CROP) for name in ("rgb", "depth")}
    files = Table.of(columns, readers, tmp_path)
    assert files[0]["depth"].shape == (12, 12)  # nothing was declared
    wrong = "row 'kitchen': rgb and depth are declared aligned, but their grids are 24 x 24 and 12"
    declared = files.with_aligned(["rgb", "depth"])
    with pytest.raises(BadSample, match=wrong):
        declared[0]
    _, checked = declared.check()
    with pytest.raises(BadSample, match=wrong):
        checked.draw(0, seeded(0))


def test_groups_are_checked_when_they_are_declared() -> None:
    with pytest.raises(ValueError, match="no modality 'sound'"):
        table().with_aligned(["rgb", "sound"])
    with pytest.raises(ValueError, match="'rgb' is named twice"):
        table().with_aligned(["rgb", "depth"], ["rgb"])
    assert table().with_aligned(["rgb", "depth"]).head(1).aligned == (("rgb", "depth"),)
