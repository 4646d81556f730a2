"""The image reader: right pixels from every kind of file, one clear sentence from bad ones."""

import csv
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import tifffile
import torch
from PIL import Image
from torch import Tensor

from multimask.datasets.formats.images import ImageReader
from multimask.datasets.transforms import RandomResizedCrop, ResizeCrop
from multimask.tokens import BadSample

RAINBOW = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
SMOOTH = np.linspace(0, 255, 64 * 96 * 3).reshape(64, 96, 3).astype(np.uint8)

NOISE = np.tile(RAINBOW, (9, 9, 1))


def saved(path: Path, pixels: np.ndarray = RAINBOW, mode: str = "RGB", **how: Any) -> Path:
    Image.fromarray(pixels).convert(mode).save(path, **how)
    return path


def channels_last(picture: Tensor) -> np.ndarray:
    return picture.permute(1, 2, 0).numpy()


# --- right pixels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm"])
def test_lossless_files_are_read_to_the_pixel(tmp_path: Path, name: str) -> None:
    found = ImageReader().read(saved(tmp_path / name))
    assert found.dtype == torch.uint8
    assert found.is_contiguous()
    assert (channels_last(found) == RAINBOW).all()


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_equals_pillow(tmp_path: Path, progressive: bool) -> None:
    path = saved(tmp_path / "a.jpg", SMOOTH, progressive=progressive, quality=90)
    difference = channels_last(ImageReader().read(path)).astype(int) - np.asarray(Image.open(path))
    assert np.abs(difference).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / name, exif=exif, lossless=True)  # a word that only WebP knows
    reader, expected = ImageReader(), UPRIGHT[orientation](RAINBOW)
    assert (channels_last(reader.read(path)) == expected).all()
    assert (reader.probe(path)["height"], reader.probe(path)["width"]) == expected.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_jpeg_is_applied_to_the_pixel(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.jpg", SMOOTH, exif=exif)
    stored = simplejpeg.decode_jpeg(path.read_bytes())
    reader, expected = ImageReader(), UPRIGHT[orientation](stored)
    assert (channels_last(reader.read(path)) == expected).all()
    assert (reader.probe(path)["height"], reader.probe(path)["width"]) == expected.shape[:2]


UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # as the EXIF standard draws them
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}


