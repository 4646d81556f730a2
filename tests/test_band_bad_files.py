"""Band cubes: one sentence for damage, and no memory for what a header claims."""

import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from band_files import GEO, NM, cube
from multimask.datasets.formats.geokeys import write_geotiff
from multimask.datasets.formats.spectral import SpectralReader
from multimask.tokens import BadSample


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


def test_real_damaged_files(shared_data: Path) -> None:
    files = sorted((shared_data / "bad/spectral").iterdir())
    files += sorted((shared_data / "bad/image").glob("*.tif"))
    assert len(files) == 6
    for path in files:
        with pytest.raises(BadSample) as caught:
            SpectralReader().read(path)
        assert str(path) in str(caught.value)
