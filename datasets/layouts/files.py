"""What public sets bring beside their samples: lists of names, arrays of labels."""

from pathlib import Path

import numpy as np
from jaxtyping import Int


def lines_of(file: Path) -> list[str]:
    """The lines of a list that are not blank. ValueError where the list cannot be read."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{file}: expected a list of names, a line each; cannot read it."
        ) from error
    return [line.strip() for line in lines if line.strip()]


def hdf5_numbers(file: Path, name: str) -> Int[np.ndarray, " n"]:
    """A whole-number dataset of an HDF5 file, flat. ValueError where there is none."""
    try:
        import h5py  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            f"{file}: HDF5 files need h5py: pip install 'multimask[points]'."
        ) from error
    try:
        with h5py.File(file, "r") as opened:
            numbers = np.asarray(opened[name]).reshape(-1)
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{file}: expected an HDF5 file with a dataset {name!r}, found none."
        ) from error
    if numbers.dtype.kind not in "ui":
        raise ValueError(f"{file}: {name!r} holds {numbers.dtype}, expected whole numbers.")
    return numbers.astype(np.int64)
