"""Transforms of volumes: a voxel keeps its place in millimetres, whatever is done to it."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from multimask.datasets.formats.volumes import VolumeReader
from multimask.datasets.table import Table
from multimask.datasets.volume_transforms import Crop, Flip, Orient, Resample, Window, ZScore
from multimask.datasets.volumes import new_volume
from multimask.tokens import BadSample
from volume_files import loaded, oblique, voxels, where_is


def test_orientation_is_nibabels_and_voxels_keep_their_place(tmp_path: Path) -> None:
    array, affine = voxels(), oblique()
    affine = affine @ np.array([[0, 0, -1, 5], [1, 0, 0, 0], [0, -1, 0, 6], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "a.nii")
    ours = VolumeReader(transforms=(Orient("RAS"),)).read(tmp_path / "a.nii")
    theirs = nibabel.as_closest_canonical(loaded(tmp_path / "a.nii"))
    assert np.array_equal(ours.data[0].numpy(), np.asarray(theirs.dataobj).T)
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-5)
    lps = VolumeReader(transforms=(Orient("LPS"),)).read(tmp_path / "a.nii")
    assert "".join(nibabel.aff2axcodes(lps.affine.numpy())) == "LPS"
    unique = float(array[2, 3, 4])
    if (array == unique).sum() == 1:
        np.testing.assert_allclose(where_is(lps, unique), where_is(ours, unique), atol=1e-4)


def test_a_voxel_keeps_its_millimetres_through_turns_crops_and_flips() -> None:
    array = np.arange(6 * 7 * 8, dtype=np.float32).reshape(1, 6, 7, 8)
    volume = new_volume(array, oblique())
    place = where_is(volume, 177.0)
    generator = torch.Generator().manual_seed(1)
    for transforms in ((Orient("LPS"),), (Flip(1.0),), (Orient("SLP"), Crop((4, 4, 5)), Flip(1.0))):
        changed = volume
        for transform in transforms:
            changed = transform(changed, generator)
        if (changed.data == 177).any():
            np.testing.assert_allclose(where_is(changed, 177.0), place, atol=1e-9)
    assert (Crop(6, random=False)(volume).data == 177).any()


def test_resampling_reproduces_a_ramp_in_millimetres() -> None:
    # every voxel holds a linear function of where it is: so must every new voxel inside
    affine = oblique()
    z, y, x = np.meshgrid(*(np.arange(n) for n in (12, 20, 24)), indexing="ij")
    index = np.stack((x, y, z), -1).astype(np.float64)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    volume = new_volume((world @ [1.0, 2.0, -0.5])[None].astype(np.float32), affine)
    made = Resample((2.0, 1.1, 1.6))(volume)
    np.testing.assert_allclose(made.spacing, (2.0, 1.1, 1.6))
    index = np.stack(
        np.meshgrid(*(np.arange(n) for n in made.size), indexing="ij")[::-1], -1
    ).astype(np.float64)
    wanted = (index @ made.affine[:3, :3].T + made.affine[:3, 3]) @ [1.0, 2.0, -0.5]
    inner = (slice(2, -2),) * 3
    np.testing.assert_allclose(made.data[0][inner], wanted[inner], atol=1e-3)
    middle = (np.array(volume.size[::-1]) - 1) / 2
    new_middle = (np.array(made.size[::-1]) - 1) / 2
    np.testing.assert_allclose(
        made.affine[:3, :3] @ new_middle + made.affine[:3, 3],
        affine[:3, :3] @ middle + affine[:3, 3],
        atol=1e-9,
    )


def test_labels_are_never_interpolated() -> None:
    array = np.random.default_rng(0).choice([0, 7, 200], (1, 10, 10, 10))
    made = VolumeReader(transforms=(Resample((0.7, 1.3, 2.1)),), labels=True).read(array)
    assert made.data.dtype == torch.int64
    assert set(made.data.unique().tolist()) <= {0, 7, 200}
    with pytest.raises(ValueError, match="cannot be used on label maps"):
        VolumeReader(transforms=(ZScore(),), labels=True).read(array)
    with pytest.raises(BadSample, match="expected label numbers"):
        VolumeReader(labels=True).read(array + 0.5)


def test_intensities_are_monais() -> None:
    from monai.transforms.croppad.array import CropForeground as TheirCrop
    from monai.transforms.intensity.array import NormalizeIntensity, ScaleIntensityRange

    from multimask.datasets.volume_transforms import CropForeground

    array = np.random.default_rng(0).normal(50, 30, (2, 6, 7, 8)).astype(np.float32)
    array[:, :2] = 0
    ours = ZScore()(new_volume(array)).data
    theirs = NormalizeIntensity(nonzero=True, channel_wise=True)(torch.from_numpy(array))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert (ours[:, :2] == 0).all()
    window = ScaleIntensityRange(-160, 240, 0, 1, clip=True)(torch.from_numpy(array))
    np.testing.assert_allclose(Window(-160, 240)(new_volume(array)).data, window, atol=1e-6)
    theirs = TheirCrop(allow_smaller=True)(torch.from_numpy(array))
    assert CropForeground()(new_volume(array)).data.shape == tuple(np.asarray(theirs).shape)


def test_registered_contrasts_and_labels_are_cropped_and_flipped_alike(tmp_path: Path) -> None:
    array = voxels((12, 13, 14))
    for name in ("a", "seg"):
        nibabel.save(nibabel.Nifti1Image(array, oblique()), tmp_path / f"{name}.nii")
    same = (Orient(), Crop(6), Flip())
    readers = {
        "a": VolumeReader(transforms=(*same, ZScore())),
        "seg": VolumeReader(transforms=same, labels=True),
    }
    table = Table.of({"a": ["a.nii"], "seg": ["seg.nii"]}, readers, tmp_path)
    corners = set()
    for seed in range(4):
        sample = table.draw(0, torch.Generator().manual_seed(seed))
        back = sample["a"].data * sample["a"].scale[0] + sample["a"].shift[0]
        assert torch.equal(back.round().long(), sample["seg"].data)
        assert torch.equal(sample["a"].affine, sample["seg"].affine)
        corners.add(tuple(sample["a"].affine[:3, 3].tolist()))
    assert len(corners) > 1
    assert torch.equal(table[0]["a"].data, table[0]["a"].data)
