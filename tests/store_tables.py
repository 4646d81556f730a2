"""What tests of packed tables share: pictures and mixed tables to pack, and what equal means."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor

from multimask.datasets.table import Table
from multimask.datasets.volumes import Volume
from multimask.tokens import BadSample

SIZES = [(20, 30), (24, 18), (40, 40), (200, 310), (16, 16), (18, 17), (33, 20)]


def write_photographs(folder: Path) -> Path:
    """JPEGs and PNGs of several sizes in two folders, one of them empty (zero bytes)."""
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES):
        part = folder / "ab"[number % 2]
        part.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        suffix = "png" if number == 3 else "jpg"  # the PNG, noise, is larger than a cell
        Image.fromarray(pixels).save(part / f"{number}.{suffix}")
    (folder / "a" / "broken.jpg").touch()
    return folder


def mixed(rows: int = 7) -> Table:
    """Pictures, clouds of several sizes, and holes in both."""
    generator = Generator().manual_seed(0)
    pictures = torch.randint(256, (rows, 3, 8, 6), generator=generator, dtype=torch.uint8)
    clouds: list[Any] = [torch.rand(5 + 3 * row, 3, generator=generator) for row in range(rows)]
    clouds[2] = None
    return Table.from_arrays(
        image=[None if row == 4 else picture for row, picture in enumerate(pictures)],
        cloud=clouds,
        label=["x", "y", None, "x", "y", "x", "y"],
        age=[1, 2, 3, 4, 5, 6, 7],
        weight=[1.5, None, 2.0, 2.5, 3.0, 3.5, 4.0],
        split=["train"] * rows,
    )


def same(a: Any, b: Any) -> None:
    """Equal to the bit, records field by field."""
    if isinstance(a, Volume):
        assert isinstance(b, Volume)
        a, b = vars(a), vars(b)
    if isinstance(a, dict):
        assert set(a) == set(b)
        for name in a:
            same(a[name], b[name])
    elif isinstance(a, Tensor):
        assert isinstance(b, Tensor)
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    else:
        assert a == b
        assert type(a) is type(b)


def same_tables(a: Table, b: Table) -> None:
    """All samples equal; those that cannot be read cannot in either."""
    assert len(a) == len(b)
    for row in range(len(a)):
        try:
            wanted = a[row]
        except BadSample:
            with pytest.raises(BadSample):
                b[row]
            continue
        same(wanted, b[row])
