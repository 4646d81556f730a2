"""The volume reader: every format gives its numbers and its true geometry."""

import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from multimask.datasets.formats.volumes import VolumeReader
from multimask.datasets.volume_transforms import Crop, Orient
from multimask.plugins import load
from multimask.tokens import BadSample
from volume_files import AS_IS, loaded, oblique, voxels, where_is

# --- NIfTI ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("version", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_nifti_is_what_nibabel_reads(tmp_path: Path, suffix: str, version: Any) -> None:
    array, affine = voxels(), oblique()
    nibabel.save(version(array, affine), tmp_path / f"a{suffix}")
    volume = AS_IS.read(tmp_path / f"a{suffix}")
    assert volume.data.dtype == torch.float32
    assert np.array_equal(volume.data[0].numpy(), array.T)
    np.testing.assert_allclose(volume.affine, loaded(tmp_path / f"a{suffix}").affine)
    np.testing.assert_allclose(volume.spacing, (3.0, 0.9, 0.8), rtol=1e-6)


def test_slope_and_intercept_are_applied_and_big_endian_read(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(voxels(), np.eye(4)).header
    header = image.as_byteswapped()
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = 2.0, -1024.0, 352
    header["magic"] = b"n+1"
    raw = voxels().astype(header.get_data_dtype()).tobytes("F")
    (tmp_path / "a.nii").write_bytes(header.binaryblock + b"\0" * 4 + raw)
    volume = AS_IS.read(tmp_path / "a.nii")
    assert np.array_equal(volume.data[0].numpy(), voxels().T * 2.0 - 1024)
    assert AS_IS.probe(tmp_path / "a.nii")["orientation"] == "RAS"


def test_header_and_image_in_two_files(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(voxels(), oblique()), tmp_path / "a.img")
    assert np.array_equal(AS_IS.read(tmp_path / "a.hdr").data[0].numpy(), voxels().T)
    (tmp_path / "a.img").unlink()
    with pytest.raises(BadSample, match=r"the voxels of this header in a\.img beside it"):
        AS_IS.read(tmp_path / "a.hdr")


def test_metres_and_microns_become_millimetres(tmp_path: Path) -> None:
    for unit, factor in (("meter", 1000.0), ("micron", 0.001)):
        image = nibabel.Nifti1Image(voxels(), np.diag([2.0, 2, 2, 1]))
        image.header.set_xyzt_units(unit)
        nibabel.save(image, tmp_path / "a.nii")
        np.testing.assert_allclose(AS_IS.read(tmp_path / "a.nii").spacing, [2 * factor] * 3)


def test_a_time_series_is_not_taken_for_contrasts(tmp_path: Path) -> None:
    array = voxels((4, 5, 6, 3))
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(BadSample, match=r"expected 1 channels, found 3 .* frame=0"):
        VolumeReader().read(tmp_path / "a.nii.gz")
    all_three = VolumeReader(channels=3).read(tmp_path / "a.nii.gz")
    assert np.array_equal(all_three.data.numpy(), np.moveaxis(array, -1, 0).transpose(0, 3, 2, 1))
    one = VolumeReader(frame=1).read(tmp_path / "a.nii.gz")
    assert np.array_equal(one.data[0].numpy(), array[..., 1].T)


def test_only_what_is_cropped_is_read_of_a_mapped_file(tmp_path: Path) -> None:
    big = np.memmap(tmp_path / "a.nii", np.uint8, "w+", shape=(352 + 400**3,))
    header = nibabel.Nifti1Header()
    header.set_data_shape((400, 400, 400))
    header.set_data_dtype(np.uint8)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    header.set_sform(np.eye(4), 1)
    big[:348] = np.frombuffer(header.binaryblock, np.uint8)
    big[352 + 200 * 400 * 400 + 200 * 400 + 199] = 77
    big.flush()
    tracemalloc.start()
    volume = VolumeReader(transforms=(Orient("LPS"), Crop(8))).read(tmp_path / "a.nii")
    assert volume.shape == (1, 8, 8, 8)
    np.testing.assert_allclose(where_is(volume, 77), (199, 200, 200))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 2**20  # the file has 64 MB


# --- other formats --------------------------------------------------------------------------------


def test_nrrd_attached_detached_packed_and_text(tmp_path: Path) -> None:
    array = voxels()
    common = "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 6 7 8\n"
    common += (
        "space directions: (0.8,0,0) (0,0.9,0) (0,0,3)\nspace origin: (10,20,30)\nendian: little\n"
    )
    raw = array.tobytes("F")
    (tmp_path / "raw.nrrd").write_bytes(f"{common}encoding: raw\n\n".encode() + raw)
    (tmp_path / "gz.nrrd").write_bytes(f"{common}encoding: gzip\n\n".encode() + gzip.compress(raw))
    text = " ".join(map(str, array.ravel("F")))
    (tmp_path / "text.nrrd").write_bytes(f"{common}encoding: ascii\n\n{text}\n".encode())
    (tmp_path / "two.nhdr").write_bytes(f"{common}encoding: raw\ndata file: two.raw\n".encode())
    (tmp_path / "two.raw").write_bytes(raw)
    affine = np.array([[-0.8, 0, 0, -10], [0, -0.9, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]])
    for name in ("raw.nrrd", "gz.nrrd", "text.nrrd", "two.nhdr"):
        volume = AS_IS.read(tmp_path / name)
        assert np.array_equal(volume.data[0].numpy(), array.T), name
        np.testing.assert_allclose(volume.affine, affine)
        assert AS_IS.probe(tmp_path / name)["orientation"] == "LPS"
    outside = f"{common}encoding: raw\ndata file: ../two.raw\n"
    (tmp_path / "out.nhdr").write_bytes(outside.encode())
    with pytest.raises(BadSample, match="in one file beside the header"):
        AS_IS.read(tmp_path / "out.nhdr")


def test_nrrd_with_channels_first(tmp_path: Path) -> None:
    array = voxels((2, 4, 5, 6))
    header = "NRRD0004\ntype: short\ndimension: 4\nspace: RAS\nsizes: 2 4 5 6\nencoding: raw\n"
    header += "space directions: none (1,0,0) (0,1,0) (0,0,1)\nendian: little\n\n"
    (tmp_path / "a.nrrd").write_bytes(header.encode() + array.tobytes("F"))
    volume = VolumeReader(transforms=(), channels=2).read(tmp_path / "a.nrrd")
    assert np.array_equal(volume.data.numpy(), array.transpose(0, 3, 2, 1))


def test_metaimage_local_beside_and_packed(tmp_path: Path) -> None:
    import zlib

    array, raw = voxels(), voxels().tobytes("F")
    common = "ObjectType = Image\nNDims = 3\nDimSize = 6 7 8\nElementType = MET_SHORT\n"
    common += "ElementSpacing = 0.8 0.9 3\nOffset = 10 20 30\n"
    common += "TransformMatrix = 0 1 0 -1 0 0 0 0 1\n"
    (tmp_path / "a.mha").write_bytes(f"{common}ElementDataFile = LOCAL\n".encode() + raw)
    packed = f"{common}CompressedData = True\nElementDataFile = LOCAL\n"
    (tmp_path / "z.mha").write_bytes(packed.encode() + zlib.compress(raw))
    (tmp_path / "b.mhd").write_bytes(f"{common}ElementDataFile = b.raw\n".encode())
    (tmp_path / "b.raw").write_bytes(raw)
    for name in ("a.mha", "z.mha", "b.mhd"):
        volume = AS_IS.read(tmp_path / name)
        assert np.array_equal(volume.data[0].numpy(), array.T), name
        # x runs along (0, 1, 0) in L P S, y along (-1, 0, 0)
        wanted = [[0, 0.9, 0, -10], [-0.8, 0, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]]
        np.testing.assert_allclose(volume.affine, wanted)
    (tmp_path / "cut.mha").write_bytes((tmp_path / "z.mha").read_bytes()[:-40])
    with pytest.raises(BadSample, match="cut short"):
        AS_IS.read(tmp_path / "cut.mha")


def test_npy_and_arrays_have_no_geometry(tmp_path: Path) -> None:
    array = voxels((3, 4, 5))
    np.save(tmp_path / "a.npy", array)
    for source in (tmp_path / "a.npy", array, torch.from_numpy(array)):
        volume = AS_IS.read(source)
        assert np.array_equal(volume.data[0].numpy(), array)  # z, y, x as it is
        assert volume.spacing == (1, 1, 1)
    assert AS_IS.read(voxels((2, 3, 4, 5))).shape == (2, 3, 4, 5)


def test_every_shared_volume_is_what_nibabel_says(shared_data: Path) -> None:
    files = sorted((shared_data / "mri").rglob("*.nii.gz"))
    assert len(files) > 70
    for file in files:
        volume, theirs = AS_IS.read(file), loaded(file)
        array = theirs.get_fdata(dtype=np.float32)
        array = array[None] if array.ndim == 3 else np.moveaxis(array, -1, 0)
        np.testing.assert_allclose(volume.data, array.transpose(0, 3, 2, 1), rtol=1e-5)
        np.testing.assert_allclose(volume.affine, theirs.affine, atol=1e-5)


def test_the_reader_is_a_plugin() -> None:
    assert load("readers", "volume") is VolumeReader
    assert VolumeReader().probe(voxels())["z"] == 6
