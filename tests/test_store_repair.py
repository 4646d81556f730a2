"""Packed tables that were stopped or damaged: gone on with, repaired, or told in a sentence."""

import json
import os
import re
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import zarr

from multimask.datasets.formats.images import ImageReader
from multimask.datasets.store import Packing, open_store
from multimask.datasets.table import Table
from multimask.datasets.transforms import ResizeCrop
from multimask.tokens import BadSample
from store_tables import SIZES, mixed, same, same_tables, write_photographs


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    return write_photographs(tmp_path / "photographs")


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


# --- packing that is stopped ----------------------------------------------------------------------


def test_neither_workers_nor_kills_change_a_byte(photographs: Path, tmp_path: Path) -> None:
    table = Table.open(photographs)
    table.pack(tmp_path / "alone", rows_per_shard=2)
    table.pack(tmp_path / "workers", rows_per_shard=2, workers=2)
    stopping = tmp_path / "stopped"
    for after in (1, 2, 1):
        with pytest.raises(Stop):
            table.pack(stopping, rows_per_shard=2, told=stop_after(after))
        (stopping / "image" / "file" / "c" / "9.0123abcd.partial").write_bytes(b"half a shard")
    table.pack(stopping, rows_per_shard=2)
    assert files_of(tmp_path / "workers") == files_of(tmp_path / "alone")
    assert files_of(stopping) == files_of(tmp_path / "alone")


class Stop(Exception):
    pass


def stop_after(count: int) -> Any:
    heard: list[int] = []

    def told(done: int, of: int) -> None:
        heard.append(done)
        if len(heard) == count:
            raise Stop

    return told


def test_an_unfinished_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        mixed().pack(tmp_path / "store", rows_per_shard=2, told=stop_after(2))
    with pytest.raises(
        ValueError, match=r"not finished \(2 of 4 shards are there\); pack the same"
    ):
        Table.open(tmp_path / "store")
    with pytest.raises(ValueError, match="one of other samples, readers or packings"):
        mixed().head(6).pack(tmp_path / "store", rows_per_shard=2)


def test_a_sample_of_another_shape_makes_its_array_ragged(tmp_path: Path) -> None:
    pictures = [torch.rand(3, 8, 8) for _ in range(40)]
    pictures[17] = torch.rand(3, 9, 8)  # not among those that are looked at beforehand
    table = Table.from_arrays(x=pictures, y=torch.rand(40, 2))
    packed = table.pack(tmp_path / "store", rows_per_shard=5)
    same_tables(table, packed)
    group: Any = zarr.open(str(tmp_path / "store"), mode="r")
    assert group["y/data"].shape == (40, 2)
    with pytest.raises(Stop):
        table.pack(tmp_path / "stopped", rows_per_shard=5, told=stop_after(5))
    table.pack(tmp_path / "stopped", rows_per_shard=5)
    assert files_of(tmp_path / "stopped") == files_of(tmp_path / "store")


def test_packing_again_changes_nothing(tmp_path: Path) -> None:
    mixed().pack(tmp_path / "store")
    before = {f: os.stat(f).st_mtime_ns for f in (tmp_path / "store").rglob("*")}
    mixed().pack(tmp_path / "store")
    assert {f: os.stat(f).st_mtime_ns for f in (tmp_path / "store").rglob("*")} == before


def test_packing_again_repairs_what_is_damaged(photographs: Path, tmp_path: Path) -> None:
    table, store = Table.open(photographs), tmp_path / "store"
    table.pack(store, rows_per_shard=2)
    before = files_of(store)
    first, second, *_ = [
        file for file in sorted((store / "image/file/c").rglob("*")) if file.is_file()
    ]
    first.write_bytes(first.read_bytes()[:-30])
    second.write_bytes(second.read_bytes()[:99] + b"?" + second.read_bytes()[100:])
    heard: list[int] = []
    table.pack(store, rows_per_shard=2, told=lambda done, of: heard.append(done))
    assert files_of(store) == before
    assert heard == [3, 4]


def test_a_shard_that_did_not_reach_the_disk_is_written_again(tmp_path: Path) -> None:
    table, store = mixed(), tmp_path / "store"
    with pytest.raises(Stop):
        table.pack(store, rows_per_shard=2, told=stop_after(3))
    lost = shard(store, "cloud/data")
    lost.write_bytes(bytes(len(lost.read_bytes())))
    same_tables(table, table.pack(store, rows_per_shard=2))


# --- what is bad ----------------------------------------------------------------------------------


def shard(store: Path, name: str) -> Path:
    return next(file for file in sorted((store / name / "c").rglob("*")) if file.is_file())


@pytest.mark.parametrize("how", [Packing("encoded"), Packing("arrays"), Packing("arrays", level=1)])
def test_a_flipped_byte_is_found_in_its_sample_alone(
    photographs: Path, tmp_path: Path, how: Packing
) -> None:
    table = Table.open(photographs, reader=ImageReader(transform=ResizeCrop(8))).where(label="b")
    table.pack(tmp_path / "store", image=how)
    name = "image/file" if how.stored == "encoded" else "image/data"
    damaged = shard(tmp_path / "store", name)
    data = bytearray(damaged.read_bytes())
    data[40] ^= 1  # in the first sample
    damaged.write_bytes(data)
    packed = Table.open(tmp_path / "store")
    with pytest.raises(BadSample, match=r"store: expected chunk 0 of the shard .* its checksum"):
        packed[0]
    same(packed[1], table[1])
    group: Any = zarr.open(str(tmp_path / "store"), mode="r")
    with pytest.raises(ValueError, match="checksum"):  # zarr finds it too
        group[name][0]


