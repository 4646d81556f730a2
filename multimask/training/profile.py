"""Where the time of a step goes: waiting for data, the host, the device; and what would help."""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch

SKIPPED = 3  # first steps: they fill caches and start workers


class StepProfile(L.Callback):
    """Times every step. On a GPU it waits for the device after each, so the run is a little slower
    while it is profiled. Ends with a table, advice, and `profile.json` if there is a folder."""

    def __init__(self, out: Path | None) -> None:
        self.out = out
        self.times: list[tuple[float, float, float]] = []  # data, host, device
        self.started = self.ended = 0.0

    def on_train_epoch_start(self, *args: Any, **kwargs: Any) -> None:
        self.ended = 0.0  # what lies between two epochs is no step's

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        returned = time.perf_counter()
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        now = time.perf_counter()
        if self.ended:
            self.times.append((self.started - self.ended, returned - self.started, now - returned))
        self.ended = now

    def on_train_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        times = self.times[SKIPPED:]
        if not trainer.is_global_zero or not times:
            return
        data, host, device = (statistics.mean(each) for each in zip(*times, strict=True))
        found = {"data": data, "host": host, "device": device}
        whole = sum(found.values())
        advised = advice(data / whole, device / whole, trainer.strategy.root_device.type)
        print(f"where a step goes, mean of {len(times)}:")
        for name, seconds in found.items():
            print(f"  {name:<8}{1000 * seconds:9.2f} ms {seconds / whole:7.1%}")
        print(f"  {advised}", flush=True)
        if self.out is not None:
            record = {f"{name}_seconds": seconds for name, seconds in found.items()}
            record |= {"steps": len(times), "advice": advised}
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / "profile.json").write_text(json.dumps(record, indent=1) + "\n")


def advice(data: float, device: float, place: str) -> str:
    """What the shares of data and device say.

    >>> advice(0.4, 0.0, "cpu")
    'Steps wait for data: more workers, or read from a packed store.'
    """
    if data > 0.1:
        return "Steps wait for data: more workers, or read from a packed store."
    if place == "cuda" and device < 0.3:
        return "The device waits for the host: a larger batch, or compile."
    return "Data keep up; the sums take the time."
