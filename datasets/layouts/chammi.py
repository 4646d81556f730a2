"""CHAMMI: single cells from three microscopy collections with 3, 4 and 5 channels.

Chen et al., NeurIPS 2023 (data and benchmarks track). `morphem70k_v2.csv` with `file_path`,
`chunk`, `train_test_split` and `label`; pictures are tapes, channels side by side along the width.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Generator

from multimask.datasets.formats.cubes import Box
from multimask.datasets.formats.files import decoding, opened
from multimask.datasets.formats.geotiff import open_tiff_cube
from multimask.datasets.formats.spectral import cropped, flipped
from multimask.datasets.table import Table
from multimask.tokens import BadSample

LISTING = "morphem70k_v2.csv"
CHANNELS = {
    "Allen": ("nucleus", "membrane", "protein"),
    "HPA": ("microtubules", "protein", "nucleus", "er"),
    "CP": ("nucleus", "er", "rna", "agp", "mito"),
}
NAMES = tuple(f"{chunk}/{name}" for chunk, names in CHANNELS.items() for name in names)
WHAT = "a tape of channels"


@dataclass(frozen=True)
class ChannelTape:
    """Read a tape, `(height, channels x width)`, as `pixels (channels, height, width)` in 0..1 and
    `names` such as "CP/rna" (`NAMES` lists them all, for the tokenizer).

    The collection is the last folder of the path that is named like one. Args: size, flips as
    `SpectralReader`. Raises: BadSample.
    """

    size: int | tuple[int, int] | None = None
    flips: bool = True

    suffixes = (".png", ".tif", ".tiff")

    def probe(self, source: str) -> dict[str, Any]:
        channels, tape = self.tape(source)
        height, width = tape.shape[0], tape.shape[1] // len(channels)
        return {"bands": len(channels), "height": height, "width": width, "dtype": str(tape.dtype)}

    def read(self, source: str, generator: Generator | None = None) -> dict[str, Any]:
        channels, tape = self.tape(source)
        pixels = np.stack(np.split(tape, len(channels), axis=1)).astype(np.float32)
        if tape.dtype.kind == "u":
            pixels /= np.iinfo(tape.dtype).max
        cube = torch.from_numpy(pixels)
        if self.size is not None:
            box = cropped(source, Box(0, 0, *cube.shape[1:]), self.size, generator)
            cube = cube[:, box.top : box.top + box.height, box.left : box.left + box.width]
        if generator is not None and self.flips:
            cube = flipped(cube, generator)
        return {"pixels": cube.contiguous(), "names": channels}

    def tape(self, path: str) -> tuple[tuple[str, ...], np.ndarray]:
        chunk = next((part for part in reversed(Path(path).parts) if part in CHANNELS), None)
        if chunk is None:
            raise BadSample(f"{path}: expected a path through {', '.join(CHANNELS)}, found none.")
        names = tuple(f"{chunk}/{name}" for name in CHANNELS[chunk])
        if Path(path).suffix.lower() == ".png":
            with opened(path, WHAT) as file, decoding(path, WHAT):
                tape = np.asarray(Image.open(file))
        else:
            cube = open_tiff_cube(path)
            tape = cube.read(cube.whole, [0])[0]
        if tape.ndim != 2 or tape.shape[1] % len(names):
            raise BadSample(
                f"{path}: expected {len(names)} channels of one width side by side, found "
                f"{tape.shape}."
            )
        return names, tape


def chammi(folder: str | Path, reader: ChannelTape = ChannelTape()) -> Table:
    """Columns `cell`, `label`, `split` ("train", or the name of a test task), `source`
    (collection), `id`.

    Raises: ValueError where the listing is missing or lacks a column.
    """
    listing = Path(folder) / LISTING
    if not listing.is_file():
        raise ValueError(f"{folder}: expected the file {LISTING}, found none.")
    with open(listing, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lacking = {"file_path", "chunk", "train_test_split", "label"} - set(rows[0] if rows else ())
    if lacking:
        raise ValueError(f"{listing}: expected rows with {', '.join(sorted(lacking))}, found none.")
    columns = {
        "cell": [row["file_path"] for row in rows],
        "label": [row["label"] for row in rows],
        "split": [row["train_test_split"].lower() for row in rows],
        "source": [row["chunk"] for row in rows],
        "id": [row["file_path"] for row in rows],
    }
    return Table.of(columns, {"cell": reader}, folder)


def write_fake(folder: str | Path, per_source: int = 3, size: int = 32) -> None:
    """Made tapes in the same folders, TIFF for Allen and PNG for the others."""
    rng, rows = np.random.default_rng(0), []
    for chunk, names in CHANNELS.items():
        where = Path(folder) / chunk / "images"
        where.mkdir(parents=True, exist_ok=True)
        for number in range(per_source):
            tape = rng.integers(0, 256, (size, size * len(names)), dtype=np.uint8)
            name = f"{number}.{'tiff' if chunk == 'Allen' else 'png'}"
            Image.fromarray(tape).save(where / name)
            split = ("Train", "Task_one", "Task_two")[number % 3]
            rows.append([f"{chunk}/images/{name}", chunk, split, f"class {number % 2}"])
    with open(Path(folder) / LISTING, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file_path", "chunk", "train_test_split", "label"])
        writer.writerows(rows)
