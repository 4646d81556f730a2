"""Volume files: one sentence for whatever is wrong, no memory for what a header claims."""

import gzip
import os
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest

from multimask.datasets.formats.volumes import VolumeReader
from multimask.datasets.volume_transforms import Orient, Resample, ZScore
from multimask.datasets.volumes import new_volume
from multimask.tokens import BadSample
from volume_files import AS_IS, voxels


def test_everyday_trouble_has_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty.nii.gz").touch()
    (tmp_path / "text.nii").write_text("this is not a volume, whatever it is called")
    (tmp_path / "folder.nii").mkdir()
    shut = tmp_path / "shut.nii"
    shut.write_bytes(b"x" * 400)
    shut.chmod(0)
    wanted = {
        "nothing.nii": "no such file",
        "empty.nii.gz": "an empty file",
        "text.nii": "other contents",
        "folder.nii": "DICOM slices",
    }
    if os.geteuid() != 0:
        wanted["shut.nii"] = "may not read"
    for name, said in wanted.items():
        for ask in (VolumeReader().probe, VolumeReader().read):
            with pytest.raises(BadSample, match=said) as caught:
                ask(tmp_path / name)
            assert str(caught.value).count("\n") == 0
            assert name in str(caught.value)


def test_a_packed_file_under_a_plain_name_is_read_for_what_it_is(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(voxels(), np.eye(4)), tmp_path / "a.nii.gz")
    (tmp_path / "a.nii.gz").rename(tmp_path / "a.nii")
    assert np.array_equal(AS_IS.read(tmp_path / "a.nii").data[0].numpy(), voxels().T)


def test_a_lying_header_costs_nothing(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float64)
    header["dim"][:5] = (4, 700, 700, 1000, 1)  # fits max_voxels, 4 GB; the file has 400 bytes
    header["vox_offset"], header["magic"] = 352, b"n+1"
    header.set_sform(np.eye(4), 1)
    plain = header.binaryblock + b"\0" * 52
    (tmp_path / "a.nii").write_bytes(plain)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(plain))
    tracemalloc.start()
    for name in ("a.nii", "b.nii.gz"):
        with pytest.raises(BadSample, match="expected 3,920,000,352 bytes"):
            AS_IS.probe(tmp_path / name)
        with pytest.raises(BadSample, match="a header that lies"):
            AS_IS.read(tmp_path / name)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50 * 2**20


def test_resampling_to_more_than_fits_is_refused() -> None:
    needle = new_volume(np.zeros((1, 2, 2, 2), np.float32), np.diag([1e-6, 1e-6, 1e12, 1.0]))
    with pytest.raises(BadSample, match="would become 2,000,000,000,000 of"):
        Resample(1.0)(needle)


def test_unknown_types_of_numbers_are_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(voxels(), np.eye(4)), tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[70:72] = (9999).to_bytes(2, "little")
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(BadSample, match="a known type of numbers"):
        AS_IS.probe(tmp_path / "a.nii")
    complex_ = nibabel.Nifti1Image(voxels().astype(np.complex64), np.eye(4))
    nibabel.save(complex_, tmp_path / "c.nii")
    with pytest.raises(BadSample, match="expected voxels that are one number each, found complex"):
        AS_IS.read(tmp_path / "c.nii")


def test_constant_and_broken_numbers() -> None:
    flat = np.full((4, 4, 4), 7, np.int16)
    with pytest.raises(BadSample, match="all non-zero voxels equal to 7"):
        VolumeReader(transforms=(ZScore(),)).read(flat)
    holes = np.ones((4, 4, 4), np.float32)
    holes[0, 0, :2] = np.nan
    with pytest.raises(BadSample, match="found 2 of 64 voxels NaN or infinite"):
        VolumeReader().read(holes)
    assert VolumeReader(nan=-1.0).read(holes).data.min() == -1


def test_bad_shared_files_are_refused_in_a_sentence(shared_data: Path) -> None:
    reader = VolumeReader(transforms=(Orient(), ZScore()))
    files = sorted((shared_data / "bad/mri").iterdir())
    assert len(files) == 10
    for file in files:
        with pytest.raises(BadSample) as caught:
            reader.read(file)
        said = str(caught.value)
        assert said.startswith(str(file))
        assert "expected" in said
        assert "found" in said
