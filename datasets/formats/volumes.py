"""The volume reader: one MRI or CT file, or DICOM series, to one `Volume`."""

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Shaped
from torch import Generator, Tensor

from multimask.datasets.formats.dicom import is_dicom, open_dicom
from multimask.datasets.formats.files import AnyPath, decoding, opened
from multimask.datasets.formats.metaimage import open_metaimage
from multimask.datasets.formats.nifti import GZIP, is_nifti, open_nifti, write_nifti
from multimask.datasets.formats.nrrd import open_nrrd
from multimask.datasets.formats.voxels import Voxels, check_voxels
from multimask.datasets.volume_transforms import Orient, VolumeTransform, steps
from multimask.datasets.volumes import Volume, as_volume
from multimask.tokens import BadSample

Source = AnyPath | Shaped[np.ndarray, "..."] | Shaped[Tensor, "..."] | Volume

NPY = b"\x93NUMPY"


@dataclass(frozen=True)
class VolumeReader:
    """Reads NIfTI, a DICOM series (its folder, or one file), NRRD, MetaImage or NPY as a `Volume`.

    The content decides how a file is read, not its name. Slopes and intercepts are applied: numbers
    are what the file means (Hounsfield units in CT). Geometry is kept: see `datasets.volumes`. NPY
    files and arrays, `(z, y, x)` or `(channels, z, y, x)`, have none and count as 1 mm, R A S.
    Uncompressed NIfTI, MetaImage, NRRD and NPY are mapped: where all transforms are crops, turns
    and flips, only the voxels asked for are read. A `Volume` is taken on from where it is: what a
    store holds can be cropped and flipped further, and only the box that is asked for is read.

    Args:
        transforms: applied in order (see `datasets.volume_transforms`); those that draw do so from
            the generator only.
        channels: volumes along the file's fourth axis; None takes what comes. A file with another
            number is refused: a time series is not a set of contrasts.
        frame: which volume of a fourth axis to read, as one channel.
        labels: numbers are names of tissues: whole numbers, never interpolated.
        nan: what NaN and infinite voxels become; None refuses files that hold any.
        series: the DICOM SeriesInstanceUID, where folders hold several.
        max_voxels: of a file, checked in its header before anything is allocated.
    Raises: BadSample, one sentence, for whatever is wrong with a file.

    >>> VolumeReader().read(np.zeros((4, 6, 5), np.float32)).shape
    (1, 4, 6, 5)
    """

    transforms: tuple[VolumeTransform, ...] = (Orient("RAS"),)
    channels: int | None = 1
    frame: int | None = None
    labels: bool = False
    nan: float | None = None
    series: str | None = None
    max_voxels: int = 2**29

    packs_as = "arrays"  # unpacked once, not in every epoch; DICOM series are folders anyway
    rereads = True
    suffixes = (".nii", ".nii.gz", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd", ".npy")
    """What a folder's files must end in. Not .dcm: a DICOM series is a folder (`layouts.dicom`)."""

    def __post_init__(self) -> None:
        if self.frame is not None and self.channels not in (1, None):
            raise ValueError(
                f"VolumeReader: frame={self.frame} reads one channel, but channels={self.channels}."
            )
        if not isinstance(self.transforms, tuple):
            raise ValueError("VolumeReader: transforms must be a tuple.")

    @classmethod
    def fitted(cls, tokenizer: Any, augment: bool) -> "VolumeReader":
        """The reader that gives a tokenizer its size, spacing, channels and intensities: random
        boxes to train on (`augment`), else the middle of a volume."""
        made = steps(tokenizer.size, tokenizer.spacing, tokenizer.intensity, augment=augment)
        return cls(transforms=made, channels=tokenizer.channels)

    def write(self, path: AnyPath, value: Volume, data: Shaped[Tensor, "c z y x"]) -> None:
        """Other data of a volume that was read, as NIfTI on the grid and in the numbers of the file
        that it came from."""
        write_nifti(path, replace(value, data=data))

    writes = ".nii.gz"
    """What files that `write` makes end in."""

    def probe(self, source: Source) -> dict[str, Any]:
        """What the header says: sizes, spacing in mm, orientation, dtype, format, channels.

        Voxels are not read, so damage behind the header is not found.
        """
        if isinstance(source, np.ndarray | Tensor | Volume):
            volume = source if isinstance(source, Volume) else as_volume(source, "array")
            sizes = dict(zip(("z", "y", "x"), volume.size, strict=True))
            return {"channels": len(volume.data), **sizes, "format": "array"}
        return self._open(source).describe()

    def read(self, source: Source, generator: Generator | None = None) -> Volume:
        """One volume, from a path, an array or a volume."""
        if isinstance(source, Volume):
            name, volume, slope, intercept = "a volume", source.arrays(), 1.0, 0.0
        elif isinstance(source, np.ndarray | Tensor):
            name, volume, slope, intercept = "array", as_volume(source, "array"), 1.0, 0.0
        else:
            name, voxels = str(source), self._open(source)
            slope, intercept = voxels.slope, voxels.intercept
            volume = as_volume(voxels.load(), name)
            volume = replace(volume, affine=voxels.affine, source_affine=voxels.affine)
        discrete = self.labels or volume.discrete
        volume = replace(self._chosen(volume, name), discrete=discrete)
        views = 0
        while views < len(self.transforms) and self.transforms[views].only_views:
            volume = self.transforms[views](volume, generator)
            views += 1
        volume = self._numbers(volume, slope, intercept, name)
        for transform in self.transforms[views:]:
            try:
                volume = transform(volume, generator)
            except BadSample as error:
                raise BadSample(f"{name}: {error}") from error
        return volume.tensors()

    def _open(self, path: AnyPath) -> Voxels:
        if os.path.isdir(path):
            return open_dicom(path, self.max_voxels, self.series)
        with opened(path, "a volume") as file:
            start = file.read(352)
        if start.startswith(GZIP) or is_nifti(start):
            return open_nifti(path, self.max_voxels)
        if start.startswith(b"NRRD"):
            return open_nrrd(path, self.max_voxels)
        if start.startswith(NPY):
            return open_npy(path, self.max_voxels)
        if is_dicom(path) or str(path).lower().endswith((".dcm", ".ima")):
            return open_dicom(path, self.max_voxels)
        if b"ObjectType" in start or b"NDims" in start:
            return open_metaimage(path, self.max_voxels)
        raise BadSample(
            f"{path}: expected NIfTI, DICOM, NRRD, MetaImage or NPY, found other contents "
            f"(it begins with {start[:8]!r})."
        )

    def _chosen(self, volume: Volume, name: str) -> Volume:
        found = len(volume.data)
        if self.frame is not None:
            if not 0 <= self.frame < found:
                raise BadSample(f"{name}: expected a volume number {self.frame}, found {found}.")
            data = volume.data[self.frame : self.frame + 1]
            return replace(volume, data=data, scale=(1.0,), shift=(0.0,))
        if self.channels is not None and found != self.channels:
            raise BadSample(
                f"{name}: expected {self.channels} channels, found {found} volumes along the "
                f"fourth axis; VolumeReader(channels={found}) reads them as channels, frame=0 the "
                "first alone."
            )
        return volume

    def _numbers(self, volume: Volume, slope: float, intercept: float, name: str) -> Volume:
        """What the stored numbers mean, as float32; label numbers as whole numbers."""
        with decoding(name, "whole voxels"):  # a mapped file is read here
            data = np.asarray(volume.data)
        if data.dtype.kind not in "uifb":
            raise BadSample(f"{name}: expected numbers, found {data.dtype}.")
        if slope != 1 or intercept != 0:
            data = data.astype(np.float64) * slope + intercept
        if data.dtype.kind == "f" and (bad := data.size - int(np.isfinite(data).sum())):
            if self.nan is None:
                raise BadSample(
                    f"{name}: expected finite numbers, found {bad:,} of {data.size:,} voxels NaN "
                    "or infinite; VolumeReader(nan=0.0) puts a number there."
                )
            data = np.where(np.isfinite(data), data, self.nan)
        if not volume.discrete:
            return replace(volume, data=data.astype(np.float32, copy=False))
        whole = np.rint(data).astype(np.int64)
        if data.dtype.kind == "f" and np.abs(whole - data).max() > 1e-3:
            raise BadSample(f"{name}: expected label numbers, found {data.flat[0]:g} and others.")
        return replace(volume, data=whole)


def open_npy(path: AnyPath, max_voxels: int) -> Voxels:
    """A NPY file, mapped: (z, y, x) or (channels, z, y, x)."""
    with decoding(path, "a whole NPY array of numbers"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim not in (3, 4):
        raise BadSample(
            f"{path}: expected an array (z, y, x) or (channels, z, y, x), found {array.shape}."
        )
    check_voxels(path, array.shape, max_voxels)
    data = array if array.ndim == 4 else array[None]
    c, z, y, x = data.shape
    return Voxels((c, z, y, x), np.eye(4), data.dtype.name, "NPY", lambda: data)
