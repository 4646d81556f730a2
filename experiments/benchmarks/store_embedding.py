"""`embed_to_store` beside a bare inference loop: the same batches, nothing kept but a list.

Rounds are paired; printed is the median over rounds of (store / bare), with smallest and largest.
"""

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

import torch
from torch.utils.data import DataLoader, Dataset

from multimask import MaskedModel, collate
from multimask.cli.embedding import embed_to_store
from multimask.cli.flags import from_command_line
from multimask.datasets.table import Table
from multimask.modalities.image import ImagePatches
from multimask.tokens import Batch, Sample


@dataclass(frozen=True)
class Config:
    """Embedding into a store against a bare loop over the same model."""

    samples: Annotated[int, "pictures of 3 x 64 x 64"] = 512
    batch_size: Annotated[int, "pictures at a time"] = 64
    width: Annotated[int, "of the encoder"] = 192
    depth: Annotated[int, "of the encoder"] = 12
    rounds: Annotated[int, "paired rounds"] = 5
    device: Annotated[str, "cpu or cuda"] = "cpu"


def bare(model: MaskedModel, table: Table, size: int) -> torch.Tensor:
    def together(samples: list[Sample]) -> Batch:
        return collate(samples, model.tokenizers)

    made, samples = [], cast(Dataset[Sample], table)
    with torch.no_grad():
        for batch in DataLoader(samples, size, collate_fn=together):
            made.append(model.encode(batch.to(model.device)).mean().cpu())
    return torch.cat(made)


def main(config: Config) -> None:
    torch.manual_seed(0)
    heads = config.width // 64
    kind = ImagePatches(64, patch=8)
    model = MaskedModel({"image": kind}, width=config.width, depth=config.depth, heads=heads)
    model.to(config.device).eval()
    pictures = torch.randint(256, (config.samples, 3, 64, 64), dtype=torch.uint8)
    ratios: dict[str, list[float]] = {"wall": [], "cpu": []}
    with tempfile.TemporaryDirectory() as name:
        table = Table.from_arrays(image=pictures).pack(Path(name) / "pictures")
        for number in range(config.rounds + 1):
            clocks = [(time.perf_counter(), time.process_time())]
            expected = bare(model, table, config.batch_size)
            clocks.append((time.perf_counter(), time.process_time()))
            made = embed_to_store(
                model,
                table,
                Path(name) / f"vectors{number}",
                batch_size=config.batch_size,
                device=config.device,
            )
            clocks.append((time.perf_counter(), time.process_time()))
            if number == 0:  # also fills caches
                vectors = torch.stack([made[row]["features"] for row in range(len(made))])
                torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-5)
                continue
            for at, clock in enumerate(ratios):
                first, second, third = (c[at] for c in clocks)
                ratios[clock].append((third - second) / (second - first))
    print(f"{config.samples} pictures, width {config.width}, depth {config.depth}, {config.device}")
    for clock, found in ratios.items():
        spread = f"{min(found):.3f} - {max(found):.3f}"
        print(f"{clock}: store / bare loop {statistics.median(found):.3f} ({spread})")


if __name__ == "__main__":
    main(from_command_line(Config))
