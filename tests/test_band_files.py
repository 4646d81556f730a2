"""Readers of band cubes: right numbers, windows without the rest, one sentence for damage."""

import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from multimask.datasets.formats.band_folder import BandFolder
from multimask.datasets.formats.geokeys import Geo, epsg_geo, write_geotiff
from multimask.datasets.formats.geotiff import open_tiff_cube
from multimask.datasets.formats.spectral import SpectralReader
from multimask.datasets.sensors import BIGEARTHNET, centres
from multimask.modalities.spectral import SpectralPatches
from multimask.tokens import BadSample

GEO = epsg_geo((10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0), 32632)
NM = (490.0, 560.0, 665.0, 842.0)


def cube(dtype: str = "uint16", shape: tuple[int, int, int] = (4, 37, 53)) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 200, shape).astype(dtype)


# --- GeoTIFF --------------------------------------------------------------------------------------


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


# --- other formats --------------------------------------------------------------------------------


def write_envi(
    path: Path, pixels: np.ndarray, order: str, byte_order: int = 0, **fields: Any
) -> None:
    axes = {"bsq": (0, 1, 2), "bil": (1, 0, 2), "bip": (1, 2, 0)}[order]
    code = {"u1": 1, "i2": 2, "f4": 4, "u2": 12}[pixels.dtype.str[1:]]
    kind = pixels.dtype.newbyteorder(">" if byte_order else "<")
    path.with_suffix(".raw").write_bytes(b"xx" + pixels.transpose(axes).astype(kind).tobytes())
    bands, lines, samples = pixels.shape
    stated = {
        "samples": samples, "lines": lines, "bands": bands, "data type": code,
        "header offset": 2, "interleave": order.upper(), "byte order": byte_order, **fields,
    }  # fmt: skip
    text = "ENVI\n" + "".join(f"{key} = {value}\n" for key, value in stated.items())
    path.with_suffix(".hdr").write_text(text)


@pytest.mark.parametrize("order", ["bsq", "bil", "bip"])
@pytest.mark.parametrize("byte_order", [0, 1])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_envi_in_every_order(tmp_path: Path, order: str, byte_order: int, dtype: str) -> None:
    pixels = cube(dtype)
    write_envi(
        tmp_path / "a", pixels, order, byte_order, **{"wavelength": "{0.49, 0.56,\n 0.665, 0.842}"},
        **{"wavelength units": "Micrometers", "data ignore value": int(pixels[0, 0, 0])},
        **{"map info": "{UTM, 1, 1, 500000, 5000000, 10, 10, 32, North}"},
    )  # fmt: skip
    reader = SpectralReader(bands=(2, 1))
    got = reader.read(f"{tmp_path}/a.hdr#window=4,5,6,7")
    wanted = pixels[[2, 1], 4:10, 5:12].astype(np.float32)
    wanted[wanted == pixels[0, 0, 0]] = np.nan
    np.testing.assert_array_equal(got["pixels"].numpy(), wanted)
    torch.testing.assert_close(got["wavelengths"], torch.tensor([665.0, 560.0]))
    assert reader.open(tmp_path / "a.raw").geo == Geo((10.0, 0.0, 5e5, 0.0, -10.0, 5e6))


@pytest.mark.parametrize("change", ["body", "bands", "type", "brace", "count"])
def test_envi_files_that_disagree(tmp_path: Path, change: str) -> None:
    fields = {"wavelength": "{1, 2, 3}"} if change == "count" else {}
    write_envi(tmp_path / "a", cube(), "bsq", **fields)  # pyright: ignore[reportArgumentType]
    header, body = tmp_path / "a.hdr", tmp_path / "a.raw"
    if change == "body":
        body.write_bytes(body.read_bytes()[:-1])
    replaced = {"bands": ("bands = 4", "bands = 1000000000000"), "type": ("type = 12", "type = 6")}
    if change in replaced:
        header.write_text(header.read_text().replace(*replaced[change]))
    if change == "brace":
        header.write_text(header.read_text() + "wavelength = {1,\n")
    words = {
        "body": "expected 15,690 bytes", "bands": "bytes, as a.hdr says", "brace": "end with }",
        "type": "found data type 6", "count": "expected 4 wavelengths, found 3",
    }  # fmt: skip
    with pytest.raises(BadSample, match=words[change]):
        SpectralReader().read(header)


