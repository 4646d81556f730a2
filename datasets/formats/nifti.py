"""NIfTI-1 and -2: `.nii`, `.nii.gz`, `.hdr` with `.img`. Read by what is inside, not by the name.

nibabel reads the header; the voxels are mapped (`.nii`) or unpacked up to the size that the header
claims (`.nii.gz`), after that size was held against the file's.
"""

import io
import os
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped

from multimask.datasets.formats.files import AnyPath, File, decoding, opened
from multimask.datasets.formats.voxels import Voxels, check_bytes, check_voxels
from multimask.datasets.volume_grids import onto_grid
from multimask.datasets.volumes import Volume, check_affine
from multimask.tokens import BadSample

WHAT = "a NIfTI volume"
GZIP = b"\x1f\x8b"
ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")
HEADER = 540  # bytes of a NIfTI-2 header; NIfTI-1 has 348
TO_MM = {1: 1000.0, 2: 1.0, 3: 0.001}  # xyzt_units: metre, millimetre, micron


def is_nifti(start: bytes) -> bool:
    """Whether these first bytes (unpacked) are a NIfTI header of either version and endianness."""
    return any(int.from_bytes(start[:4], order) in (348, 540) for order in ORDERS)


def open_nifti(path: AnyPath, max_voxels: int) -> Voxels:
    """Raises: BadSample for whatever is wrong with the file."""
    with opened(path, WHAT) as file:
        packed = file.read(2) == GZIP
        file.seek(0)
        start = bytes(unpacked(file, HEADER, path)) if packed else file.read(HEADER)
    header = parsed(start, path)
    shape, frames = shape_of(header, path)
    with decoding(path, "a NIfTI header with a known type of numbers"):
        dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise BadSample(f"{path}: expected voxels that are one number each, found {dtype}.")
    count = check_voxels(path, (*shape, frames), max_voxels)
    data_path, offset = data_of(path, header, start)
    with opened(data_path, "the voxels of a NIfTI volume") as file:
        packed_data = file.read(2) == GZIP
        there = os.fstat(file.fileno()).st_size
    check_bytes(data_path, offset + count * dtype.itemsize, there, packed_data)
    slope, intercept = scaling_of(header)

    def load() -> Shaped[np.ndarray, "c z y x"]:
        with decoding(data_path, "whole NIfTI voxels"):
            if packed_data:
                with opened(data_path, WHAT) as file:
                    raw = unpacked(file, offset + count * dtype.itemsize, data_path)
                array = np.frombuffer(raw, dtype, count, offset)
            else:
                array = np.memmap(data_path, dtype, "r", offset, (count,))
            x, y, z = shape
            return array.reshape(frames, z, y, x)  # Fortran order of (x, y, z, frame)

    x, y, z = shape
    affine = check_affine(affine_of(header), path)
    kind = "NIfTI, packed" if packed_data else "NIfTI"
    return Voxels((frames, z, y, x), affine, dtype.name, kind, load, slope, intercept)


def unpacked(file: File, size: int, path: AnyPath) -> bytearray:
    """The first `size` bytes of a gzip stream: no more is ever unpacked."""
    whole, inflate = bytearray(), zlib.decompressobj(31)
    try:
        while len(whole) < size and (piece := file.read(1 << 20)):
            while piece and len(whole) < size:
                whole += inflate.decompress(piece, size - len(whole))
                piece = inflate.unconsumed_tail
                if inflate.eof:  # gzip files may hold several streams
                    piece, inflate = inflate.unused_data, zlib.decompressobj(31)
    except zlib.error as error:
        raise BadSample(
            f"{path}: expected a gzip stream, found damaged data after {len(whole):,} bytes."
        ) from error
    if len(whole) < min(size, 348) or (len(whole) < size and size != HEADER):
        raise BadSample(
            f"{path}: expected {size:,} bytes in the gzip stream, found {len(whole):,} (cut short)."
        )
    return whole


