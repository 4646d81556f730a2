"""`kill -9` at random moments of packing and embedding: what goes on ends in the same bytes."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from multimask import MaskedModel
from multimask.cli.embedding import embed_to_store
from multimask.datasets.table import Table
from multimask.modalities.image import ImagePatches

KILLS = [3, pytest.param(10, marks=pytest.mark.slow)]


def killed_after(seconds: float, do: Callable[[], Any]) -> bool:
    """Run in a process of its own, killed after a time; whether it was still at work by then."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            do()
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def files_of(folder: Path) -> dict[str, bytes]:
    found = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in found}


def hold(make: Callable[[Path], Any], tmp_path: Path, kills: int) -> None:
    """Kill `make(path)` at so many moments, never while it starts anew from a whole store."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    make(tmp_path / "whole")
    whole, seconds = files_of(tmp_path / "whole"), time.perf_counter() - start
    moments, path, hits = random.Random(kills), tmp_path / "killed", 0
    for _ in range(40 * kills):
        if (path / "zarr.json").exists():
            make(path)
            assert files_of(path) == whole
            shutil.rmtree(path)
        before = len(list(path.rglob("*.json")))
        hits += killed_after(moments.uniform(0.01, seconds / 2), lambda: make(path))
        print(f"kill {hits}: {before} notes before, {len(list(path.rglob('*.json')))} after")
        if hits == kills:
            break
    assert hits == kills
    make(path)
    assert files_of(path) == whole


@pytest.mark.parametrize("kills", KILLS)
@pytest.mark.parametrize("workers", [0, 2])
def test_packing_survives_kills(tmp_path: Path, kills: int, workers: int) -> None:
    numbers = np.random.default_rng(0)
    (tmp_path / "jpeg").mkdir()
    for index in range(120):
        pixels = numbers.integers(0, 256, (160 + index % 3, 200, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "jpeg" / f"{index}.jpg")
    table = Table.open(tmp_path / "jpeg")
    hold(
        lambda path: table.pack(path, workers=workers, rows_per_shard=4, image="arrays"),
        tmp_path,
        kills,
    )


@pytest.mark.parametrize("kills", KILLS)
def test_embedding_survives_kills(
    tmp_path: Path, kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multimask.datasets.store.VECTORS", 8)
    torch.manual_seed(0)
    model = MaskedModel({"image": ImagePatches(16, patch=4)}, width=48, depth=2, heads=3)
    table = Table.from_arrays(image=torch.randint(256, (160, 3, 16, 16), dtype=torch.uint8))
    hold(lambda path: embed_to_store(model, table, path, batch_size=3), tmp_path, kills)