def test_matlab_cubes_of_both_versions(tmp_path: Path) -> None:
    from scipy.io import savemat

    stored = cube().transpose(1, 2, 0)
    savemat(tmp_path / "a.mat", {"scene": stored, "note": "x", "flat": np.ones((2, 2))})
    got = SpectralReader(bands=(1,)).read(f"{tmp_path}/a.mat#window=2,3,5,6")["pixels"]
    np.testing.assert_array_equal(got.numpy(), cube()[[1], 2:7, 3:9])
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "b.mat", "w", userblock_size=512) as file:
        file["scene"] = stored.transpose(2, 1, 0)  # as MATLAB writes it: axes last to first
        file["label"] = np.ones((53, 37))
    got = SpectralReader(bands=(1,)).read(f"{tmp_path}/b.mat#window=2,3,5,6")["pixels"]
    np.testing.assert_array_equal(got.numpy(), cube()[[1], 2:7, 3:9])
    got = SpectralReader(variable="label").read(tmp_path / "b.mat")["pixels"]
    assert got.shape == (1, 37, 53)


def test_numpy_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", cube())
    np.savez_compressed(
        tmp_path / "a.npz", pixels=cube(), wavelengths=np.array(NM), names=np.array(list("abcd"))
    )
    np.save(tmp_path / "spectra.npy", np.arange(12.0).reshape(3, 4))
    for name in ("a.npy", "a.npz"):
        got = SpectralReader().read(f"{tmp_path}/{name}#window=2,3,5,6")
        np.testing.assert_array_equal(got["pixels"].numpy(), cube()[:, 2:7, 3:9])
    assert got["wavelengths"].tolist() == list(NM)
    assert got["names"] == tuple("abcd")
    spectrum = SpectralReader(wavelengths=NM).read(f"{tmp_path}/spectra.npy#index=1")
    assert spectrum["pixels"].flatten().tolist() == [4.0, 5.0, 6.0, 7.0]
    assert SpectralReader(layout="hwc").read(tmp_path / "a.npy")["pixels"].shape == (53, 4, 37)


