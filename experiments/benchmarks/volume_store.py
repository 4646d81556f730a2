"""Random crops of `.nii.gz` volumes: from a packed table against loading the file, paired.

A packed table (`Table.pack`) keeps unpacked voxels in chunks, and a crop reads only the chunks that
it touches; a gzip file must be unpacked whole. Volumes are generated (smooth structure, noise,
int16), written as `.nii.gz`, and packed once. Every round draws the same crops from all of them in
turn; they must be equal voxel by voxel. A ratio above 1 says that the packed table is faster.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Generator, Tensor

from multimask.cli.flags import run
from multimask.datasets.formats.nifti import write_nifti
from multimask.datasets.formats.volumes import VolumeReader
from multimask.datasets.stores.plan import Packing
from multimask.datasets.table import Table
from multimask.datasets.volume_transforms import Crop, Orient
from multimask.datasets.volumes import new_volume


@dataclass(frozen=True)
class Config:
    """Time random crops of packed volumes against crops of loaded .nii.gz files."""

    size: Annotated[int, "voxels a side of a volume"] = 160
    crop: Annotated[int, "voxels a side of a crop"] = 64
    chunk: Annotated[int, "voxels a side of a packed piece"] = 32
    volumes: Annotated[int, "how many"] = 4
    rounds: Annotated[int, "paired rounds; medians are over them"] = 7


def main(config: Config) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = written(Path(folder), config)
        whole = VolumeReader(transforms=(Orient(),))
        boxes = VolumeReader(transforms=(Orient(), Crop(config.crop)))
        table = Table.of({"scan": [file.name for file in files]}, {"scan": whole}, folder)
        started = time.perf_counter()
        chunks = (1, *(config.chunk,) * 3)
        packed = table.pack(Path(folder) / "scans.zarr", scan=Packing("arrays", chunks=chunks))
        packed = packed.with_readers(scan=VolumeReader(transforms=(Crop(config.crop),)))
        print(
            f"{len(files)} volumes of {config.size}^3, crops of {config.crop}^3, packed in "
            f"{time.perf_counter() - started:.1f} s"
        )
        compare(config, packed, table.with_readers(scan=boxes), files)


def written(folder: Path, config: Config) -> list[Path]:
    from scipy.ndimage import zoom

    files = []
    for number in range(config.volumes):
        random = np.random.default_rng(number)
        coarse = random.normal(size=(1 + config.size // 8,) * 3)
        smooth = zoom(coarse, 8, order=1)[: config.size, : config.size, : config.size]
        noisy = 500 + 200 * smooth + random.normal(0, 15, (config.size,) * 3)
        files.append(folder / f"{number}.nii.gz")
        write_nifti(files[-1], new_volume(np.asarray(noisy[None])), dtype="int16")
    return files


def compare(config: Config, packed: Table, loaded: Table, files: list[Path]) -> None:
    ways: dict[str, Callable[[int, int], Tensor]] = {
        "packed table": lambda row, seed: drawn(packed, row, seed),
        "our reader, then crop": lambda row, seed: drawn(loaded, row, seed),
        "nibabel, then crop": lambda row, seed: by_nibabel(files[row], config.crop, seed),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-1, config.rounds):  # the first warms up, and is where crops are compared
        for row in range(len(files)):
            crops = []
            for name, way in ways.items():
                start = time.perf_counter()
                crops.append(way(row, turn))
                if turn >= 0:
                    seconds[name].append(time.perf_counter() - start)
            assert all(torch.equal(crops[0], other) for other in crops), "not the same crops"
    ours = seconds["packed table"]
    print("                          ms a crop   ratio to the packed table (min - max)")
    for name, taken in seconds.items():
        ratios = [b / a for a, b in zip(ours, taken, strict=True)]
        print(
            f"{name:24s} {1000 * statistics.median(taken):10.2f}   "
            f"{statistics.median(ratios):.1f} ({min(ratios):.1f} - {max(ratios):.1f})",
            flush=True,
        )


def drawn(table: Table, row: int, seed: int) -> Tensor:
    return table.draw(row, Generator().manual_seed(seed + 1))["scan"].data


def by_nibabel(file: Path, crop: int, seed: int) -> Tensor:
    import nibabel

    image: Any = nibabel.load(file)
    data = torch.from_numpy(image.get_fdata(dtype=np.float32).transpose(2, 1, 0))
    # the numbers that a table draws for a crop
    own = int(torch.randint(2**62, (1,), generator=Generator().manual_seed(seed + 1)))
    share = torch.rand(3, generator=Generator().manual_seed(own)).tolist()
    z, y, x = (
        slice(start, start + crop)
        for start in (
            min(int(s * (n - crop + 1)), n - crop) for s, n in zip(share, data.shape, strict=True)
        )
    )
    return data[None, z, y, x].contiguous()


if __name__ == "__main__":
    raise SystemExit(run(main, Config))
