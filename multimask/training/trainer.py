"""Lightning's Trainer, set up for us, and one run of it."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from torch.utils.data import DataLoader

from multimask.training import hardware
from multimask.training.checkpoints import Checkpoints, KeepCheckpoints
from multimask.training.layers import recomputed
from multimask.training.quiet import quiet
from multimask.training.shell import Shell
from multimask.training.termination import Terminate

NAMES: dict[str, Any] = {
    "32": "32-true",
    "tf32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


def trainer_for(
    shell: Shell,
    place: torch.device,
    precision: hardware.Precision,
    clip: float | None,
    out: Path | None,
    loggers: Sequence[Logger],
    callbacks: Sequence[L.Callback],
    checkpoints: Checkpoints,
    resumed: bool,
) -> L.Trainer:
    """Ours are the checkpoints and the CSV log, if there is a folder for them."""
    callbacks, loggers = list(callbacks), list(loggers)
    if out is not None:
        callbacks.append(KeepCheckpoints(shell, out / "checkpoints", checkpoints))
        part = next_part(out / "log") if resumed else ""
        loggers.append(CSVLogger(out, "log", part, flush_logs_every_n_steps=1))
    with quiet():
        return L.Trainer(
            max_epochs=shell.run.epochs,
            precision=NAMES[precision],
            gradient_clip_val=clip,
            logger=loggers or False,
            callbacks=callbacks,
            log_every_n_steps=shell.run.log_every,
            default_root_dir=out or os.getcwd(),
            enable_checkpointing=any(isinstance(each, Checkpoint) for each in callbacks),
            enable_progress_bar=any(isinstance(each, ProgressBar) for each in callbacks),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # ours knows about ranks
            inference_mode=False,  # a table cached in that mode could not be trained with later
            **hardware.placement(place, shell.run.strategy),
        )


def next_part(log: Path) -> str:
    """A resumed run's own folder within the log: what was logged before stays."""
    numbers = range(1, 10**6)
    return next(name for n in numbers if not (log / (name := f"resumed-{n}")).exists())


def carry_out(
    trainer: L.Trainer,
    shell: Shell,
    terminate: Terminate,
    loaders: Sequence[DataLoader[Any]],
    place: torch.device,
    precision: hardware.Precision,
    compile: bool,
    recompute: bool,
    resume: Path | None,
) -> None:
    """Train. Torch's generators, its precision and the interrupt key are afterwards as before."""
    model = shell.model
    with ExitStack() as around:
        around.enter_context(quiet())
        around.enter_context(hardware.numbers(precision))
        around.enter_context(recomputed([model.encoder, model.decoder], recompute))
        around.enter_context(hardware.compiled([model.encoder, model.decoder], compile))
        devices = [place] if place.type == "cuda" else []
        around.enter_context(torch.random.fork_rng(devices))
        around.enter_context(terminate.listening())
        around.enter_context(interruptible())
        shell.train()
        try:
            held = loaders[1] if len(loaders) > 1 else None
            trainer.fit(shell, loaders[0], held, ckpt_path=resume, weights_only=True)
        finally:
            shell.eval()


@contextmanager
def interruptible() -> Iterator[None]:
    """An interrupt is KeyboardInterrupt; Lightning makes it an exit, and ignores all later ones."""
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)
