"""DICOM: a series becomes a volume in its order, or one sentence says why not."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from multimask.datasets.formats.volumes import VolumeReader
from multimask.datasets.volume_transforms import SliceMinMax
from multimask.datasets.volumes import as_volume
from multimask.tokens import BadSample
from volume_files import AS_IS, voxels

pydicom = pytest.importorskip("pydicom")


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


def test_slices_of_a_ct_as_8_bit_pictures(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", [0, 2, 4])
    volume = VolumeReader(transforms=(SliceMinMax(),)).read(tmp_path / "ct")
    low, high = volume.data.amin(dim=(2, 3)), volume.data.amax(dim=(2, 3))
    assert (low == 0).all()
    torch.testing.assert_close(high, torch.full_like(high, 255.0))
    flat = SliceMinMax()(as_volume(np.full((2, 4, 4), -2000, np.float32), "flat"))
    assert not flat.data.any()


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
