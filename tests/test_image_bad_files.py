"""Picture files that cannot be read: one clear sentence each, and what does not matter is read."""

import csv
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from multimask.datasets.formats.images import ImageReader
from multimask.tokens import BadSample
from picture_files import RAINBOW, SMOOTH, saved

NOISE = np.tile(RAINBOW, (9, 9, 1))
GOOD_ALTHOUGH_ODD = {
    *("invalid-exif.jpg", "sugarshack_bad_mpo_header.jpg", "one_pixel.png", "4000x3.png"),
}


def cut_short(folder: Path) -> Path:
    whole = saved(folder / "whole.jpg", NOISE).read_bytes()
    (folder / "a.jpg").write_bytes(whole[: len(whole) // 2])
    return folder / "a.jpg"


def damaged(folder: Path) -> Path:
    data = bytearray(saved(folder / "a.jpg", NOISE).read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2] = b"\xff\xd3"  # a restart that nobody announced
    (folder / "a.jpg").write_bytes(data)
    return folder / "a.jpg"


def damaged_png(folder: Path) -> Path:
    data = saved(folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(data[:60] + bytes(20) + data[80:])
    return folder / "a.png"


def text(folder: Path) -> Path:
    (folder / "a.png").write_text("not a picture")
    return folder / "a.png"


def empty(folder: Path) -> Path:
    (folder / "a.jpg").touch()
    return folder / "a.jpg"


def absent(folder: Path) -> Path:
    return folder / "absent.jpg"


def a_folder(folder: Path) -> Path:
    (folder / "a.jpg").mkdir()
    return folder / "a.jpg"


def huge(folder: Path) -> Path:
    return png_header(folder / "a.png", 100_000, 100_000)


def large(folder: Path) -> Path:
    return png_header(folder / "a.png", 30_000, 3_000)


def png_header(path: Path, width: int, height: int) -> Path:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return path


def huge_array(folder: Path) -> Path:
    array = np.lib.format.open_memmap(folder / "a.npy", "w+", np.uint8, (3, 20_000, 20_000))
    del array  # a sparse file: its header is true, and 1.2 GB would be read
    return folder / "a.npy"


def not_a_number(folder: Path) -> Path:
    array = np.zeros((3, 4, 4), np.float32)
    array[0, 0, 0], array[1, 1, 1] = np.nan, np.inf
    np.save(folder / "a.npy", array)
    return folder / "a.npy"


def pickled(folder: Path) -> Path:
    np.save(folder / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return folder / "a.npy"


def four_axes(folder: Path) -> Path:
    np.save(folder / "a.npy", np.zeros((2, 3, 4, 4)))
    return folder / "a.npy"


def five_channels(folder: Path) -> Path:
    np.save(folder / "a.npy", np.zeros((5, 8, 8), np.uint8))
    return folder / "a.npy"


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (cut_short, "found a file cut short"),
        (damaged, "found pixel data that are damaged"),
        (damaged_png, "found data that cannot be decoded"),
        (text, "found content that is none of these"),
        (empty, "found an empty file"),
        (absent, "found no such file"),
        (a_folder, "found a folder"),
        (huge, "expected at most .* pixels, found a header that claims more"),
        (large, "expected at most 89,478,485 pixels, found 3,000 x 30,000"),
        (huge_array, "expected at most 89,478,485 pixels, found 20,000 x 20,000"),
        (not_a_number, "found 2 of 48 NaN or infinite"),
        (pickled, "expected a whole NPY array of numbers"),
        (four_axes, r"found shape \(2, 3, 4, 4\)"),
        (five_channels, "expected 3 channels, found 5"),
    ],
)
@pytest.mark.filterwarnings("ignore:Image size")  # Pillow warns where we refuse
def test_a_bad_file_gets_one_sentence_with_its_name(
    tmp_path: Path, make: Callable[[Path], Path], found: str
) -> None:
    path = make(tmp_path)
    with pytest.raises(BadSample, match=found) as caught:
        ImageReader().read(path)
    assert str(caught.value).startswith(f"{path}: expected ")
    assert str(caught.value).count("\n") == 0


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything.")
    with pytest.raises(BadSample, match="may not read"):
        ImageReader().read(path)


def test_broken_exif_does_not_matter(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", SMOOTH, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    with pytest.warns(UserWarning, match="EXIF"):  # Pillow's
        assert ImageReader().read(path).shape == (3, 64, 96)


def test_stray_bytes_in_a_jpeg_header_do_not_matter(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", SMOOTH)
    expected, data = ImageReader().read(path), path.read_bytes()
    tables = data.index(b"\xff\xdb")
    path.write_bytes(data[:tables] + b"\1" + data[tables:])
    assert (ImageReader().read(path) == expected).all()


def test_a_damaged_jpeg_is_read_as_far_as_it_goes_when_asked(tmp_path: Path) -> None:
    assert ImageReader(strict=False).read(cut_short(tmp_path)).shape == (3, 108, 180)


def test_a_truncated_png_is_not_rescued_by_probing_it_first(tmp_path: Path) -> None:
    path, reader = damaged_png(tmp_path), ImageReader()
    assert reader.probe(path)["width"] == 20
    for _ in range(2):
        with pytest.raises(BadSample):
            reader.read(path)


@pytest.mark.filterwarnings("ignore")
def test_shared_bad_pictures_are_refused_and_odd_ones_read(shared_data: Path) -> None:
    with open(shared_data / "bad/EXPECTED.csv", encoding="utf-8") as file:
        names = [row["file"] for row in csv.DictReader(file) if row["file"].startswith("image/")]
    refused = set()
    for name in names:
        try:
            ImageReader().read(shared_data / "bad" / name)
        except BadSample:
            refused.add(Path(name).name)
    assert refused == {Path(name).name for name in names} - GOOD_ALTHOUGH_ODD
