"""The volume reader: every format, true geometry, and one clear sentence for what is wrong."""

import gzip
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from multimask.datasets.formats.nifti import write_nifti
from multimask.datasets.formats.volumes import VolumeReader
from multimask.datasets.table import Table
from multimask.datasets.volume_transforms import (
    Crop,
    Flip,
    Orient,
    Resample,
    SliceMinMax,
    Window,
    ZScore,
)
from multimask.datasets.volumes import Volume, as_volume, new_volume
from multimask.plugins import load
from multimask.tokens import BadSample

pydicom = pytest.importorskip("pydicom")

AS_IS = VolumeReader(transforms=(), channels=None)


def loaded(path: Path) -> Any:
    """As nibabel reads it."""
    return nibabel.load(path)


def oblique() -> np.ndarray:
    """An affine with a rotation of 20 degrees, spacing (0.8, 0.9, 3) and an offset."""
    turn = np.deg2rad(20)
    rotation = np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([0.8, 0.9, 3.0])
    affine[:3, 3] = (-40, 12.5, 7)
    return affine


def voxels(shape: tuple[int, ...] = (6, 7, 8), seed: int = 0) -> np.ndarray:
    """x, y, z as nibabel has them."""
    return np.random.default_rng(seed).integers(1, 1000, shape).astype(np.int16)


def where_is(volume: Volume, value: float) -> np.ndarray:
    """Millimetres of the voxel that holds a value."""
    z, y, x = np.argwhere(np.asarray(volume.data)[0] == value)[0]
    return np.asarray(volume.affine)[:3] @ [x, y, z, 1]


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
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    volume = VolumeReader(transforms=(Orient("LPS"), Crop(8))).read(tmp_path / "a.nii")
    assert volume.shape == (1, 8, 8, 8)
    np.testing.assert_allclose(where_is(volume, 77), (199, 200, 200))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 30_000  # KiB; the file has 64,000


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


# --- DICOM ----------------------------------------------------------------------------------------