def parsed(start: bytes, path: AnyPath) -> Any:
    import nibabel

    if not is_nifti(start):
        raise BadSample(f"{path}: expected {WHAT}, found other contents (no NIfTI header).")
    second = any(int.from_bytes(start[:4], order) == 540 for order in ORDERS)
    magic = start[4:8] if second else start[344:348]
    if magic[:1] != b"n" or magic[1:2] not in (b"+", b"i") or magic[2:3] not in (b"1", b"2"):
        raise BadSample(f"{path}: expected the magic word n+1 or ni1, found {magic!r}.")
    cls = nibabel.Nifti2Header if second else nibabel.Nifti1Header
    with decoding(path, "a whole NIfTI header"):
        return cls.from_fileobj(io.BytesIO(start), check=False)


def shape_of(header: Any, path: AnyPath) -> tuple[tuple[int, int, int], int]:
    """((x, y, z), volumes along the further axes)."""
    rank = int(header["dim"][0])
    if not 1 <= rank <= 7:
        raise BadSample(f"{path}: expected 1 to 7 axes, found {rank} in the header.")
    sizes = [int(n) for n in header["dim"][1 : rank + 1]] + [1] * max(0, 3 - rank)
    frames = 1
    for n in sizes[3:]:
        frames *= n
    return (sizes[0], sizes[1], sizes[2]), frames


def scaling_of(header: Any) -> tuple[float, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) or slope == 0:  # the standard's way to say: none
        return 1.0, 0.0
    return slope, intercept if np.isfinite(intercept) else 0.0


def affine_of(header: Any) -> np.ndarray:
    """sform, else qform, else pixdim, in mm."""
    with np.errstate(all="ignore"):
        affine = np.array(header.get_best_affine(), np.float64)
    factor = TO_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    affine[:3] *= factor
    return affine


def data_of(path: AnyPath, header: Any, start: bytes) -> tuple[AnyPath, int]:
    """The file with the voxels, and where in it they begin."""
    offset = float(header["vox_offset"])
    if not np.isfinite(offset) or offset < 0:
        raise BadSample(f"{path}: expected voxels to begin at a byte >= 0, found {offset}.")
    magic = start[4:8] if header["sizeof_hdr"] == 540 else start[344:348]
    if magic[1:2] == b"+":
        return path, max(int(offset), int(header["sizeof_hdr"]))
    stem = str(path).removesuffix(".gz").removesuffix(".hdr").removesuffix(".img")
    for suffix in (".img", ".img.gz"):
        if Path(stem + suffix).is_file():
            return stem + suffix, int(offset)
    raise BadSample(
        f"{path}: expected the voxels of this header in {os.path.basename(stem)}.img beside it, "
        "found no such file."
    )


def write_nifti(
    path: AnyPath,
    volume: Volume,
    on_source: bool = True,
    fill: float | int = 0.0,
    dtype: str | None = None,
) -> None:
    """Write a volume as NIfTI, in the numbers of the file it came from.

    on_source: on that file's own grid, so that the two lie on each other voxel by voxel: what
    transforms turned, cut out or resampled is put back; voxels they cut away get `fill`.
    Otherwise on the volume's own grid. The affine goes into sform and, where it has no shear,
    into qform. dtype: of the stored numbers; else int16 for labels and float32.
    """
    import nibabel

    volume = volume.arrays()
    if on_source:
        data = onto_grid(volume, volume.source_shape, volume.source_affine, fill)
        affine = volume.source_affine
    else:
        data, affine = volume.in_file_numbers(), volume.affine
    stored = data.astype(dtype or (np.int16 if volume.discrete else np.float32))
    array = np.moveaxis(stored.transpose(0, 3, 2, 1), 0, -1)  # x, y, z, channel
    image = nibabel.Nifti1Image(array[..., 0] if len(data) == 1 else array, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
