"""fit: train any model with any objective on any samples."""

import logging
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from multimask.masking.masker import Masker
from multimask.model import MaskedModel
from multimask.objectives.base import Objective
from multimask.tokens import Sample, Samples
from multimask.training import hardware, sharding
from multimask.training.checkpoints import Checkpoints, StopAfter
from multimask.training.loader import ReadAlike, loaders
from multimask.training.missing import foreseen, settled, subsets_seen, told
from multimask.training.neighbours import Neighbours
from multimask.training.profile import StepProfile
from multimask.training.progress import Progress
from multimask.training.result import FitResult
from multimask.training.rows import Chosen, chosen_rows
from multimask.training.run import Run
from multimask.training.shell import Shell
from multimask.training.snapshots import Snapshots, draw_curves
from multimask.training.tape import Tape
from multimask.training.termination import Terminate
from multimask.training.trainer import carry_out, trainer_for
from multimask.training.weighting import weighed

log = logging.getLogger("multimask")

PICTURED = 4  # samples in reconstructions.png


def fit(
    model: MaskedModel,
    objective: Objective,
    samples: Samples | Sequence[Sample],
    *,
    epochs: int,
    batch_size: int,
    out: str | Path | None = None,
    validation: Samples | Sequence[Sample] | float | None = None,
    lr: float = 1e-3,
    lr_per: int | None = 256,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.05,
    warmup: float | int = 0.05,
    min_lr: float = 0.0,
    clip: float | None = None,
    accumulate: int = 1,
    precision: hardware.Precision = "32",
    device: str = "auto",
    strategy: hardware.Strategy = "ddp",
    workers: int = 0,
    seed: int = 0,
    compile: bool = False,
    recompute: bool = False,
    checkpoints: Checkpoints = Checkpoints(),  # noqa: B008 - frozen
    profile: bool = False,
    max_bad: float = 0.2,
    max_visible_share: float = 0.75,
    drop_below: float | None = None,
    weights: str | None = None,
    balanced: str | None = None,
    online_knn: str | None = None,
    pictures: bool = True,
    loggers: Sequence[Any] = (),
    callbacks: Sequence[L.Callback] = (),
    limit_steps: int | None = None,
    resume: str | Path | None = None,
    progress: bool = True,
) -> FitResult:
    """Train the model, and what the objective owns, in place; it comes back in eval mode.

    On a CPU the result is a function of the initial weights, the samples and `seed`: workers,
    micro-batches and ranks change at most the rounding of sums. For several ranks start the
    program with `torchrun`. Into `out` go `checkpoints/last.ckpt`, `log/metrics.csv`,
    `log/skipped.csv` where samples were left out, `reconstructions.png`, `pictures/` and
    `curves.png`. On SIGTERM the run writes `last.ckpt` and exits with status 143.

    Args:
        batch_size: samples of one optimiser step, all ranks and micro-batches together. What is
            left over at the end of an epoch is not trained on in that epoch.
        validation: samples held out, or the share of rows to hold out. They are read without
            augmentation and masked alike every time; gives `loss_val`.
        lr, lr_per: peak learning rate for a batch of `lr_per` samples, scaled to `batch_size`;
            `lr_per=None` takes lr as it is. min_lr: where its half cosine ends.
        warmup: share of all steps (float) or number of steps (int) with rising learning rate.
        clip: largest norm of all gradients together.
        accumulate: micro-batches that a rank cuts its share of a batch into. They add up to the
            whole batch, but for terms whose counts only the device knows: these are averaged (see
            `Objective.counts`).
        precision: "bf16", "fp16" and "tf32" only where the hardware has them.
        strategy: among several ranks "ddp" keeps all weights on each; "fsdp" shards those of the
            layers, and their optimiser state. The result is the same.
        compile: encoder and decoder, in place.
        recompute: compute their layers again in the backward pass instead of keeping what lies
            between (activation checkpointing): less memory for about a third more time.
        checkpoints: when they are written to `out`, and which stay.
        profile: end with a table of where steps spend their time, and `profile.json`.
        max_bad: share of samples that may be unusable; they are skipped and listed.
        max_visible_share: where rows lack modalities, the largest share of the shortest row's
            tokens that stays visible (see `multimask.training.settled`).
        drop_below: leave out rows that have less than this share of all tokens.
        weights: a column of numbers; rows are drawn in proportion, as many in an epoch as there are
            rows. balanced: a column, such as a label, whose values are drawn equally often. Samples
            that are a `Mixture` are drawn by its ratio.
        online_knn: a label; adds the kNN accuracy of held-out rows (without any: of one half of the
            training rows, by the other) to each epoch's record.
        limit_steps: stop after so many steps in all, as if interrupted.
        resume: a `last.ckpt` to go on from, also one from within an epoch; what follows is what
            would have followed. Model, objective, samples, batch_size, seed and weights must be the
            same.
    Raises: ValueError for arguments that cannot be; `TrainingError` (one, too) for a loss that is
        not finite and for too many bad samples.
    """
    place = hardware.chosen_device(device)
    hardware.check_precision(precision, place)
    hardware.check_strategy(strategy)
    check(epochs, batch_size, accumulate, lr, max_bad, max_visible_share)
    folder, since = None if out is None else Path(out), checkpoint(resume)
    train, held = chosen_rows(samples, validation, seed, model.slots, drop_below)
    train = weighed(train, weights, balanced, batch_size)
    run = Run(
        seed=seed,
        batch_size=batch_size,
        num_rows=len(train.rows),
        data=train.fingerprint(),
        weights=0 if train.weights is None else zlib.crc32(train.weights.tobytes()),
        steps_per_epoch=max(1, len(train.rows) // batch_size),
        epochs=epochs,
        lr=lr if lr_per is None else lr * batch_size / lr_per,
        betas=betas,
        weight_decay=weight_decay,
        warmup=warmup,
        min_lr=min_lr,
        strategy=strategy,
        fused=not (precision == "fp16" and clip),  # its unscaling comes too late for clipping
    )
    with fitting(objective, model, train, held, max_visible_share) as masker:
        learner = (model, objective)
        if strategy == "fsdp":
            learner = sharding.twins(learner)
        shell = Shell(*learner, run, Tape(max_bad))
        alike = ReadAlike.of(held or train, model, masker, seed)
        data = loaders(
            shell, train, alike if held else None, accumulate, workers, place.type == "cuda"
        )
        watching: list[L.Callback] = [*callbacks]
        if online_knn is not None:
            watching.append(Neighbours.of(shell, train, held, online_knn, batch_size // accumulate))
        if folder is not None and pictures and masker is not None:
            watching.append(Snapshots(shell, alike.first(PICTURED), masker, folder, epochs))
        if progress:
            watching.append(Progress(shell))
        if limit_steps is not None:
            watching.append(StopAfter(limit_steps))
        if profile:
            watching.append(StepProfile(folder))
        watching.append(terminate := Terminate(shell))
        trainer = trainer_for(
            shell, place, precision, clip, folder, loggers, watching, checkpoints, since is not None
        )
        hardware.forget_peak(place)
        try:
            carry_out(trainer, shell, terminate, data, place, precision, compile, recompute, since)
        finally:
            leave(shell, folder, pictures)
        if strategy == "fsdp":
            sharding.bring_back((model, objective), learner)
            model.eval()
            objective.eval()
        note_subsets(model, masker, train)
        return result(shell, masker, place)


def check(
    epochs: int,
    batch_size: int,
    accumulate: int,
    lr: float,
    max_bad: float,
    max_visible_share: float,
) -> None:
    if min(epochs, batch_size, accumulate) < 1:
        raise ValueError(
            f"fit: epochs={epochs}, batch_size={batch_size} and accumulate={accumulate} must be at "
            "least 1."
        )
    if not lr > 0:
        raise ValueError(f"fit: lr={lr} must be positive.")
    if not (0 <= max_bad <= 1 and 0 < max_visible_share < 1):
        raise ValueError(
            f"fit: max_bad={max_bad} must lie in [0, 1] and max_visible_share={max_visible_share} "
            "between 0 and 1."
        )


def checkpoint(file: str | Path | None) -> Path | None:
    if file is None:
        return None
    if not Path(file).is_file():
        raise FileNotFoundError(f"resume: {file}: expected a checkpoint, found no file.")
    if not zipfile.is_zipfile(file):
        raise ValueError(f"resume: {file}: not a whole checkpoint; it may be cut short.")
    return Path(file)


@contextmanager
def fitting(
    objective: Objective, model: MaskedModel, train: Chosen, held: Chosen | None, share: float
) -> Iterator[Masker | None]:
    """The objective's masker, settled for these data while the run goes; None if it has none."""
    asked: Masker | None = getattr(objective, "masker", None)
    if asked is None:
        yield None
        return
    slots, context = model.slots, foreseen(model)
    parts = [train] if held is None else [train, held]
    missing = np.concatenate([part.missing(slots) for part in parts])
    masker = settled(asked, slots, missing, context, share)
    if masker != asked and hardware.rank() == 0:
        total = sum(model.num_tokens.values())
        counts = asked.counts(total, context)[0], masker.counts(total, context)[0]
        names = [name for part in parts for name in part.names()]
        log.warning(told(*counts, missing, slots, names, share))
    objective.masker = masker
    try:
        yield masker
    finally:
        objective.masker = asked


def note_subsets(model: MaskedModel, masker: Masker | None, train: Chosen) -> None:
    """The model remembers what its encoder read, so that it can warn of what it never did."""
    if masker is not None and masker.content_free and len(model.slots) > 1:
        seen = subsets_seen(masker, train.missing(model.slots), foreseen(model))
        model.seen = tuple(sorted({*(model.seen or ()), *seen}))


def leave(shell: Shell, out: Path | None, pictures: bool) -> None:
    """What is written and said when a run is over, also one that failed."""
    tape = shell.tape
    tape.gather(ranks=1)  # what a run that failed had not yet
    if hardware.rank() != 0:
        return
    if tape.seen.skipped:
        log.warning(tape.summary())
    if out is not None:
        tape.write_skipped(out / "log" / "skipped.csv")
        if pictures and tape.epochs:
            draw_curves(tape.epochs, out / "curves.png")


def result(shell: Shell, masker: Masker | None, place: torch.device) -> FitResult:
    tape, clock, model = shell.tape, shell.clock, shell.model
    total = sum(model.num_tokens.values())
    visible, decoded = (0, 0) if masker is None else masker.counts(total, foreseen(model))
    seen = tape.seen
    shown = seen.shown / seen.existing if seen.existing else visible / total
    return FitResult(
        epochs=tuple(tape.epochs),
        losses=tuple(tape.losses),
        steps=len(tape.losses),
        seconds=clock.seconds,
        samples_per_second=clock.speed,
        peak_memory=hardware.peak_memory(place),
        skipped=tuple(seen.skipped.items()),
        seen=seen.draws,
        visible=visible,
        decoded=decoded,
        effective_ratio=1 - shown,
        masker=masker,
    )
