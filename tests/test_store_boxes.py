"""Boxes and other parts of packed arrays: no more is read than is asked for."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from multimask.datasets.formats.nifti import write_nifti
from multimask.datasets.formats.volumes import VolumeReader
from multimask.datasets.store import Packing, open_store
from multimask.datasets.stores import frames
from multimask.datasets.stores.leaves import LeafReader
from multimask.datasets.table import Table
from multimask.datasets.volume_transforms import Crop, Flip, Orient
from multimask.datasets.volumes import new_volume
from multimask.tokens import BadSample
from store_tables import mixed, same, same_tables, write_photographs


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    return write_photographs(tmp_path / "photographs")


class Counted:
    """Counts the bytes that pass a place."""

    def __init__(self, place: Any) -> None:
        self.place, self.bytes = place, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.place, name)

    def piece(self, key: str, start: int, length: int) -> bytes:
        self.bytes += length
        return self.place.piece(key, start, length)

    def fill(self, key: str, start: int, into: Any) -> int:
        self.bytes += len(into)
        return self.place.fill(key, start, into)


@pytest.mark.parametrize(
    ("packing", "share"),
    [
        (Packing("arrays"), 1.01),
        (Packing("arrays", chunks=(1, 16, 16, 16)), 0.15),
        (Packing("arrays", chunks=(2, 12, 20, 7)), 0.5),
        (Packing("arrays", chunks=(1, 16, 16, 16), level=3), 0.15),
    ],
)
@pytest.mark.parametrize("ragged", [False, True])
def test_a_box_is_read_without_the_rest(
    tmp_path: Path, packing: Packing, share: float, ragged: bool
) -> None:
    rng = np.random.default_rng(0)
    shapes = [(2, 40, 33 + ragged * row, 35) for row in range(3)]
    volumes = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    packed = Table.from_arrays(x=volumes).pack(tmp_path / "store", x=packing)
    entry = packed.columns["x"][2]
    leaf: LeafReader = entry.array.leaf
    assert (leaf.leaf.shape is None) == ragged
    leaf.shards.index(leaf.leaf.file(0, 2, leaf.rows))
    counted = Counted(leaf.place)
    leaf.shards.place = counted  # type: ignore[assignment]
    for box in (
        np.s_[:, 3:9, 20:31, 5:6],
        np.s_[1, ..., 30:],
        np.s_[:, 8:8],
        np.s_[0],
        np.s_[-1, 2],
    ):
        np.testing.assert_array_equal(entry.array[box], volumes[2][box])
    counted.bytes = 0
    np.testing.assert_array_equal(
        entry.array[:, 16:32, 16:32, 16:32], volumes[2][:, 16:32, 16:32, 16:32]
    )
    if not ragged:
        assert counted.bytes < share * volumes[2].nbytes


def test_a_packed_volume_keeps_its_geometry_and_is_cropped_afterwards(tmp_path: Path) -> None:
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = (-5, 7, 9)
    for number in range(3):
        voxels = (
            np.random.default_rng(number).integers(0, 99, (9, 10, 11 + number)).astype(np.int16)
        )
        write_nifti(tmp_path / f"{number}.nii.gz", new_volume(voxels[None], affine))
    table = Table.of(
        {"t1": [f"{number}.nii.gz" for number in range(3)]},
        {"t1": VolumeReader(transforms=(Orient("LPS"),))},
        tmp_path,
    )
    packed = table.pack(tmp_path / "store")
    same_tables(table, packed)
    cropping = VolumeReader(transforms=(Orient("LPS"), Crop(4), Flip()))
    cropped, direct = packed.with_readers(t1=cropping), table.with_readers(t1=cropping)
    for row in range(3):
        drawn = [t.draw(row, Generator().manual_seed(row)) for t in (cropped, direct)]
        assert drawn[0]["t1"].shape == (1, 4, 4, 4)
        same(*drawn)


def test_dicts_of_tensors_and_facts_come_back(tmp_path: Path) -> None:
    table = Table.of({"id": list("abc"), "cube": ["3", "4", "5"]}, {"cube": Cubes()}, tmp_path)
    packed = table.pack(tmp_path / "store", cube="arrays")
    same_tables(table, packed)
    assert isinstance(packed[0]["cube"]["names"], tuple)
    with pytest.raises(ValueError, match="cannot read again"):
        open_store(tmp_path / "store", Cubes())


class Cubes:
    """A reader that is no plug-in and gives a dict; every second sample lacks a key."""

    suffixes = (".cube",)

    def probe(self, source: Any) -> dict[str, Any]:
        return {"number": int(os.path.basename(source))}

    def read(self, source: Any, generator: Generator | None = None) -> dict[str, Any]:
        number = int(os.path.basename(source))
        made: dict[str, Any] = {"pixels": torch.full((number, 3, 3), float("nan")), "names": ("x",)}
        if number % 2:
            made["wavelengths"] = torch.arange(number, dtype=torch.float64)
        return made


def test_a_reader_that_knows_nothing_of_stores_gets_a_file(
    photographs: Path, tmp_path: Path
) -> None:
    table = Table.open(photographs, reader=Sizes())
    packed = table.pack(tmp_path / "store").with_readers(image=Sizes())
    readable = [not name.endswith("broken.jpg") for name in table.columns["image"]]
    for row in np.flatnonzero(readable).tolist():
        assert table[row]["image"].tolist() == packed[row]["image"].tolist()
    with pytest.raises(BadSample, match=r"broken.jpg: .*when it was packed"):
        packed[list(table.columns["image"]).index("a/broken.jpg")]


class Sizes:
    """Reads the size and the ending of a file by its path."""

    suffixes = (".jpg", ".png")

    def probe(self, source: Any) -> dict[str, Any]:
        return {"bytes": os.stat(source).st_size}

    def read(self, source: Any, generator: Generator | None = None) -> Tensor:
        return torch.tensor([os.stat(source).st_size, source.endswith(".png")])


def test_frames_are_zstd_whatever_their_length() -> None:
    import numcodecs

    for count in (1, 5, 1000, frames.CELL - 1, frames.CELL):
        data = os.urandom(count)
        frame = b"".join(frames.kept(data))
        assert len(frame) <= count + 16
        assert bytes(numcodecs.Zstd().decode(frame)) == data.ljust(frames.CELL, b"\0")
        assert bytes(frames.unkept(memoryview(frame), count)) == data


def test_a_store_lies_behind_a_url_too(tmp_path: Path) -> None:
    url, table = f"memory://{tmp_path.name}/store.zarr", mixed()
    same_tables(table, table.pack(url, rows_per_shard=3))
    same_tables(table, Table.open(url))
    with pytest.raises(ValueError, match="expected nothing there"):
        table.head(3).pack(url)
