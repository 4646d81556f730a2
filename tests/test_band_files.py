"""Readers of band cubes: ENVI, MATLAB, NumPy and stacks of pages, in order and with wavelengths."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from band_files import GEO, NM, cube
from multimask.datasets.formats.band_folder import BandFolder
from multimask.datasets.formats.geokeys import Geo, epsg_geo, write_geotiff
from multimask.datasets.formats.geotiff import open_tiff_cube
from multimask.datasets.formats.spectral import SpectralReader
from multimask.datasets.sensors import BIGEARTHNET, centres
from multimask.modalities.spectral import SpectralPatches
from multimask.tokens import BadSample

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


def test_a_real_patch_of_three_resolutions(shared_data: Path) -> None:
    reader = BandFolder(BIGEARTHNET, centres(BIGEARTHNET), scale=1e-4)
    patch = shared_data / "spectral/bigearthnet/S2A_MSIL2A_20180510T94033_19_86"
    assert reader.probe(patch)["resolutions"] == 3
    sample = reader.read(patch)
    assert sample["pixels"].shape == (12, 120, 120)
    patches = SpectralPatches(size=120, patch=12, bands=12)
    assert patches.collate([sample])["whole"]


def test_arrays_may_bring_their_wavelengths() -> None:
    pixels = np.arange(24.0).reshape(2, 3, 4)
    sample = SpectralReader(bands=(1, 0)).read({"pixels": pixels, "wavelengths": (900.0, 500.0)})
    assert sample["wavelengths"].tolist() == [500.0, 900.0]
    assert sample["pixels"][1].tolist() == pixels[0].tolist()
    with pytest.raises(BadSample, match="expected pixels and wavelengths, found cube"):
        SpectralReader().read({"cube": pixels})
    with pytest.raises(BadSample, match="expected 3 bands, as many as wavelengths"):
        SpectralReader().read({"pixels": pixels, "wavelengths": (1.0, 2.0, 3.0)})
