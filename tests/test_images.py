"""The image reader: right pixels from every kind of file, and crops while decoding."""

import csv
from collections.abc import Callable
from pathlib import Path

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
from picture_files import RAINBOW, SMOOTH, saved


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


# --- the shared files -----------------------------------------------------------------------------


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
