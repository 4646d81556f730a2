"""Packed tables: what comes back is what was read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from torch import Generator

from multimask.datasets.formats.images import ImageReader
from multimask.datasets.store import Packing
from multimask.datasets.table import Table
from multimask.datasets.transforms import RandomResizedCrop, ResizeCrop
from multimask.tokens import BadSample, Samples
from store_tables import SIZES, mixed, same, same_tables, write_photographs


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    return write_photographs(tmp_path / "photographs")


@pytest.mark.parametrize("how", ["encoded", "pixels", "arrays"])
def test_a_packed_table_gives_the_same_samples(photographs: Path, tmp_path: Path, how: Any) -> None:
    reader = ImageReader(transform=None if how == "arrays" else ResizeCrop(12))
    table = Table.open(photographs, reader=reader)
    packed = table.pack(tmp_path / "store", rows_per_shard=3, image=how)
    assert isinstance(packed, Samples)
    same_tables(table, packed)
    same_tables(table, Table.open(tmp_path / "store"))


@pytest.mark.parametrize("how", ["encoded", "pixels"])
def test_augmentation_is_drawn_from_a_store_as_from_files(
    photographs: Path, tmp_path: Path, how: Any
) -> None:
    reader = ImageReader(transform=RandomResizedCrop(12), exact=True)
    table = Table.open(photographs, reader=reader).where(label="b")
    packed = table.pack(tmp_path / "store", image=how)
    for row in range(len(table)):
        drawn = [t.draw(row, Generator().manual_seed(row)) for t in (table, packed)]
        same(*drawn)
        assert not torch.equal(drawn[0]["image"], table[row]["image"])


def test_arrays_are_augmented_by_a_reader_that_is_given(tmp_path: Path) -> None:
    table = Table.from_arrays(image=torch.randint(256, (3, 3, 20, 20), dtype=torch.uint8))
    table.pack(tmp_path / "store")
    reader = ImageReader(transform=RandomResizedCrop(8))
    packed = Table.open(tmp_path / "store", reader=reader)
    assert packed.draw(1, Generator().manual_seed(0))["image"].shape == (3, 8, 8)
    same(packed[1]["image"], reader.read(table[1]["image"]))


def test_missing_modalities_ragged_samples_and_columns_come_back(tmp_path: Path) -> None:
    table = mixed()
    packed = table.pack(tmp_path / "store", rows_per_shard=2)
    same_tables(table, packed)
    assert "image" not in packed[4]
    for name, gone in table.missing().items():
        np.testing.assert_array_equal(packed.missing()[name], gone)
    for name in ("id", "label", "age", "weight", "split"):
        assert list(packed.columns[name]) == list(table.columns[name])
    some = packed.select([5, 2]).with_columns(fold=[0, 1])
    same(some[0], {**table[5], "fold": 0})
    assert list(packed.where(label="x").columns["id"]) == list(table.where(label="x").columns["id"])


def test_a_plain_zarr_reader_reads_it_all(photographs: Path, tmp_path: Path) -> None:
    table, store = mixed(), tmp_path / "arrays"
    table.pack(store, rows_per_shard=3, cloud=Packing("arrays", level=1))
    group: Any = zarr.open(str(store), mode="r")
    assert group["image/data"].shape == (7, 3, 8, 6)
    np.testing.assert_array_equal(
        group["image/data"][3:6:2], torch.stack([table[3]["image"], table[5]["image"]])
    )
    assert not group["image/data"][4].any()  # absent
    np.testing.assert_array_equal(group["image/_state"][:], [1, 1, 1, 1, 0, 1, 1])
    length, shape = group["cloud/data.length"][:], group["cloud/data.shape"][:]
    cloud = group["cloud/data"][6, : length[6]].view(np.float32).reshape(shape[6])
    np.testing.assert_array_equal(cloud, table[6]["cloud"])
    assert length[2] == -1
    assert list(group["columns/label"][:]) == ["x", "y", "", "x", "y", "x", "y"]

    Table.open(photographs).pack(tmp_path / "files", rows_per_shard=3)
    group = zarr.open(str(tmp_path / "files"), mode="r")
    for row, name in enumerate(group["columns/image.file"][:]):
        count = max(0, int(group["image/file.length"][row]))
        assert group["image/file"][row, :count].tobytes() == (photographs / name).read_bytes()


def test_packing_as_pixels_keeps_the_native_size(photographs: Path, tmp_path: Path) -> None:
    reader = ImageReader(transform=ResizeCrop(4))
    packed = Table.open(photographs, reader=reader).pack(tmp_path / "store", image="pixels")
    shapes = [entry.array.shape for entry in packed.where(label="b").columns["image"]]
    assert shapes == [(3, *SIZES[row]) for row in (1, 3, 5)]
    assert packed.where(label="b")[1]["image"].shape == (3, 4, 4)


def test_numbers_can_be_kept_smaller_and_come_back_as_they_were(tmp_path: Path) -> None:
    values = torch.randn(4, 2, 5, 5)
    values[2, 0, 0, 0] = 1e6  # more than float16 holds
    packed = Table.from_arrays(x=values).pack(tmp_path / "store", x=Packing("arrays", "float16"))
    assert packed[1]["x"].dtype == torch.float32
    torch.testing.assert_close(packed[1]["x"], values[1], rtol=1e-3, atol=1e-3)
    group: Any = zarr.open(str(tmp_path / "store"), mode="r")
    assert group["x/data"].dtype == np.float16
    with pytest.raises(BadSample, match="float16 can hold, found 1e"):
        packed[2]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "float16", "float64", "bool"])
def test_number_types_come_back(tmp_path: Path, dtype: str) -> None:
    values = (torch.rand(3, 4) * 9).to(getattr(torch, dtype))
    same_tables(*(t := Table.from_arrays(x=values), t.pack(tmp_path / "store"))[:2])
