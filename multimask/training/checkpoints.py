"""`last.ckpt`: enough to go on as if nothing had happened, whole at every moment."""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from multimask.training.shell import Shell


@dataclass(frozen=True)
class Checkpoints:
    """When checkpoints are written, and which stay. `last.ckpt` is written at every epoch's end,
    where a run stops early, and within epochs as said here.

    minutes: at most so many pass between two. steps: also after every so many optimiser steps.
    keep: so many of the latest stay beside `last.ckpt`, as `step-00000123.ckpt`.
    best: the epoch with the lowest held-out loss (without held-out rows: training loss) stays as
    `best.ckpt`.
    """

    minutes: float = 10.0
    steps: int | None = None
    keep: int = 0
    best: bool = False

    def __post_init__(self) -> None:
        if not self.minutes > 0 or self.keep < 0 or (self.steps is not None and self.steps < 1):
            raise ValueError(
                f"Checkpoints: minutes={self.minutes} must be positive, keep={self.keep} at least "
                f"0, and steps={self.steps} at least 1 or None."
            )


class KeepCheckpoints(Checkpoint):
    """Writes them. A `Checkpoint` runs after the epoch's record is complete."""

    def __init__(self, shell: Shell, folder: Path, when: Checkpoints) -> None:
        super().__init__()
        self.shell, self.folder, self.when = shell, folder, when
        self.look_every = 50  # steps between two looks at the clock, which ranks must agree on
        self.written = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        # the last step of an epoch is saved when the epoch is over: validation is part of it
        if trainer.is_last_batch:
            return
        steps = self.when.steps
        if trainer.should_stop or (steps is not None and trainer.global_step % steps == 0):
            self.save(trainer)
        elif trainer.global_step % self.look_every == 0:
            old = time.monotonic() - self.written > 60 * self.when.minutes
            if trainer.strategy.broadcast(old):
                self.save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.is_last_batch:  # else the run stops within an epoch, and that is saved
            self.save(trainer)
            if self.when.best and trainer.is_global_zero and self.is_best():
                self.link(self.folder / "best.ckpt")

    def save(self, trainer: L.Trainer) -> None:
        """Under a temporary name, flushed to disk, renamed."""
        last = self.folder / "last.ckpt"
        temporary = last.with_name(f".{last.name}.writing")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(last)
            if self.when.keep:
                self.link(self.folder / f"step-{trainer.global_step:08d}.ckpt")
                for old in sorted(self.folder.glob("step-*.ckpt"))[: -self.when.keep]:
                    old.unlink()
        self.written = time.monotonic()

    def is_best(self) -> bool:
        """Whether the epoch that ended has the lowest loss so far. All are in the record, also
        those before a resume."""
        found = [record.get("loss_val", record.get("loss")) for record in self.shell.tape.epochs]
        known = [loss for loss in found if loss is not None]
        return bool(known) and found[-1] == min(known)

    def link(self, name: Path) -> None:
        """`last.ckpt` under another name as well, whole at every moment. `last.ckpt` is replaced,
        never written into, so both may be one file."""
        last, temporary = self.folder / "last.ckpt", name.with_name(f".{name.name}.writing")
        temporary.unlink(missing_ok=True)
        try:
            temporary.hardlink_to(last)
        except OSError:  # a file system without links
            shutil.copyfile(last, temporary)
        temporary.replace(name)


class StopAfter(L.Callback):
    """Stops after so many optimiser steps, as an interruption would: schedules stay as they are."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step >= self.steps:
            trainer.should_stop = True
