"""What a kind written outside the package costs: whole steps on sensor traces, tokenized by the
example plug-in of the tests and, in the same shapes, by the built-in image patches.

    python experiments/benchmarks/plugin_step.py --pairs 15
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from multimask.methods.mae import mae
from multimask.modalities.image import ImagePatches
from multimask.modality import Tokenizer, collate
from multimask.tokens import Step

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from plugin_sensor_traces import SensorTraces  # pyright: ignore[reportMissingImports]

SENSORS, STEPS, WINDOW = 6, 192, 8


class Run:
    """One model on one batch, a step at a time."""

    def __init__(self, tokenizer: Tokenizer, traces: Tensor) -> None:
        torch.manual_seed(0)
        self.recipe = mae(
            {"imu": tokenizer}, width=192, depth=4, heads=3, decoder_width=128, decoder_depth=2,
            decoder_heads=4,
        )  # fmt: skip
        self.samples = [{"id": str(row), "imu": trace} for row, trace in enumerate(traces)]
        parameters = self.recipe.model.parameters()
        self.optimizer = torch.optim.AdamW(parameters, fused=True)

    def seconds(self, index: int) -> float:
        start = time.perf_counter()
        model = self.recipe.model
        batch = collate(self.samples, model.tokenizers)
        loss = self.recipe.objective(model, batch, Step(0, 0, index))["imu"].value()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=32)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    traces = torch.rand(chosen.batch_size, SENSORS, STEPS)
    image = ImagePatches((SENSORS, STEPS), (1, WINDOW), 1)
    plugin = Run(SensorTraces(SENSORS, STEPS, WINDOW), traces)
    builtin = Run(image, traces[:, None])
    ratios = []
    for pair in range(chosen.pairs + 2):
        runs = (plugin, builtin) if pair % 2 else (builtin, plugin)
        taken = {run: run.seconds(pair) for run in runs}
        if pair >= 2:
            ratios.append(taken[builtin] / taken[plugin])
    print(
        f"plug-in runs at {statistics.median(ratios):.3f} of the built-in's speed "
        f"({min(ratios):.3f} to {max(ratios):.3f} in {len(ratios)} pairs)"
    )


if __name__ == "__main__":
    main()
