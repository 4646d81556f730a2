"""What a store costs beside raw files: random reads, a loader, packing. Prints a table of ratios.

Every round times all ways one after the other, so that a busy machine slows all alike; printed are
medians over rounds of each round's ratio, with the smallest and largest.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import zarr
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from multimask.cli.flags import from_command_line
from multimask.datasets.table import Table


@dataclass(frozen=True)
class Config:
    """Store against raw files."""

    pictures: Annotated[int, "arrays of 3 x 224 x 224 uint8"] = 1000
    volumes: Annotated[int, "arrays of 4 x 96^3 float16"] = 24
    files: Annotated[int, "JPEGs to copy and to pack"] = 10_000
    rounds: Annotated[int, "paired rounds"] = 5
    folder: Annotated[Path | None, "where files go; none: a temporary folder"] = None


@dataclass(frozen=True)
class Clock:
    """Seconds by the clock, and of this process's CPU."""

    wall: float
    cpu: float


def timed(do: Callable[[], Any]) -> Clock:
    wall, cpu = time.perf_counter(), time.process_time()
    do()
    return Clock(time.perf_counter() - wall, time.process_time() - cpu)


@dataclass(frozen=True)
class RawFiles(Dataset[torch.Tensor]):
    """One file of plain numbers a sample."""

    paths: Sequence[str]
    dtype: Any
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(np.fromfile(self.paths[index], self.dtype).reshape(self.shape))


@dataclass(frozen=True)
class Packed(Dataset[torch.Tensor]):
    """A table's samples, without their ids."""

    table: Table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.table[index]["x"]


def compare(rounds: int, ways: dict[str, Callable[[], Any]]) -> dict[str, list[Clock]]:
    found: dict[str, list[Clock]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, do in ways.items():
            clock = timed(do)
            if number:  # the first round fills caches
                found[name].append(clock)
    return found


def ratio(over: list[float], under: list[float]) -> str:
    values = sorted(a / b for a, b in zip(over, under, strict=True))
    return f"{np.median(values):6.2f} ({values[0]:.2f} - {values[-1]:.2f})"


def cpu(clocks: list[Clock]) -> list[float]:
    return [clock.cpu for clock in clocks]


def wall(clocks: list[Clock]) -> list[float]:
    return [clock.wall for clock in clocks]


def arrays(folder: Path, count: int, shape: tuple[int, ...], dtype: str) -> tuple[RawFiles, Table]:
    """The same numbers as raw files and as a store."""
    raw, paths = folder / "raw", []
    raw.mkdir(parents=True)
    numbers = np.random.default_rng(0)
    whole = []
    for index in range(count):
        sample = numbers.integers(0, 255, shape, dtype=np.uint8).astype(dtype)
        sample.tofile(raw / f"{index}")
        paths.append(str(raw / f"{index}"))
        whole.append(torch.from_numpy(sample))
    table = Table.from_arrays(x=torch.stack(whole)).pack(folder / "store")
    return RawFiles(paths, dtype, shape), table


def random_reads(
    name: str, folder: Path, count: int, shape: tuple[int, ...], dtype: str, rounds: int
) -> tuple[RawFiles, Table]:
    raw, table = arrays(folder, count, shape, dtype)
    order = np.random.default_rng(1).permutation(count).tolist()
    group: Any = zarr.open(str(folder / "store"), mode="r")
    some = order[: max(8, count // 20)]
    packed = Packed(table)
    for index in some[:4]:
        assert torch.equal(raw[index], packed[index])
        assert np.array_equal(raw[index], group["x/data"][index])
    array = group["x/data"]
    unread = [Packed(Table.open(folder / "store")) for _ in range(rounds + 1)]

    def first() -> list[torch.Tensor]:
        fresh = unread.pop()
        return [fresh[index] for index in order]  # kept, as those of the others are

    found = compare(
        rounds,
        {
            "raw": lambda: [raw[index] for index in order],
            "first": first,
            "store": lambda: [packed[index] for index in order],
            "zarr": lambda: [array[index] for index in some],
        },
    )
    theirs = [clock.cpu * len(order) / len(some) for clock in found["zarr"]]
    each = 1e6 * float(np.median(cpu(found["store"]))) / count
    print(
        f"{name:<34} CPU of store / raw file      {ratio(cpu(found['store']), cpu(found['raw']))}"
    )
    checked = ratio(cpu(found["first"]), cpu(found["raw"]))
    print(f"{name:<34} the same, first epoch (checks)  {checked}")
    print(f"{name:<34} CPU of zarr / store          {ratio(theirs, cpu(found['store']))}")
    print(f"{name:<34} store: {each:.0f} microseconds a sample")
    return raw, table


def loading(raw: RawFiles, table: Table, rounds: int) -> None:
    order = np.random.default_rng(2).permutation(len(raw)).tolist()

    def run(dataset: Dataset[torch.Tensor]) -> Callable[[], None]:
        def do() -> None:
            loader = DataLoader(dataset, 50, sampler=order, num_workers=2)
            for _ in loader:
                pass

        return do

    found = compare(rounds, {"raw": run(raw), "store": run(Packed(table))})
    print(f"{'loader, 2 workers':<34} speed of store / raw files   ", end="")
    print(ratio(wall(found["raw"]), wall(found["store"])))


def packing(folder: Path, count: int, rounds: int) -> None:
    originals = folder / "jpeg"
    originals.mkdir()
    numbers = np.random.default_rng(0)
    coarse = numbers.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    noise = numbers.normal(0, 8, (256, 256, 3))
    picture = np.asarray(Image.fromarray(coarse).resize((256, 256)), np.float64) + noise
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(originals / "0.jpg", quality=90)
    data = (originals / "0.jpg").read_bytes()
    for index in range(1, count):
        (originals / f"{index}.jpg").write_bytes(data)
    table = Table.open(originals)

    def copied() -> None:
        shutil.rmtree(folder / "copy", ignore_errors=True)
        (folder / "copy").mkdir()
        for index in range(count):
            shutil.copy(originals / f"{index}.jpg", folder / "copy" / f"{index}.jpg")

    def packed(workers: int) -> Callable[[], None]:
        def do() -> None:
            shutil.rmtree(folder / "jpeg.zarr", ignore_errors=True)
            table.pack(folder / "jpeg.zarr", workers=workers)

        return do

    found = compare(rounds, {"copy": copied, "alone": packed(0), "two": packed(2)})
    what = f"packing {count:,} JPEGs of {len(data) // 1024} KiB"
    for name, way in (("alone", "no workers"), ("two", "2 workers")):
        speed = ratio(wall(found["copy"]), wall(found[name]))
        print(f"{what:<34} speed of packing / copying   {speed}, {way}")


def main(config: Config) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=config.folder) as name:
        folder = Path(name)
        raw, table = random_reads(
            "3 x 224 x 224 uint8",
            folder / "a",
            config.pictures,
            (3, 224, 224),
            "uint8",
            config.rounds,
        )
        loading(raw, table, config.rounds)
        random_reads(
            "4 x 96^3 float16",
            folder / "b",
            config.volumes,
            (4, 96, 96, 96),
            "float16",
            config.rounds,
        )
        packing(folder, config.files, max(1, config.rounds - 2))


if __name__ == "__main__":
    main(from_command_line(Config))