def test_pages_are_channels_and_ome_names_them(tmp_path: Path) -> None:
    pixels = cube()
    tifffile.imwrite(tmp_path / "pages.tif", pixels, photometric="minisblack")
    tifffile.imwrite(
        tmp_path / "a.ome.tif", pixels, photometric="minisblack",
        metadata={"axes": "CYX", "Channel": {"Name": ["DNA", "ER", "RNA", "Mito"],
                  "EmissionWavelength": [450.0, 525.0, 560.0, 690.0]}},
    )  # fmt: skip
    np.testing.assert_array_equal(SpectralReader().read(tmp_path / "pages.tif")["pixels"], pixels)
    sample = SpectralReader(bands=("RNA", "DNA")).read(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(sample["pixels"], pixels[[2, 0]])
    assert sample["wavelengths"].tolist() == [560.0, 450.0]


def test_a_stack_in_depth_is_no_stack_of_bands(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", cube(), imagej=True, metadata={"axes": "ZYX"})
    with pytest.raises(BadSample, match="Z of 4 cannot be taken for bands"):
        SpectralReader().read(tmp_path / "a.tif")


def test_bands_of_different_resolution_meet_on_the_finest_grid(tmp_path: Path) -> None:
    fine, coarse = cube("uint16", (1, 12, 12)), cube("uint16", (1, 4, 4))
    write_geotiff(tmp_path / "p_B02.tif", fine, GEO)
    wide = epsg_geo((30.0, 0.0, 5e5, 0.0, -30.0, 5e6), 32632)
    write_geotiff(tmp_path / "p_B09.tif", coarse, wide)
    reader = BandFolder(("B09", "B02"), (945.0, 490.0))
    pixels = reader.read(tmp_path)["pixels"].numpy()
    np.testing.assert_array_equal(pixels[1], fine[0])
    np.testing.assert_array_equal(pixels[0, ::3, ::3], coarse[0])
    assert (pixels[0, :3, :3] == coarse[0, 0, 0]).all()
    write_geotiff(tmp_path / "p_B09.tif", coarse, GEO)
    with pytest.raises(BadSample, match="expected the same ground as p_B09"):
        reader.read(tmp_path)
    (tmp_path / "p_B09.tif").unlink()
    with pytest.raises(BadSample, match=r"one file \*_B09.tif, found none"):
        reader.read(tmp_path)


# --- augmentation ---------------------------------------------------------------------------------


def test_crops_and_flips_come_from_the_generator_only(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "a.tif", cube(shape=(4, 40, 40)))
    reader = SpectralReader(size=16)
    plain = reader.read(tmp_path / "a.tif")["pixels"].numpy()
    np.testing.assert_array_equal(plain, cube(shape=(4, 40, 40))[:, 12:28, 12:28])
    drawn = [
        reader.read(tmp_path / "a.tif", torch.Generator().manual_seed(seed))["pixels"]
        for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


# --- bad input ------------------------------------------------------------------------------------


def lying_tiff(path: Path, edge: int = 10**6) -> None:
    """A header of 10^12 pixels before two bytes."""
    entries = [
        (256, 4, 1, edge), (257, 4, 1, edge), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, edge), (279, 4, 1, 2),
    ]  # fmt: skip
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = b"II*\0" + struct.pack("<I", 10) + b"ab"
    path.write_bytes(head + struct.pack("<H", len(entries)) + body + bytes(4))


def lying_npz(path: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (10000, 10000, 10000), }\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "pixels.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
        )


def lying_npy(path: Path) -> None:
    lying_npz(path.with_suffix(".npz"))
    with zipfile.ZipFile(path.with_suffix(".npz")) as archive:
        path.write_bytes(archive.read("pixels.npy"))


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".npz"])
def test_a_header_that_lies_allocates_nothing(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    {".tif": lying_tiff, ".npy": lying_npy, ".npz": lying_npz}[suffix](path)
    tracemalloc.start()
    with pytest.raises(BadSample, match=r"a\.np|a\.tif"):
        SpectralReader().read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50 * 2**20


def test_an_hdf5_file_that_claims_what_it_does_not_hold(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("cube", (10**4, 10**4, 10**4), "f8", chunks=(8, 8, 8))
    with pytest.raises(BadSample, match="can hold what its header says"):
        SpectralReader().read(tmp_path / "a.h5")


def test_too_much_for_one_sample_says_what_to_do(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "a.tif", cube())
    with pytest.raises(BadSample, match="raise max_numbers"):
        SpectralReader(max_numbers=1000).read(tmp_path / "a.tif")
    assert (
        SpectralReader(max_numbers=1000, size=8).read(tmp_path / "a.tif")["pixels"].numel() == 256
    )


@pytest.mark.parametrize("suffix", [".tif", ".hdr", ".mat", ".h5", ".npy", ".npz"])
@pytest.mark.parametrize("damage", ["missing", "empty", "text", "folder"])
def test_what_is_no_cube_is_said_in_one_sentence(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"a{suffix}"
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(b"" if damage == "empty" else b"these are words, no numbers at all\n" * 9)
    for ask in (SpectralReader().probe, SpectralReader().read):
        with pytest.raises(BadSample) as caught:
            ask(path)
        assert str(path) in str(caught.value)
        assert "expected" in str(caught.value)
        assert "found" in str(caught.value)


@pytest.mark.parametrize("suffix", [".tif", ".mat", ".h5", ".npy", ".npz"])
def test_a_file_cut_anywhere_is_refused_or_whole(tmp_path: Path, suffix: str) -> None:
    from scipy.io import savemat

    path = tmp_path / f"a{suffix}"
    if suffix == ".h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file.create_dataset("cube", data=cube().transpose(1, 2, 0), compression="gzip")
    else:
        {
            ".tif": lambda: write_geotiff(path, cube(), GEO, NM),
            ".mat": lambda: savemat(path, {"a": cube().transpose(1, 2, 0)}, do_compression=True),
            ".npy": lambda: np.save(path, cube()),
            ".npz": lambda: np.savez_compressed(path, pixels=cube()),
        }[suffix]()
    whole = path.read_bytes()
    np.testing.assert_array_equal(SpectralReader().read(path)["pixels"], cube())
    refused = 0
    for place in np.linspace(1, len(whole) - 1, 40).astype(int):
        cut = path.with_name(f"{place}{suffix}")
        cut.write_bytes(whole[:place])
        try:
            got = SpectralReader().read(cut)["pixels"]
        except BadSample:
            refused += 1
        else:
            np.testing.assert_array_equal(got, cube())
    assert refused >= 38


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"wavelengths": (1.0, 2.0)}, "as many as the reader's wavelengths"),
        ({"bands": ("red",)}, "a band named 'red'"),
        ({"bands": (9,)}, "expected a band 9, found 4 bands"),
        ({"size": 64}, "at least 64 x 64 pixels"),
    ],
)
def test_a_reader_that_does_not_fit(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    write_geotiff(tmp_path / "a.tif", cube())
    with pytest.raises(BadSample, match=message):
        SpectralReader(**arguments).read(tmp_path / "a.tif")
    for place in ("window=0,0,64,64", "window=1,2", "index=3"):
        with pytest.raises(BadSample, match="expected"):
            SpectralReader().read(f"{tmp_path}/a.tif#{place}")


# --- real files -----------------------------------------------------------------------------------


def test_real_files_of_every_kind(shared_data: Path) -> None:
    folder = shared_data / "spectral"
    wanted = {
        "terramesh_tiles/38D_378R_2_3/S2L2A.tif": (12, 224, 224),
        "terramesh_tiles/38D_378R_2_3/S1RTC_dB_x100.tif": (2, 224, 224),
        "landsat7/L7_ETMs.tif": (6, 352, 349),
        "corn_kernel_envi/corn-kernel-hyperspectral.hdr": (580, 31, 43),
        "cell_painting/well_C03_6ch.tif": (6, 256, 256),
        "imaging_mass_cytometry/E34_imc.tiff": (5, 100, 100),
        "nf1_cells_3ch/B7.tif": (3, 320, 320),
        "material_spectra/reflectance.npy#index=3": (376, 1, 1),
    }
    for name, shape in wanted.items():
        sample = SpectralReader().read(folder / name)
        assert sample["pixels"].shape == shape
        assert sample["pixels"].isfinite().all()
    corn = SpectralReader().read(folder / "corn_kernel_envi/corn-kernel-hyperspectral.hdr")
    assert corn["wavelengths"][[0, -1]].tolist() == pytest.approx([366.551, 1048.421])
    tile = open_tiff_cube(folder / "terramesh_tiles/38D_378R_2_3/S2L2A.tif")
    assert tile.geo is not None
    assert tile.geo.epsg == 32736


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


def test_a_real_patch_of_three_resolutions(shared_data: Path) -> None:
    reader = BandFolder(BIGEARTHNET, centres(BIGEARTHNET), scale=1e-4)
    patch = shared_data / "spectral/bigearthnet/S2A_MSIL2A_20180510T94033_19_86"
    assert reader.probe(patch)["resolutions"] == 3
    sample = reader.read(patch)
    assert sample["pixels"].shape == (12, 120, 120)
    patches = SpectralPatches(size=120, patch=12, bands=12)
    assert patches.collate([sample])["whole"]


def test_real_damaged_files(shared_data: Path) -> None:
    files = sorted((shared_data / "bad/spectral").iterdir())
    files += sorted((shared_data / "bad/image").glob("*.tif"))
    assert len(files) == 6
    for path in files:
        with pytest.raises(BadSample) as caught:
            SpectralReader().read(path)
        assert str(path) in str(caught.value)


def test_arrays_may_bring_their_wavelengths() -> None:
    pixels = np.arange(24.0).reshape(2, 3, 4)
    sample = SpectralReader(bands=(1, 0)).read({"pixels": pixels, "wavelengths": (900.0, 500.0)})
    assert sample["wavelengths"].tolist() == [500.0, 900.0]
    assert sample["pixels"][1].tolist() == pixels[0].tolist()
    with pytest.raises(BadSample, match="expected pixels and wavelengths, found cube"):
        SpectralReader().read({"cube": pixels})
    with pytest.raises(BadSample, match="expected 3 bands, as many as wavelengths"):
        SpectralReader().read({"pixels": pixels, "wavelengths": (1.0, 2.0, 3.0)})