def test_16_bit_keeps_its_precision_as_floats_of_0_to_1(tmp_path: Path) -> None:
    levels = np.array([[0, 1, 257], [4095, 65534, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    Image.fromarray(levels).save(tmp_path / "a.pgm")
    tifffile.imwrite(tmp_path / "a.tif", levels)
    np.save(tmp_path / "a.npy", levels)
    for name in ("a.png", "a.pgm", "a.tif", "a.npy"):
        found = ImageReader(channels=1).read(tmp_path / name)
        assert found.dtype == torch.float32
        assert (found[0].double() * 65535).round().tolist() == levels.tolist()
    twelve_bit = ImageReader(channels=1, white=4095).read(tmp_path / "a.png")
    assert twelve_bit[0, 1, 0] == 1


def test_one_number_type_for_all_files_when_asked(tmp_path: Path) -> None:
    eight, sixteen = saved(tmp_path / "a.png"), tmp_path / "b.png"
    Image.fromarray(np.full((4, 4), 65535, np.uint16)).save(sixteen)
    for path in (eight, sixteen):
        assert ImageReader(dtype="uint8").read(path).dtype == torch.uint8
        assert ImageReader(dtype="float32").read(path).dtype == torch.float32
    assert ImageReader(dtype="uint8").read(sixteen).min() == 255
    assert ImageReader(dtype="float32").read(eight).max() <= 1


def test_16_bit_colour_tiff_is_not_cut_to_8_bit(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 65536, (4, 5, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", levels, photometric="rgb")
    found = ImageReader().read(tmp_path / "a.tif")
    assert (channels_last((found.double() * 65535).round()) == levels).all()


def test_grey_becomes_three_equal_channels_and_colour_one(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        grey = ImageReader().read(saved(tmp_path / name, SMOOTH, "L"))
        assert grey.shape == (3, 64, 96)
        assert (grey[0] == grey[1]).all()
        assert (grey[0] == grey[2]).all()
    colour = saved(tmp_path / "b.png")
    expected = np.asarray(Image.open(colour).convert("L")).astype(int)
    assert np.abs(ImageReader(channels=1).read(colour)[0].numpy() - expected).max() <= 1


def test_palettes_become_colour_and_transparency_lies_over_white(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    palette.save(tmp_path / "a.png")
    palette.save(tmp_path / "b.png", transparency=1)
    red, blue, white = [255, 0, 0], [0, 0, 255], [255, 255, 255]
    assert channels_last(ImageReader().read(tmp_path / "a.png")).tolist() == [[red, blue]]
    assert channels_last(ImageReader().read(tmp_path / "b.png")).tolist() == [[red, white]]
    kept = ImageReader(channels=None).read(tmp_path / "b.png")
    assert channels_last(kept).tolist() == [[[*red, 255], [*blue, 0]]]


def test_cmyk_jpeg_becomes_colour(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", SMOOTH, "CMYK", quality=95)
    found = channels_last(ImageReader().read(path)).astype(int)
    assert np.abs(found - np.asarray(Image.open(path).convert("RGB"))).mean() < 2
    assert ImageReader().probe(path)["mode"] == "CMYK"


def test_content_not_name_decides(tmp_path: Path) -> None:
    saved(tmp_path / "a.jpg", SMOOTH).rename(tmp_path / "a.png")
    assert ImageReader().read(tmp_path / "a.png").shape == (3, 64, 96)
    assert ImageReader().probe(tmp_path / "a.png")["format"] == "JPEG"


@pytest.mark.parametrize("first", [True, False])
def test_arrays_may_have_channels_first_or_last(tmp_path: Path, first: bool) -> None:
    array = np.random.default_rng(0).random((5, 6, 7), dtype=np.float32)
    np.save(tmp_path / "a.npy", array if first else np.moveaxis(array, 0, 2))
    tifffile.imwrite(
        tmp_path / "a.tif",
        array if first else np.moveaxis(array, 0, 2),
        photometric="minisblack",
        planarconfig="separate" if first else "contig",
    )
    reader = ImageReader(channels=5)
    for name in ("a.npy", "a.tif"):
        assert (reader.read(tmp_path / name).numpy() == array).all()
        assert reader.probe(tmp_path / name)["mode"] == "5 x float32"
    last = ImageReader(channels=7, layout="hwc").read(array)
    assert (last.numpy() == np.moveaxis(array, 2, 0)).all()


def test_tiff_pages_are_channels_where_as_many_are_asked_for(tmp_path: Path) -> None:
    pages = np.random.default_rng(0).random((4, 6, 7), dtype=np.float32)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in pages:
            file.write(page, contiguous=False, metadata=None)
    assert (ImageReader(channels=4).read(tmp_path / "a.tif").numpy() == pages).all()
    with pytest.raises(BadSample, match="expected 3 channels, found 4"):
        ImageReader().read(tmp_path / "a.tif")


def test_near_infrared_is_no_transparency(tmp_path: Path) -> None:
    four = np.random.default_rng(0).integers(0, 256, (6, 7, 4), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", four, photometric="rgb", extrasamples=["unspecified"])
    assert (channels_last(ImageReader(channels=4).read(tmp_path / "a.tif")) == four).all()
    with pytest.raises(BadSample, match="expected 3 channels, found 4"):
        ImageReader().read(tmp_path / "a.tif")


# --- crops while decoding -------------------------------------------------------------------------


def test_a_jpeg_decoded_smaller_shows_the_same_crop(tmp_path: Path) -> None:
    rows, columns = np.mgrid[0:803, 0:1201]
    waves = np.stack([np.sin(rows / 37), np.cos(columns / 53), np.sin((rows + columns) / 41)], 2)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / "a.jpg", (127.5 + 120 * waves).astype(np.uint8), exif=exif)
    for transform in (ResizeCrop(64), RandomResizedCrop(64)):
        shrunk, whole = (
            ImageReader(transform=transform, exact=exact).read(path, generator())
            for exact in (False, True)
        )
        assert not (shrunk == whole).all()
        assert (shrunk.float() - whole.float()).abs().mean() < 3  # of 255


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_generator_alone_decides_the_crop(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", SMOOTH)
    reader = ImageReader(transform=RandomResizedCrop(16))
    first, second = reader.read(path, generator()), reader.read(path, generator())
    assert first.shape == (3, 16, 16)
    assert (first == second).all()
    assert (reader.read(path) == ImageReader(transform=ResizeCrop(16)).read(path)).all()


# --- bad files ------------------------------------------------------------------------------------


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


# --- the shared files -----------------------------------------------------------------------------

GOOD_ALTHOUGH_ODD = {
    *("invalid-exif.jpg", "sugarshack_bad_mpo_header.jpg", "one_pixel.png", "4000x3.png"),
}


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


@pytest.mark.filterwarnings("ignore")
def test_shared_originals_are_read_in_their_stated_size(shared_data: Path) -> None:
    with open(shared_data / "images/originals/files.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        path, size = shared_data / "images/originals" / row["file"], (row["height"], row["width"])
        picture, probed = ImageReader().read(path), ImageReader().probe(path)
        assert picture.shape == (3, *map(int, size)), row["file"]
        assert (probed["height"], probed["width"]) == picture.shape[1:]
    assert len(rows) == 26
