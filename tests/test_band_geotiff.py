"""GeoTIFF cubes: right numbers in the right place, and windows without the rest."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from band_files import GEO, NM, cube
from multimask.datasets.formats.geokeys import Geo, write_geotiff
from multimask.datasets.formats.geotiff import open_tiff_cube
from multimask.datasets.formats.spectral import SpectralReader


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64"])
def test_a_geotiff_comes_back_with_its_place_and_wavelengths(tmp_path: Path, dtype: str) -> None:
    write_geotiff(tmp_path / "a.tif", cube(dtype), GEO, NM, ["blue", "green", "red", "nir & up"])
    file = open_tiff_cube(tmp_path / "a.tif")
    assert file.geo is not None
    assert (file.geo.epsg, file.geo.transform) == (32632, GEO.transform)
    assert file.names == ("blue", "green", "red", "nir & up")
    sample = SpectralReader(scale=0.5, offset=1.0).read(tmp_path / "a.tif")
    assert sample["wavelengths"].tolist() == list(NM)
    torch.testing.assert_close(
        sample["pixels"], torch.from_numpy(cube(dtype).astype(np.float32)) * 0.5 + 1
    )


@pytest.mark.parametrize("order", ["contig", "separate"])
@pytest.mark.parametrize("parts", [{"tile": (16, 32)}, {"rowsperstrip": 7}])
@pytest.mark.parametrize("predictor", [None, True])
def test_windows_equal_the_whole(
    tmp_path: Path, order: Any, parts: dict[str, Any], predictor: Any
) -> None:
    pixels = cube()
    stored = pixels if order == "separate" else pixels.transpose(1, 2, 0)
    tifffile.imwrite(
        tmp_path / "a.tif", stored, photometric="minisblack", planarconfig=order,
        compression="zlib", predictor=predictor, metadata=None, **parts,
    )  # fmt: skip
    for top, left, tall, wide in [(0, 0, 37, 53), (5, 11, 20, 30), (36, 52, 1, 1), (15, 31, 2, 2)]:
        cell = f"{tmp_path}/a.tif#window={top},{left},{tall},{wide}"
        got = SpectralReader(bands=(3, 0)).read(cell)["pixels"].numpy()
        wanted = pixels[[3, 0], top : top + tall, left : left + wide]
        np.testing.assert_array_equal(got, wanted)


def test_a_window_of_a_large_file_never_loads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    pixels = np.zeros((8, 2048, 2048), np.uint16)  # 64 MiB
    pixels[:, 1000:1032, 1500:1532] = 7
    tifffile.imwrite(
        path, pixels, photometric="minisblack", planarconfig="separate", tile=(128, 128),
        compression="zlib", metadata=None,
    )  # fmt: skip
    del pixels
    reader = SpectralReader()
    reader.read(f"{path}#window=0,0,8,8")  # imports
    tracemalloc.start()
    sample = reader.read(f"{path}#window=1000,1500,32,32")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (sample["pixels"] == 7).all()
    assert peak < 4 * 2**20


def test_only_the_parts_that_a_window_touches_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, cube("uint8", (1, 64, 64)), tile=(16, 16), metadata=None)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        start, count = page.dataoffsets[0], page.databytecounts[0]
    raw = bytearray(path.read_bytes())
    raw[start : start + count] = bytes(count)
    path.write_bytes(raw)  # the first tile is destroyed
    got = SpectralReader().read(f"{path}#window=16,16,48,48")["pixels"]
    assert np.array_equal(got.numpy(), cube("uint8", (1, 64, 64))[:, 16:, 16:])


def test_written_files_carry_crs_and_transform_for_other_readers(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    pixels = cube("float32")
    pixels[0, 0, 0] = np.nan
    write_geotiff(tmp_path / "a.tif", pixels, GEO, NM, ["a", "b", "c", "d"])
    with rasterio.open(tmp_path / "a.tif") as source:
        assert source.crs.to_epsg() == 32632
        assert tuple(source.transform)[:6] == GEO.transform
        assert source.descriptions == ("a", "b", "c", "d")
        assert np.isnan(source.nodata)
        np.testing.assert_array_equal(source.read(), pixels)


def test_a_window_written_out_lies_where_it_was_cut(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "a.tif", cube(), GEO.at(5, 11))
    geo = open_tiff_cube(tmp_path / "a.tif").geo
    assert geo is not None
    assert geo.transform == (10.0, 0.0, 500_110.0, 0.0, -10.0, 4_999_950.0)
    assert geo.bounds(37, 53) == (500_110.0, 4_999_580.0, 500_640.0, 4_999_950.0)


def test_turned_rasters_and_pixel_middles_survive(tmp_path: Path) -> None:
    point = Geo((2.0, 0.5, 10.0, -0.5, -2.0, 20.0), (1, 1, 0, 1, 1025, 0, 1, 2))
    write_geotiff(tmp_path / "a.tif", cube(), point)
    geo = open_tiff_cube(tmp_path / "a.tif").geo
    assert geo == point
    pytest.importorskip("rasterio")
    other = open_tiff_cube(tmp_path / "a.tif", "rasterio").geo
    assert other is not None
    assert other.transform == pytest.approx(point.transform)


def test_both_back_ends_agree(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    write_geotiff(tmp_path / "a.tif", cube(), GEO, NM, ["a", "b", "c", "d"], nodata=7.0)
    cell = f"{tmp_path}/a.tif#window=3,4,20,30"
    ours, theirs = (
        SpectralReader(backend=name, bands=("d", "b")).read(cell)
        for name in ("tifffile", "rasterio")
    )
    torch.testing.assert_close(ours["pixels"], theirs["pixels"], equal_nan=True)
    assert ours["pixels"].isnan().any()
    assert torch.equal(ours["wavelengths"], theirs["wavelengths"])
    assert ours["names"] == theirs["names"] == ("d", "b")


def test_compression_that_tifffile_cannot_unpack_goes_to_rasterio(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    pixels = cube("uint8")
    profile = {"driver": "GTiff", "count": 4, "height": 37, "width": 53, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", compress="lzw", **profile) as file:
        file.write(pixels)
    got = SpectralReader().read(tmp_path / "a.tif")["pixels"].numpy()
    np.testing.assert_array_equal(got, pixels)


def test_nodata_and_nan_become_nan_before_scaling(tmp_path: Path) -> None:
    pixels = cube("int16")
    pixels[1, 2, 3], pixels[2, 4, 5] = -9999, 55
    write_geotiff(tmp_path / "a.tif", pixels, nodata=-9999.0)
    got = SpectralReader(scale=0.1, nodata=55.0).read(tmp_path / "a.tif")["pixels"]
    assert torch.equal(got.isnan(), torch.from_numpy((pixels == -9999) | (pixels == 55)))


def test_real_files_agree_with_rasterio(shared_data: Path) -> None:
    pytest.importorskip("rasterio")
    files = sorted((shared_data / "spectral/terramesh_tiles").glob("*/*.tif"))
    files += sorted((shared_data / "spectral/bigearthnet").glob("*/*.tif"))
    assert len(files) > 50
    for path in files:
        ours, theirs = open_tiff_cube(path, "tifffile"), open_tiff_cube(path, "rasterio")
        assert (ours.shape, ours.dtype, ours.nodata) == (theirs.shape, theirs.dtype, theirs.nodata)
        assert ours.geo is not None
        assert theirs.geo is not None
        assert ours.geo.epsg == theirs.geo.epsg
        assert ours.geo.transform == pytest.approx(theirs.geo.transform)
        bands = range(ours.shape[0])
        np.testing.assert_array_equal(
            ours.read(ours.whole, bands), theirs.read(theirs.whole, bands)
        )