def write_series(folder: Path, places: list[float], **changes: Any) -> np.ndarray:
    """Slices of 4 x 5 at these places along z (mm, head up), named in shuffled order."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    series, array = generate_uid(), voxels((len(places), 4, 5))
    names = np.random.default_rng(3).permutation(len(places))
    for pixels, place, name in zip(array, places, names, strict=True):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        one = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        one.SeriesInstanceUID, one.Modality, one.InstanceNumber = series, "CT", int(name)
        one.Rows, one.Columns, one.PixelSpacing = 4, 5, [0.7, 0.6]
        one.ImagePositionPatient = [-10, -20, place]
        one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        one.SliceThickness, one.RescaleSlope, one.RescaleIntercept = 9.0, 2, -1024
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
        one.PixelData = pixels.tobytes()
        for key, value in changes.items():
            setattr(one, key, value)
        one.save_as(folder / f"IM{name:03d}.dcm", enforce_file_format=True)
    return array


def test_a_series_is_ordered_by_position_and_scaled(tmp_path: Path) -> None:
    array = write_series(tmp_path / "ct", [0, 2.5, 5, 7.5, 10])
    (tmp_path / "ct" / "notes.txt").write_text("not a slice")
    volume = AS_IS.read(tmp_path / "ct")
    assert np.array_equal(volume.data[0].numpy(), array * 2.0 - 1024)  # Hounsfield units
    np.testing.assert_allclose(volume.spacing, (2.5, 0.7, 0.6))  # not the stated thickness
    wanted = [[-0.6, 0, 0, 10], [0, -0.7, 0, 20], [0, 0, 2.5, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(volume.affine, wanted)
    assert AS_IS.probe(tmp_path / "ct")["modality"] == "CT"


def test_a_missing_slice_is_named(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", [0, 2, 4, 8, 10])
    with pytest.raises(BadSample, match=r"4.000 mm between IM\d+.dcm and IM\d+.dcm: 1 missing"):
        AS_IS.read(tmp_path / "ct")
    with pytest.raises(BadSample, match="1 missing"):
        AS_IS.probe(tmp_path / "ct")


def test_two_slices_at_one_place_two_series_and_colours_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "twice", [0, 2, 2, 4])
    with pytest.raises(BadSample, match="found two at the same"):
        AS_IS.read(tmp_path / "twice")
    write_series(tmp_path / "b", [0, 2])
    write_series(tmp_path / "other", [0, 2])
    for file in (tmp_path / "other").iterdir():
        shutil.copy(file, tmp_path / "b" / f"other_{file.name}")
    with pytest.raises(BadSample, match=r"one series a folder, found 2: .*series="):
        AS_IS.read(tmp_path / "b")
    uid = str(pydicom.dcmread(next((tmp_path / "other").iterdir())).SeriesInstanceUID)
    chosen = VolumeReader(transforms=(), series=uid).read(tmp_path / "b")
    assert torch.equal(chosen.data, AS_IS.read(tmp_path / "other").data)
    write_series(tmp_path / "rgb", [0.0], SamplesPerPixel=3)
    with pytest.raises(BadSample, match="a colour picture"):
        AS_IS.read(tmp_path / "rgb")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadSample, match="expected a folder with DICOM slices"):
        AS_IS.read(tmp_path / "empty")


def test_a_header_that_claims_too_much_is_refused_before_pixels(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", [0.0], Rows=60000, Columns=60000)
    with pytest.raises(BadSample, match="expected at most 536,870,912 voxels"):
        AS_IS.read(tmp_path / "ct")
    write_series(tmp_path / "frames", [0.0], NumberOfFrames=2_000_000_000)
    with pytest.raises(BadSample, match="expected at most 536,870,912 voxels"):
        AS_IS.probe(tmp_path / "frames")
    write_series(tmp_path / "short", [0.0], Rows=400)
    with pytest.raises(BadSample, match="expected 4,000 bytes of pixels, found 40"):
        AS_IS.read(tmp_path / "short")


def test_frames_of_an_enhanced_object_lie_where_they_say(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    array = write_series(tmp_path / "all", [0, 3, 6])
    frames = []
    for place in (6.0, 0.0, 3.0):  # stored out of order
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = [-10, -20, place]
        group.PlanePositionSequence = Sequence([position])
        frames.append(group)
    stored = array[[2, 0, 1]]
    changes = {
        "NumberOfFrames": 3,
        "PixelData": stored.tobytes(),
        "PerFrameFunctionalGroupsSequence": Sequence(frames),
    }
    write_series(tmp_path / "one", [0.0], **changes)
    volume = AS_IS.read(next((tmp_path / "one").iterdir()))
    assert np.array_equal(volume.data[0].numpy(), array * 2.0 - 1024)
    np.testing.assert_allclose(volume.spacing, (3, 0.7, 0.6))


# --- geometry through transforms ------------------------------------------------------------------


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


def test_slices_of_a_ct_as_8_bit_pictures(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", [0, 2, 4])
    volume = VolumeReader(transforms=(SliceMinMax(),)).read(tmp_path / "ct")
    low, high = volume.data.amin(dim=(2, 3)), volume.data.amax(dim=(2, 3))
    assert (low == 0).all()
    torch.testing.assert_close(high, torch.full_like(high, 255.0))
    flat = SliceMinMax()(as_volume(np.full((2, 4, 4), -2000, np.float32), "flat"))
    assert not flat.data.any()


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


# --- written back ---------------------------------------------------------------------------------


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


# --- what is wrong --------------------------------------------------------------------------------


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
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("a.nii", "b.nii.gz"):
        with pytest.raises(BadSample, match="expected 3,920,000,352 bytes"):
            AS_IS.probe(tmp_path / name)
        with pytest.raises(BadSample, match="a header that lies"):
            AS_IS.read(tmp_path / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


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


def test_every_shared_volume_is_what_nibabel_says(shared_data: Path) -> None:
    files = sorted((shared_data / "mri").rglob("*.nii.gz"))
    assert len(files) > 70
    for file in files:
        volume, theirs = AS_IS.read(file), loaded(file)
        array = theirs.get_fdata(dtype=np.float32)
        array = array[None] if array.ndim == 3 else np.moveaxis(array, -1, 0)
        np.testing.assert_allclose(volume.data, array.transpose(0, 3, 2, 1), rtol=1e-5)
        np.testing.assert_allclose(volume.affine, theirs.affine, atol=1e-5)


def test_shared_dicom_is_read(shared_data: Path) -> None:
    series = VolumeReader().read(shared_data / "mri/ct_dicom_series")
    assert series.shape == (1, 17, 128, 88)
    singles = {p.name: AS_IS.read(p) for p in (shared_data / "mri/dicom_single").iterdir()}
    assert torch.equal(singles["MR_small.dcm"].data, singles["MR_small_RLE.dcm"].data)
    assert singles["CT_small.dcm"].data.min() == -896  # Hounsfield units, not stored numbers
    assert singles["JPEG2000.dcm"].shape == (1, 1, 1024, 256)


def test_a_series_with_a_slice_taken_out_names_the_gap(shared_data: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_data / "mri/ct_dicom_series", tmp_path / "ct")
    files = sorted((tmp_path / "ct").iterdir())
    files[7].unlink()
    with pytest.raises(BadSample, match=r"between IMG\d+.dcm and IMG\d+.dcm: 1 missing there"):
        VolumeReader().read(tmp_path / "ct")


def test_the_reader_is_a_plugin() -> None:
    assert load("readers", "volume") is VolumeReader
    assert VolumeReader().probe(voxels())["z"] == 6