@pytest.mark.parametrize("left", [0, 10, -1])
def test_a_shard_that_is_cut_short_is_found(tmp_path: Path, left: int) -> None:
    mixed().pack(tmp_path / "store", rows_per_shard=4)
    cut = shard(tmp_path / "store", "image/data")
    cut.write_bytes(cut.read_bytes()[:left])
    packed = Table.open(tmp_path / "store")
    with pytest.raises(BadSample, match="cut short or damaged at its end; pack it again"):
        packed[0]
    same(packed[5], mixed()[5])
    cut.unlink()
    with pytest.raises(BadSample, match="expected a shard image/data/c/0/0/0/0, found none"):
        Table.open(tmp_path / "store")[0]


def test_a_damaged_sample_is_skipped_and_told(tmp_path: Path) -> None:
    from multimask.evaluation.reading import batches
    from multimask.modalities.image import ImagePatches

    table = Table.from_arrays(image=torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8))
    packed = table.pack(tmp_path / "store")
    damaged = shard(tmp_path / "store", "image/data")
    data = bytearray(damaged.read_bytes())
    data[2 * (192 + 4) + 7] ^= 128
    damaged.write_bytes(data)
    read = list(batches(packed, {"image": ImagePatches(8, patch=4)}, batch_size=4, workers=2))
    assert [name for batch in read for name, _ in batch.skipped] == ["2"]
    assert sum(batch.size for batch in read) == 5


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    mixed().pack(tmp_path / "store")
    root = tmp_path / "store" / "zarr.json"
    made = json.loads(root.read_text())
    made["attributes"]["multimask"]["version"] = 2
    root.write_text(json.dumps(made))
    with pytest.raises(ValueError, match=r"version 1 or older, found version 2; .* upgrade"):
        Table.open(tmp_path / "store")


def test_other_groups_and_damaged_roots_are_refused(tmp_path: Path) -> None:
    zarr.create_group(str(tmp_path / "group"))
    with pytest.raises(ValueError, match="found another zarr group"):
        open_store(tmp_path / "group")
    with pytest.raises(ValueError, match=r"found no zarr\.json"):
        open_store(tmp_path / "nowhere")
    (tmp_path / "group" / "zarr.json").write_text("{")
    with pytest.raises(ValueError, match="damaged or none"):
        open_store(tmp_path / "group")


def test_packing_refuses_what_cannot_be(photographs: Path, tmp_path: Path) -> None:
    table = mixed()
    with pytest.raises(ValueError, match="'lidar' is no modality of this table"):
        table.pack(tmp_path / "a", lidar="arrays")
    with pytest.raises(ValueError, match="holds arrays, which have no bytes of a file"):
        table.pack(tmp_path / "a", image="encoded")
    with pytest.raises(ValueError, match="its reader has no `transform`"):
        table.pack(tmp_path / "a", image="pixels")
    with pytest.raises(ValueError, match=r"chunks=\(4,\) must have 3 sides"):
        table.pack(tmp_path / "a", image=Packing("arrays", chunks=(4,)))
    assert not (tmp_path / "a").exists()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"empty or new folder, found thesis.tex"):
        table.pack(tmp_path / "a")
    table.pack(tmp_path / "store")
    with pytest.raises(ValueError, match="expected nothing there, or this table packed alike"):
        Table.open(photographs).pack(tmp_path / "store")


@pytest.fixture
def small_files() -> Iterator[int]:
    """No file of this process may be larger than a few kilobytes: writing fails as on a full
    disk."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE), 9000
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    yield most
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_leaves_a_store_that_can_be_gone_on_with(
    tmp_path: Path, small_files: int
) -> None:
    table = Table.from_arrays(x=[torch.rand(10 if row < 4 else 3000) for row in range(6)])
    with pytest.raises(OSError, match=r"writing failed \(File too large\).*pack again, it goes on"):
        table.pack(tmp_path / "store", rows_per_shard=2)
    left = files_of(tmp_path / "store")
    assert not [name for name in left if name.endswith(".partial")]
    assert {".packing/0.json", ".packing/1.json"} <= set(left)
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    same_tables(table, table.pack(tmp_path / "store", rows_per_shard=2))


def test_a_folder_that_may_not_be_written_to_is_told() -> None:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)  # the superuser may write anywhere
        with pytest.raises(OSError, match=r"writing failed \(Permission denied\)"):
            mixed().pack(folder / "store")
    finally:
        os.seteuid(user)
        shutil.rmtree(folder)


def test_messages_name_the_file_that_was_packed(photographs: Path, tmp_path: Path) -> None:
    (photographs / "b" / "text.jpg").write_text("no picture at all")
    packed = Table.open(photographs).pack(tmp_path / "store")
    row = list(packed.columns["image.file"]).index("b/text.jpg")
    with pytest.raises(BadSample, match=re.escape("b/text.jpg: expected a picture")):
        packed[row]
    bad, told = packed.check(full=True)
    assert [name for name, _ in bad] == ["a/broken.jpg", "b/text.jpg"]
    assert told.columns["image.width"][0] == SIZES[0][1]
