"""Volumes that are written back lie on their source."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from multimask.datasets.formats.nifti import write_nifti
from multimask.datasets.formats.volumes import VolumeReader
from multimask.datasets.volume_transforms import Crop, Flip, Orient, Resample, ZScore
from volume_files import loaded, oblique, voxels


def test_what_is_written_lies_on_the_source_voxel_by_voxel(tmp_path: Path) -> None:
    array = voxels((9, 10, 11))
    affine = oblique() @ np.array([[0, -1, 0, 4], [1, 0, 0, 0], [0, 0, -1, 6], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "a.nii.gz")
    reader = VolumeReader(transforms=(Orient("RAS"), Crop((8, 7, 6)), Flip(1.0), ZScore()))
    volume = reader.read(tmp_path / "a.nii.gz", torch.Generator().manual_seed(0))
    write_nifti(tmp_path / "b.nii.gz", volume, fill=-1)
    source, written = (loaded(tmp_path / f"{name}.nii.gz") for name in "ab")
    np.testing.assert_allclose(written.affine, source.affine, atol=1e-4)
    assert written.header.get_zooms() == pytest.approx(source.header.get_zooms(), abs=1e-5)
    assert nibabel.aff2axcodes(written.affine) == nibabel.aff2axcodes(source.affine)
    found, wanted = written.get_fdata(), source.get_fdata()
    kept = found != -1
    assert kept.sum() == 8 * 7 * 6
    np.testing.assert_allclose(found[kept], wanted[kept], atol=0.01)


def test_resampled_volumes_are_written_where_they_belong(tmp_path: Path) -> None:
    z, y, x = np.meshgrid(*(np.arange(n) for n in (16, 18, 20)), indexing="ij")
    smooth = (np.sin(x / 6) + np.cos(y / 5) + z / 8).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(smooth.T, oblique()), tmp_path / "a.nii")
    volume = VolumeReader(transforms=(Orient("LPS"), Resample(0.75))).read(tmp_path / "a.nii")
    write_nifti(tmp_path / "own.nii", volume, on_source=False)
    own = loaded(tmp_path / "own.nii")
    np.testing.assert_allclose(own.affine, volume.affine, atol=1e-4)
    np.testing.assert_allclose(own.header.get_zooms(), (0.75,) * 3, atol=1e-5)
    write_nifti(tmp_path / "back.nii", volume)
    back = loaded(tmp_path / "back.nii").get_fdata()
    inner = (slice(2, -2),) * 3
    assert np.abs(back[inner] - smooth.T[inner]).max() < 0.05
