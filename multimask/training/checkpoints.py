"""`last.ckpt`: enough to go on as if nothing had happened, whole at every moment."""

import os
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint


class KeepLast(Checkpoint):
    """Written at every epoch's end, within epochs that take longer than `minutes`, and where the
    run stops early. A `Checkpoint` runs after the epoch's record is complete."""

    def __init__(self, file: Path, minutes: float = 10.0, look_every: int = 50) -> None:
        super().__init__()
        self.file, self.minutes, self.look_every = file, minutes, look_every
        self.written = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        # the last step of an epoch is saved when the epoch is over: validation is part of it
        if trainer.is_last_batch:
            return
        if trainer.should_stop:
            self.save(trainer)
        elif trainer.global_step % self.look_every == 0:
            old = time.monotonic() - self.written > 60 * self.minutes
            if trainer.strategy.broadcast(old):
                self.save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.is_last_batch:  # else the run stops within an epoch, and that is saved
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Under a temporary name, flushed to disk, renamed."""
        temporary = self.file.with_name(f".{self.file.name}.writing")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(self.file)
        self.written = time.monotonic()


class StopAfter(L.Callback):
    """Stops after so many optimiser steps, as an interruption would: schedules stay as they are."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step >= self.steps:
            trainer.should_stop = True
