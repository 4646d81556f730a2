"""Packed tables: what comes back is what was read, wherever the packing was stopped."""

import json
import os
import re
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from PIL import Image
from torch import Generator, Tensor

from multimask.datasets.formats.images import ImageReader
from multimask.datasets.formats.nifti import write_nifti
from multimask.datasets.formats.volumes import VolumeReader
from multimask.datasets.store import Packing, open_store
from multimask.datasets.stores import frames
from multimask.datasets.stores.leaves import LeafReader
from multimask.datasets.table import Table
from multimask.datasets.transforms import RandomResizedCrop, ResizeCrop
from multimask.datasets.volume_transforms import Crop, Flip, Orient
from multimask.datasets.volumes import Volume, new_volume
from multimask.tokens import BadSample, Samples

SIZES = [(20, 30), (24, 18), (40, 40), (200, 310), (16, 16), (18, 17), (33, 20)]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """JPEGs and PNGs of several sizes in two folders, one of them empty (zero bytes)."""
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES):
        folder = tmp_path / "photographs" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        suffix = "png" if number == 3 else "jpg"  # the PNG, noise, is larger than a cell
        Image.fromarray(pixels).save(folder / f"{number}.{suffix}")
    (tmp_path / "photographs" / "a" / "broken.jpg").touch()
    return tmp_path / "photographs"


def mixed(rows: int = 7) -> Table:
    """Pictures, clouds of several sizes, and holes in both."""
    generator = Generator().manual_seed(0)
    pictures = torch.randint(256, (rows, 3, 8, 6), generator=generator, dtype=torch.uint8)
    clouds: list[Any] = [torch.rand(5 + 3 * row, 3, generator=generator) for row in range(rows)]
    clouds[2] = None
    return Table.from_arrays(
        image=[None if row == 4 else picture for row, picture in enumerate(pictures)],
        cloud=clouds,
        label=["x", "y", None, "x", "y", "x", "y"],
        age=[1, 2, 3, 4, 5, 6, 7],
        weight=[1.5, None, 2.0, 2.5, 3.0, 3.5, 4.0],
        split=["train"] * rows,
    )


def same(a: Any, b: Any) -> None:
    """Equal to the bit, records field by field."""
    if isinstance(a, Volume):
        assert isinstance(b, Volume)
        a, b = vars(a), vars(b)
    if isinstance(a, dict):
        assert set(a) == set(b)
        for name in a:
            same(a[name], b[name])
    elif isinstance(a, Tensor):
        assert isinstance(b, Tensor)
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    else:
        assert a == b
        assert type(a) is type(b)


def same_tables(a: Table, b: Table) -> None:
    """All samples equal; those that cannot be read cannot in either."""
    assert len(a) == len(b)
    for row in range(len(a)):
        try:
            wanted = a[row]
        except BadSample:
            with pytest.raises(BadSample):
                b[row]
            continue
        same(wanted, b[row])


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


# --- what comes back ------------------------------------------------------------------------------


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


# --- boxes ----------------------------------------------------------------------------------------


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
