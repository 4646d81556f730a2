"""A volume file whose header has been read: its shape, its geometry, and how to get the voxels."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Num

from multimask.datasets.formats.files import AnyPath
from multimask.datasets.volumes import Affine, spacing_of
from multimask.tokens import BadSample

GZIP_AT_MOST = 1032  # deflate never shrinks data by more than this factor


@dataclass(frozen=True)
class Voxels:
    """shape: (channels, z, y, x) of what `load` returns, in the file's own numbers.

    Uncompressed files are mapped, not read: only what is cut out of the array is loaded. What a
    number means is `number * slope + intercept`. affine: voxel index (x, y, z) to mm, R+ A+ S+.
    facts: what else the header says, as named numbers and strings.
    """

    shape: tuple[int, int, int, int]
    affine: Affine
    dtype: str
    format: str
    load: Callable[[], Num[np.ndarray, "c z y x"]]
    slope: float = 1.0
    intercept: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """Named numbers and strings: what a table keeps of a file."""
        import nibabel  # takes a fifth of a second

        spacing = spacing_of(self.affine)
        report: dict[str, Any] = {"channels": self.shape[0]}
        report |= dict(zip(("z", "y", "x"), self.shape[1:], strict=True))
        names = ("spacing_z", "spacing_y", "spacing_x")
        report |= {n: round(mm, 5) for n, mm in zip(names, spacing, strict=True)}
        report["orientation"] = "".join(map(str, nibabel.aff2axcodes(self.affine)))
        return {**report, "dtype": self.dtype, "format": self.format, **self.facts}


def check_voxels(path: AnyPath, shape: tuple[int, ...], max_voxels: int) -> int:
    """How many voxels a header claims; BadSample when they are none or too many to hold."""
    count = math.prod(shape)
    size = " x ".join(f"{n:,}" for n in shape)
    if count <= 0 or min(shape) <= 0:
        raise BadSample(f"{path}: expected a size of at least 1 along every axis, found {size}.")
    if count > max_voxels:
        raise BadSample(
            f"{path}: expected at most {max_voxels:,} voxels, found {size} in the header; "
            "raise max_voxels if that is true."
        )
    return count


def check_bytes(path: AnyPath, needed: int, there: int, compressed: bool = False) -> None:
    """BadSample when a file cannot hold the bytes that its header claims. Nothing is allocated."""
    most = there * GZIP_AT_MOST if compressed else there
    if needed > most:
        held = f"{there:,} compressed bytes" if compressed else f"{max(there, 0):,} bytes"
        raise BadSample(
            f"{path}: expected {needed:,} bytes of voxels as the header says, found {held} "
            "(cut short, or a header that lies)."
        )
