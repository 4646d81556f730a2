"""Progress: a bar over the whole run on a terminal, and a line an epoch everywhere."""

import math
import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from multimask.training.shell import Shell

SHORT = {"loss": "loss", "loss_val": "val", "knn": "knn"}


class Progress(TQDMProgressBar):
    """The bar counts samples, so that its rate is samples per second and its time left that of the
    run. Every epoch leaves one line, also where there is no terminal and no bar."""

    FORMAT = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}, {rate_fmt}{postfix}"

    def __init__(self, shell: Shell) -> None:
        super().__init__()
        self.shell, self.epochs = shell, shell.run.epochs
        self.began, self.first = time.monotonic(), 0
        self.lines = 0  # epochs told

    def init_train_tqdm(self) -> Tqdm:
        run = self.shell.run
        return self.bar(
            total=self.epochs * run.steps_per_epoch * run.batch_size,
            initial=self.trainer.global_step * run.batch_size,
            unit=" samples",
            unit_scale=True,
            disable=self.is_disabled or not sys.stdout.isatty(),
        )

    def init_validation_tqdm(self) -> Tqdm:
        return self.bar(disable=True)

    def bar(self, **how: Any) -> Tqdm:
        return Tqdm(leave=False, dynamic_ncols=True, file=sys.stdout, bar_format=self.FORMAT, **how)

    def on_train_start(self, *args: Any, **kwargs: Any) -> None:
        super().on_train_start()
        self.began, self.first = time.monotonic(), self.trainer.global_step
        self.lines = len(self.shell.tape.epochs)

    def on_train_epoch_start(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self.tell()
        number = min(trainer.global_step // self.shell.run.steps_per_epoch + 1, self.epochs)
        self.train_progress_bar.set_description(f"epoch {number}/{self.epochs}", refresh=False)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        bar = self.train_progress_bar
        if not bar.disable:
            if trainer.global_step % self.shell.run.log_every == 1:
                bar.set_postfix_str(f"loss {self.shell.tape.running:.4g}", refresh=False)
            bar.update(self.shell.run.batch_size)

    def on_train_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the epoch's record is not complete yet."""

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.tell()
        super().on_train_end()

    def on_validation_end(self, *args: Any, **kwargs: Any) -> None:
        self.val_progress_bar.close()

    def tell(self) -> None:
        """A line for every epoch that has none yet."""
        if self.is_disabled:  # Lightning does so on all ranks but the first
            return
        for record in self.shell.tape.epochs[self.lines :]:
            parts = [f"epoch {record['epoch'] + 1:.0f}/{self.epochs}"]
            parts += [
                f"{short} {record[name]:.4g}" for name, short in SHORT.items() if name in record
            ]
            speed, left = record["samples_per_second"], self.left()
            parts += [f"{speed:.0f} samples/s", f"{left} left"]
            self.train_progress_bar.write("  ".join(parts), file=sys.stdout)
        self.lines = len(self.shell.tape.epochs)

    def left(self) -> str:
        done = self.trainer.global_step - self.first
        rest = self.epochs * self.shell.run.steps_per_epoch - self.trainer.global_step
        seconds = math.ceil((time.monotonic() - self.began) / max(done, 1) * rest)
        return Tqdm.format_interval(seconds)
