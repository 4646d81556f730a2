"""A request to end (SIGTERM, as schedulers send it before they kill): save, then exit."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch

from multimask.training.shell import Shell

EXIT = 128 + signal.SIGTERM


class Terminate(L.Callback):
    """Stops the run where `last.ckpt` can be written: after the step in progress; among several
    ranks at the next step that all report at, since they have to agree."""

    def __init__(self, shell: Shell) -> None:
        self.shell, self.asked, self.stopped = shell, False, False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Raises SystemExit (143) at its end if the run was asked to end. Only the main thread may
        listen to signals; elsewhere nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGTERM)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
        if self.stopped:
            raise SystemExit(EXIT)

    def on_train_start(self, *args: Any, **kwargs: Any) -> None:
        # in place of Lightning's handler, which would end the run before anything is saved
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.note)

    def note(self, *args: Any) -> None:
        self.asked = True

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.world_size > 1:
            if not trainer.is_last_batch and trainer.global_step % self.shell.run.log_every:
                return
            asked = torch.tensor(float(self.asked), device=self.shell.device)
            self.stopped = bool(self.shell.reduced(asked, "sum") > 0)
        else:
            self.stopped = self.asked
        if self.stopped:
            trainer.should_stop = True
