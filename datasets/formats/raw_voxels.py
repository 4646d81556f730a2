"""The block of voxels that a text header describes: x fastest, plain or packed."""

import bz2
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Shaped

from multimask.datasets.formats.files import AnyPath, decoding, opened
from multimask.datasets.formats.nifti import unpacked
from multimask.datasets.formats.voxels import check_bytes, check_voxels
from multimask.tokens import BadSample

Packing = Literal["raw", "gzip", "zlib", "bzip2", "ascii"]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
MAX_HEADER = 1 << 20


def loader(
    data: AnyPath,
    begin: int,
    dtype: np.dtype,
    sizes: list[int],
    channels: int,
    packing: Packing,
    max_voxels: int,
    header: AnyPath,
) -> Callable[[], Shaped[np.ndarray, "c z y x"]]:
    """Check the claimed size against the file; then how to get the voxels, channels fastest."""
    count = check_voxels(header, (*sizes, channels), max_voxels)
    needed = count * dtype.itemsize
    with opened(data, "the voxels of a volume") as file:
        there = os.fstat(file.fileno()).st_size - begin
    if packing == "ascii":
        check_bytes(data, 2 * count - 1, there)
    elif packing != "bzip2":  # which shrinks zeros by any factor: it is unpacked up to a limit
        check_bytes(data, needed, there, compressed=packing != "raw")

    def load() -> Shaped[np.ndarray, "c z y x"]:
        with decoding(data, "whole voxels"):
            if packing == "raw":
                array = np.memmap(data, dtype, "r", begin, (count,))
            else:
                array = np.frombuffer(read(), dtype, count)
            x, y, z = sizes
            return np.moveaxis(array.reshape(z, y, x, channels), -1, 0)

    def read() -> bytes | bytearray:
        with opened(data, "the voxels of a volume") as file:
            file.seek(begin)
            if packing == "gzip":
                return unpacked(file, needed, data)
            if packing == "ascii":
                return np.array([float(n) for n in file.read().split()], dtype).tobytes()
            stream = bz2.BZ2Decompressor() if packing == "bzip2" else zlib.decompressobj()
            whole = stream.decompress(file.read(), needed)
        if len(whole) < needed:
            raise BadSample(
                f"{data}: expected {needed:,} bytes of voxels, found {len(whole):,} (cut short)."
            )
        return whole

    return load


def beside(path: AnyPath, name: str) -> str:
    """A data file named by a header: in the header's folder, nowhere else."""
    if Path(name).name != name or name.startswith("LIST") or "%" in name:
        raise BadSample(
            f"{path}: expected the voxels in one file beside the header, found {name!r}."
        )
    return str(Path(path).parent / name)
