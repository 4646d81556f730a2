"""Tables: what folders and listings become, and that rows never change what a sample is."""

import csv
import os
import pickle
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from multimask.datasets.embedded import digits, photographs
from multimask.datasets.formats.images import ImageReader
from multimask.datasets.table import Table
from multimask.datasets.transforms import RandomResizedCrop
from multimask.tokens import BadSample, Samples


def picture(path: Path, shade: int = 0, size: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (shade, shade, shade)).save(path)
    return path


def listing(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def column(table: Table, name: str) -> list[object]:
    return list(table.columns[name])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for shade, name in enumerate(("cat/1.png", "cat/2.png", "dog/deep/1.PNG", "dog/1.png")):
        picture(tmp_path / name, shade)
    picture(tmp_path / ".hidden/1.png")
    picture(tmp_path / "cat/.1.png")
    listing(tmp_path / "cat/notes.txt", "not a picture")
    return tmp_path


# --- folders --------------------------------------------------------------------------------------


def test_top_folders_are_labels_and_paths_are_ids(folder: Path) -> None:
    table = Table.open(folder)
    assert isinstance(table, Samples)
    assert column(table, "id") == ["cat/1.png", "cat/2.png", "dog/1.png", "dog/deep/1.PNG"]
    assert column(table, "label") == ["cat", "cat", "dog", "dog"]
    sample = table[3]
    assert sample.keys() == {"id", "image", "label"}
    assert sample["image"].unique().tolist() == [2]


def test_train_val_and_test_are_splits_only_when_all_top_folders_are(tmp_path: Path) -> None:
    for name in ("train/cat/1.png", "test/cat/1.png", "test/dog/1.png"):
        picture(tmp_path / name)
    table = Table.from_folder(tmp_path)
    assert column(table, "split") == ["test", "test", "train"]
    assert column(table, "label") == ["cat", "dog", "cat"]
    picture(tmp_path / "plane/1.png")  # a train is a thing as well
    assert column(Table.from_folder(tmp_path), "label") == ["plane", "test", "test", "train"]


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    assert Table.from_folder(tmp_path, modality="rgb")[0].keys() == {"id", "rgb"}


def test_labels_csv_with_a_file_column_is_the_table(folder: Path) -> None:
    listing(folder / "labels.csv", "file,label,split", "cat/2.png,feline,test")
    table = Table.from_folder(folder, modality="rgb")
    assert table[0]["rgb"].unique().tolist() == [1]
    assert (column(table, "label"), column(table, "split")) == (["feline"], ["test"])
    listing(folder / "labels.csv", "name,label", "cat/2.png,feline")
    assert len(Table.from_folder(folder)) == 4


def test_links_that_turn_in_a_circle_are_followed_once(folder: Path) -> None:
    (folder / "dog/again").symlink_to(folder, target_is_directory=True)
    assert len(Table.from_folder(folder)) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow Unicode names only")
def test_names_that_are_no_unicode_are_read(tmp_path: Path) -> None:
    picture(tmp_path / "1.png").rename(tmp_path / os.fsdecode(b"\xff.png"))
    table = pickle.loads(pickle.dumps(Table.from_folder(tmp_path)))
    assert table[0]["image"].shape == (3, 8, 8)


# --- listings -------------------------------------------------------------------------------------


def test_a_csv_with_several_modalities_leaves_out_what_a_row_lacks(folder: Path) -> None:
    path = listing(
        folder / "scans.csv",
        "id,t1,flair,age,code",
        "a,cat/1.png,cat/2.png,31,007",
        "b,dog/1.png,,,008",
    )
    table = Table.from_csv(path, ("t1", "flair"), {"flair": ImageReader(channels=1)})
    first, second = table[0], table[1]
    assert first["t1"].shape == (3, 8, 8)
    assert first["flair"].shape == (1, 8, 8)
    assert (first["age"], first["code"]) == (31, "007")
    assert second.keys() == {"id", "t1", "code"}
    missing = table.missing()
    assert (missing["t1"].tolist(), missing["flair"].tolist()) == ([False] * 2, [False, True])


def test_columns_are_mapped_to_modalities_by_name(folder: Path) -> None:
    path = listing(folder / "a.csv", "picture,label", "cat/1.png,1", "cat/2.png,0")
    table = Table.from_csv(path, {"picture": "rgb"})
    assert column(table, "rgb") == column(table, "id") == ["cat/1.png", "cat/2.png"]
    assert column(table, "label") == [1, 0]


def test_parquet_equals_csv(folder: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    cells = {"file": ["cat/1.png", None], "label": [1, None], "id": ["a", "b"]}
    parquet.write_table(arrow.table(cells), folder / "a.parquet")
    csv_path = listing(folder / "a.csv", "file,label,id", "cat/1.png,1,a", ",,b")
    for path in (folder / "a.parquet", csv_path):
        table = Table.open(path)
        assert {name: list(c) for name, c in table.columns.items()} == {
            "image": ["cat/1.png", None],
            "label": [1, None],
            "id": ["a", "b"],
        }


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([""], "lines of samples, found none"),
        (["file,label"], "lines of samples, found none"),
        (["file,label", "cat/1.png"], "line 2 has 1 cells, the first 2"),
        (["name,label", "cat/1.png,cat"], r"expected one of \['file', 'path', 'image'\]"),
        (["file,path", "cat/1.png,cat/1.png"], "say which"),
        (["file,file", "cat/1.png,cat/1.png"], "'file' occurs twice"),
        (["file", "cow/1.png", "cow/2.png"], "not one of the files in column 'file' exists"),
        (["file", "cat/1.png", "cat/1.png"], "the id 'cat/1.png' occurs 2 times"),
        (["file,id", "cat/1.png,x", "cat/2.png,x"], "the id 'x' occurs 2 times"),
        (["file,label", "cat/1.png,cat", ",dog"], "row 1 has neither an id nor a file"),
    ],
)
def test_a_csv_that_is_no_table_is_refused(folder: Path, lines: list[str], expected: str) -> None:
    path = listing(folder / "a.csv", *lines)
    with pytest.raises(ValueError, match=expected):
        Table.from_csv(path)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: folder / "nothing", "found nothing there"),
        (lambda folder: folder / "cat/notes.txt", "found a file ending in '.txt'"),
        (lambda folder: (folder / "empty").mkdir() or folder / "empty", "found no files"),
        (lambda folder: listing(folder / "a.npz", "no arrays"), "expected arrays of plain"),
        (lambda folder: listing(folder / "a.npy", ""), "found an empty file"),
        (lambda folder: listing(folder / "a.parquet", "no table"), "expected a Parquet file"),
    ],
)
def test_what_is_no_data_set_is_refused(
    folder: Path, make: Callable[[Path], Path], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        Table.open(make(folder))


def test_a_folder_without_pictures_says_what_it_holds(tmp_path: Path) -> None:
    listing(tmp_path / "a.txt", "text")
    with pytest.raises(ValueError, match=r"found only files with \.txt"):
        Table.from_folder(tmp_path)


# --- arrays ---------------------------------------------------------------------------------------


def test_arrays_in_memory_are_samples() -> None:
    pictures = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
    table = Table.from_arrays(image=pictures, label=np.array([4, 5]))
    assert (table[1]["image"].numpy() == pictures[1]).all()
    assert (table[1]["id"], table[1]["label"]) == ("1", 5)
    ragged = Table.from_arrays(
        image=[torch.zeros(3, 2, 2), None], depth=[None, np.ones((1, 4, 4))], id=["a", "b"]
    )
    assert ragged[0].keys() == {"id", "image"}
    assert ragged[1].keys() == {"id", "depth"}


def test_files_of_arrays_are_opened(tmp_path: Path) -> None:
    pictures = np.zeros((4, 3, 8, 8), np.uint8)
    np.save(tmp_path / "a.npy", pictures)
    np.savez(tmp_path / "a.npz", image=pictures, label=np.array(["x", "x", "y", "y"]))
    assert len(Table.open(tmp_path / "a.npy", modality="rgb").where(id="2")) == 1
    assert len(Table.open(tmp_path / "a.npz").where(label="y")) == 2


def test_arrays_are_augmented_by_a_reader() -> None:
    crop = ImageReader(transform=RandomResizedCrop(4))
    table = Table.from_arrays(image=np.random.default_rng(0).random((2, 3, 9, 9)), reader=crop)
    assert table.draw(0, generator())["image"].shape == (3, 4, 4)


# --- samples --------------------------------------------------------------------------------------


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_modalities_are_cropped_alike_and_one_that_lacks_changes_nothing(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    path = listing(tmp_path / "a.csv", "id,rgb,depth", "both,a.png,a.png", "one,a.png,")
    reader = ImageReader(transform=RandomResizedCrop(8))
    table = Table.from_csv(path, ("rgb", "depth"), reader)
    both, one = table.draw(0, generator()), table.draw(1, generator())
    assert (both["rgb"] == both["depth"]).all()
    assert (both["rgb"] == one["rgb"]).all()
    assert not (both["rgb"] == table[0]["rgb"]).all()


def test_a_file_that_is_missing_is_a_bad_sample_and_checked_for(folder: Path) -> None:
    table = Table.from_csv(listing(folder / "a.csv", "file", "cat/1.png", "cow/1.png"))
    assert table[0]["id"] == "cat/1.png"
    with pytest.raises(BadSample, match=r"cow/1\.png: expected a picture, found no such file"):
        table[1]
    bad, reported = table.check()
    assert [name for name, _ in bad] == ["cow/1.png"]
    assert column(reported, "image.width") == [8, None]
    assert column(reported.where(**{"image.problem": None}), "id") == ["cat/1.png"]
    assert reported[0].keys() == {"id", "image"}


def test_damage_behind_a_header_is_found_by_a_full_check_only(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "cat/1.png")
    data = (folder / "cat/1.png").read_bytes()
    (folder / "cat/1.png").write_bytes(data[: len(data) // 2])
    table = Table.open(folder)
    assert table.check()[0] == []
    assert [name for name, _ in table.check(full=True)[0]] == ["cat/1.png"]


def test_a_table_survives_the_way_to_workers(folder: Path) -> None:
    table = Table.open(folder)
    sent = pickle.loads(pickle.dumps(table))
    assert {name: list(c) for name, c in sent.columns.items()} == {
        name: list(c) for name, c in table.columns.items()
    }
    assert (sent[1]["image"] == table[1]["image"]).all()
    assert len(pickle.dumps(Table.from_arrays(image=np.zeros((2, 9))).head(1))) < 4000


# --- choosing rows --------------------------------------------------------------------------------


def test_rows_are_chosen_by_value_place_and_number(folder: Path) -> None:
    table = Table.open(folder).with_columns(score=[1.0, 2.0, None, 4.0], kind=["", "a", "b", "c"])
    assert column(table.where(label="dog", kind=("b", "x")), "id") == ["dog/1.png"]
    assert column(table.where(score=None), "id") == column(table.where(kind="b"), "id")
    assert column(table.where(kind=None), "id") == ["cat/1.png"]
    assert column(table.select([3, 0]), "score") == [4.0, 1.0]
    assert column(table.select(table.missing()["image"]), "id") == []
    assert column(table.head(1), "id") == ["cat/1.png"]


def test_wrong_choices_are_refused_with_what_there_is(folder: Path) -> None:
    table = Table.open(folder)
    with pytest.raises(ValueError, match=r"found .*'cat', 'dog'"):
        table.where(label="cow")
    with pytest.raises(
        ValueError, match=r"no column 'split'; there are \['id', 'image', 'label'\]"
    ):
        table.where(split="train")
    with pytest.raises(ValueError, match=r"'dog/1\.png' is chosen twice"):
        table.select([2, 2])
    with pytest.raises(ValueError, match="equally long"):
        table.with_columns(score=[1.0])
    with pytest.raises(ValueError, match="given for 'rgb'"):
        table.with_readers(rgb=ImageReader())


def test_holding_out_keeps_labels_in_proportion_whatever_the_order() -> None:
    table = digits()
    rest, held = table.split_off(0.1, seed=1)
    assert len(held) == 180
    assert not set(column(rest, "id")) & set(column(held, "id"))
    counts = Counter(column(held, "label"))
    assert max(counts.values()) - min(counts.values()) <= 2
    backwards = table.select(range(len(table) - 1, -1, -1)).split_off(0.1, seed=1)[1]
    assert set(column(backwards, "id")) == set(column(held, "id"))
    assert set(column(table.split_off(0.1, seed=2)[1], "id")) != set(column(held, "id"))


def test_holding_out_by_subject_parts_no_subject() -> None:
    subjects = [f"s{row % 20}" for row in range(200)]
    table = Table.from_arrays(image=np.zeros((200, 1, 2, 2)), subject=subjects)
    rest, held = table.split_off(0.25, by="subject")
    assert len(held) == 50
    assert not set(column(rest, "subject")) & set(column(held, "subject"))
    with pytest.raises(ValueError, match="leaves one side empty"):
        table.with_columns(subject=["one"] * 200).split_off(0.5, by="subject")


# --- embedded and shared data ---------------------------------------------------------------------


def test_embedded_digits_are_levels_of_16() -> None:
    table = digits()
    assert len(table.where(split="test")) == 450
    assert table[0]["image"].shape == (1, 8, 8)
    assert table[0]["image"][0, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]  # 0 0 5 13 9 1 0 0


def test_embedded_photographs_follow_from_their_ids() -> None:
    few, many = photographs(size=8, train=2, test=2), photographs(size=8, train=6, test=2)
    assert column(few, "label") == ["china", "flower"] * 2
    assert (few[1]["image"] == many[1]["image"]).all()
    assert few[1]["id"] == many[1]["id"] == "flower/train/0001"
    assert not (many[1]["image"] == many[3]["image"]).all()


def test_the_shared_photographs_are_the_table_that_their_csv_says(shared_data: Path) -> None:
    path = shared_data / "images/caltech101_20"
    table = Table.open(path)
    with open(path / "labels.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert column(table, "id") == [row["file"] for row in rows]
    assert len(table.where(split="test")) == sum(row["split"] == "test" for row in rows)
    bad, reported = table.check(full=True)
    assert bad == []
    for name in ("width", "height", "mode"):
        assert column(reported, f"image.{name}") == column(table, name)
