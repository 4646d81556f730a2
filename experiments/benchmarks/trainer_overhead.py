"""What `fit` costs beside the sums: its steps against those of a bare loop, step by step in turn.

Both sides train twins (the same weights) on the same batches from loaders of their own: reading,
collating and masking are part of a step on both sides. A step of `fit` has all that a run has:
checkpoints, CSV log, progress line, records, checks; the bare one is forward, backward, AdamW and
schedule. After every step of fit one step of the loop runs, so both meet the same load. Wall-clock
time is what counts; on a busy machine the processor time of this process is the steadier number.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import lightning as L
import numpy as np
import torch

from multimask import Step
from multimask.cli.flags import run
from multimask.methods.mae import mae
from multimask.methods.recipe import Recipe
from multimask.modalities.image import ImagePatches
from multimask.tokens import Sample
from multimask.training import EpochSampler, fit
from multimask.training.collate import Collate, Window, Windows
from multimask.training.loader import loader
from multimask.training.optimiser import Schedule, adamw, scheduled
from multimask.training.reading import Reading, as_samples

ROWS = 2048  # samples, held in memory
WARM = 20  # steps that are not counted


@dataclass(frozen=True)
class Config:
    """Time steps of fit against a bare loop, at ViT-Tiny on 32 x 32 pixels in patches of 4."""

    steps: Annotated[int, "steps that are timed, on each side"] = 200
    batch: Annotated[int, "samples a step"] = 32
    workers: Annotated[int, "processes that read data, on each side"] = 0
    threads: Annotated[int, "CPU threads; 0 leaves torch's own choice"] = 0

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError("steps must be at least 2")


def main(config: Config) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)
    samples = pictures()
    bare = BareLoop(twin(), samples, config)
    timer = InTurn(bare)
    trained = twin()
    with tempfile.TemporaryDirectory() as out:
        fit(
            trained.model,
            trained.objective,
            samples,
            epochs=-(-(config.steps + WARM) * config.batch // ROWS) + 1,
            batch_size=config.batch,
            limit_steps=config.steps + WARM,
            workers=config.workers,
            device="cpu",
            out=Path(out),
            callbacks=[timer],
            **trained.training,
        )
    assert same(trained, bare.recipe), "not the same sums: the twins' weights differ"
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {config.steps} steps a side"
    )
    print("clock       fit ms  bare ms  ratio of medians  median ratio (quartiles)")
    for index, clock in enumerate(("wall", "processor")):
        whole, bare = ([each[index] for each in side[WARM:]] for side in (timer.whole, timer.bare))
        ratios = [a / b for a, b in zip(whole, bare, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        fitted, plain = statistics.median(whole), statistics.median(bare)
        print(
            f"{clock:10s} {1000 * fitted:7.2f}  {1000 * plain:7.2f}  {fitted / plain:16.4f}  "
            f"{middle:12.4f} ({low:.4f} - {high:.4f})"
        )


Moment = tuple[float, float]  # seconds of wall-clock and of processor time


def now() -> Moment:
    return time.perf_counter(), time.process_time()


def since(start: Moment, end: Moment) -> Moment:
    return end[0] - start[0], end[1] - start[1]


class BareLoop:
    """The step that anybody would write."""

    def __init__(self, recipe: Recipe, samples: list[Sample], config: Config) -> None:
        self.recipe, model, objective = recipe, recipe.model.train(), recipe.objective
        how = recipe.training
        epochs = -(-(config.steps + WARM) * config.batch // ROWS) + 1
        total = epochs * (ROWS // config.batch)
        peak = how["lr"] * config.batch / how["lr_per"]
        self.optimizer = adamw([model, objective], peak, how["betas"], how["weight_decay"])
        schedule = Schedule(peak, total, int(how["warmup"] * total))
        self.scheduler = scheduled(self.optimizer, schedule)
        self.batch_size, self.workers = config.batch, config.workers
        self.samples, self.done, self.losses = samples, 0, []
        self.windows = self.endless()

    def endless(self) -> Iterator[Window]:
        collate = Windows(Collate.of(self.recipe.model, self.recipe.objective.masker))
        reading = Reading(as_samples(self.samples))
        sampler = EpochSampler(np.arange(ROWS), self.batch_size, trained=lambda: self.done)
        batches = loader(reading, sampler, collate, self.workers)
        while True:
            yield from batches

    def __call__(self) -> None:
        (batch,) = next(self.windows)
        step = Step(0, self.done // (ROWS // self.batch_size), self.done)
        terms = self.recipe.objective(self.recipe.model, batch, step)
        loss = torch.stack([term.value() for term in terms.values()]).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.losses.append(loss.item())
        self.done += 1


class InTurn(L.Callback):
    """After every step of fit one of the bare loop; notes how long each took."""

    def __init__(self, bare: BareLoop) -> None:
        self.step = bare
        self.whole: list[Moment] = []
        self.bare: list[Moment] = []
        self.ended = now()

    def on_train_start(self, *args: Any, **kwargs: Any) -> None:
        self.ended = now()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        start = now()
        self.whole.append(since(self.ended, start))
        self.step()
        self.ended = now()
        self.bare.append(since(start, self.ended))


def twin() -> Recipe:
    torch.manual_seed(0)
    return mae(
        {"photo": ImagePatches(32, 4)},
        arch="tiny",
        decoder_width=128,
        decoder_depth=2,
        decoder_heads=4,
    )


def same(one: Recipe, other: Recipe) -> bool:
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)


def pictures() -> list[Sample]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (ROWS, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return [{"id": str(index), "photo": pixels} for index, pixels in enumerate(noise)]


if __name__ == "__main__":
    raise SystemExit(run(main, Config))
