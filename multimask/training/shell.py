"""The Lightning module that trains any model with any objective.

It owns the quotient of every term: totals over counts, both summed over all micro-batches and
ranks of an optimiser step first, so that neither changes what is learned.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import lightning as L
import torch
from torch import Tensor

from multimask.model import MaskedModel
from multimask.objectives.base import Objective
from multimask.tokens import Batch, Step, Term, sample_generator
from multimask.training import sharding
from multimask.training.clock import Clock
from multimask.training.collate import Window
from multimask.training.optimiser import adamw, scheduled
from multimask.training.result import TrainingError
from multimask.training.run import Run
from multimask.training.tape import Sums, Tape


class Shell(L.LightningModule):
    """A loader's item is a window: the micro-batches of one optimiser step. All of them but the
    last go backward inside `training_step`, so for Lightning a window is one batch, and its
    clipping, mixed precision, callbacks and loggers work as ever."""

    def __init__(self, model: MaskedModel, objective: Objective, run: Run, tape: Tape) -> None:
        super().__init__()
        self.model, self.objective, self.run, self.tape = model, objective, run, tape
        self.held_out = Sums()
        self.clock = Clock(run.batch_size)
        self.beside: dict[str, float] = {}  # what callbacks add to an epoch's record
        self.sharded: list[sharding.Sharded] = []
        self.spare: Batch | None = (
            None  # stands in for a batch of nothing, where layers are sharded
        )
        self.around_validation = ExitStack()

    # --- one optimiser step -----------------------------------------------------------------------

    def training_step(self, window: Window, batch_idx: int) -> Tensor:
        index = self.global_step
        step = Step(self.run.seed, index // self.run.steps_per_epoch, index)
        self.tape.note(window)
        window = self.worthwhile(window)
        seed_device(step, self.global_rank, self.device)
        optimizer = self.trainer.optimizers[0]
        optimizer.zero_grad()
        counts, values = self.window_counts(window), {}
        for batch in window[:-1]:
            loss = self.share_of_loss(batch, step, counts, len(window), values)
            with torch.autocast(self.device.type, enabled=False):
                self.trainer.strategy.backward(loss, optimizer)
        loss = self.share_of_loss(window[-1], step, counts, len(window), values)
        if index == 0 and counts:
            self.check_counts(counts, values)
        self.tape.add({name: value for name, (value, _) in values.items()}, self.device)
        return loss

    def worthwhile(self, window: Window) -> Window:
        """Without micro-batches of which nothing was read; at least one. Among several ranks all of
        them: what one leaves out others would wait for."""
        if self.trainer.world_size > 1:
            return window
        return tuple(batch for batch in window if batch.size) or tuple(window[-1:])

    def share_of_loss(
        self,
        batch: Batch,
        step: Step,
        counts: Mapping[str, Tensor],
        num_batches: int,
        values: dict[str, tuple[Tensor, Tensor]],
    ) -> Tensor:
        """What this micro-batch adds to the loss of the step; also added to `values`, by term, with
        the terms' own counts."""
        terms = self.terms(batch, step)
        unknown = [name for name in terms if name not in counts]
        own = self.over_ranks({name: terms[name].count for name in unknown})
        loss = self.no_loss() if not batch.size else torch.zeros((), device=self.device)
        for name, term in terms.items():
            # Lightning averages gradients over ranks, hence their number
            share = term.total * self.trainer.world_size
            if name in counts:
                share = share / counts[name].clamp(min=1)
            else:
                share = share / own[name].clamp(min=1) / num_batches
            loss = loss + share
            value, count = values.get(name, (0.0, 0.0))
            values[name] = (value + share.detach(), count + term.count.detach())
            self.tape.sums.add(name, term.total, term.count)
        return loss

    def terms(self, batch: Batch, step: Step) -> dict[str, Term]:
        """The objective's. Of a batch of which nothing was read none; among several ranks zeros
        under the usual names, because the others wait for them."""
        if batch.size:
            self.spare = batch if self.sharded else None
            return self.objective(self.model, batch.to(self.device, non_blocking=True), step)
        if self.trainer.world_size == 1:
            return {}
        if not self.tape.names:
            raise TrainingError(f"fit: nothing in the first batch could be read; {first_of(batch)}")
        if self.spare is not None:  # sharded layers are put together by all ranks at once
            spare = self.objective(self.model, self.spare.to(self.device), step)
            return {n: Term(t.total * 0, torch.zeros_like(t.count)) for n, t in spare.items()}
        zero = torch.zeros((), device=self.device)
        return {name: Term(zero, zero) for name in self.tape.names}

    def no_loss(self) -> Tensor:
        """Zero, with a gradient of zeros for every parameter, as other ranks expect."""
        if self.sharded:  # the spare batch's terms reach them all
            return torch.zeros((), device=self.device)
        return sum((p.sum() * 0 for p in self.parameters() if p.requires_grad), torch.zeros(()))

    def window_counts(self, window: Window) -> dict[str, Tensor]:
        """The terms' counts over all micro-batches and ranks, as far as they are known before the
        first backward. One micro-batch on one rank needs none: its own terms say."""
        if len(window) == 1 and self.trainer.world_size == 1:
            return {}
        found = [self.objective.counts(self.model, batch) for batch in window]
        names = [name for name in found[0] if all(name in counts for counts in found)]
        sums = {name: torch.stack([counts[name] for counts in found]).sum() for name in names}
        return self.over_ranks(sums)

    def over_ranks(self, counts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not counts or self.trainer.world_size == 1:
            return {
                name: count.to(self.device, non_blocking=True) for name, count in counts.items()
            }
        together = torch.stack([count.float() for count in counts.values()])
        together = together.to(self.device, non_blocking=True)
        return dict(zip(counts, self.reduced(together, "sum"), strict=True))

    def reduced(self, tensor: Tensor, how: str) -> Tensor:
        if self.trainer.world_size == 1:
            return tensor
        return self.trainer.strategy.reduce(tensor, reduce_op=how)

    def check_counts(
        self, counts: Mapping[str, Tensor], values: Mapping[str, tuple[Tensor, Tensor]]
    ) -> None:
        """Once a run: counts said ahead are those of the terms."""
        own = self.over_ranks({name: values[name][1] for name in counts if name in values})
        wrong = [name for name, count in own.items() if float(count) != float(counts[name])]
        if wrong:
            raise TrainingError(
                f"{type(self.objective).__name__}: counts() and forward() disagree about "
                f"{', '.join(wrong)}; let counts() leave out terms that it does not know."
            )

    # --- sharding ---------------------------------------------------------------------------------

    def configure_model(self) -> None:
        if self.run.strategy == "fsdp" and not self.sharded:
            mesh = self.device_mesh
            assert mesh is not None  # the strategy made it
            self.sharded = sharding.shard([self.model, self.objective], mesh["data_parallel"])

    def gathered(self) -> AbstractContextManager[None]:
        """Within, any rank may use the model alone. All ranks enter and leave together."""
        return sharding.gathered(self.sharded)

    def on_after_backward(self) -> None:
        if self.sharded:
            sharding.average_whole_gradients(self.parameters(), self.trainer.world_size)

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        if not self.sharded:
            super().configure_gradient_clipping(optimizer, *args, **kwargs)
        elif self.trainer.gradient_clip_val is not None:
            sharding.clip(self.parameters(), self.trainer.gradient_clip_val)

    # --- hooks ------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        run = self.run
        modules = (self.model, self.objective)
        factors = self.objective.lr_factors(self.model)
        optimizer = adamw(modules, run.lr, run.betas, run.weight_decay, run.fused, factors)
        scheduler = {"scheduler": scheduled(optimizer, run.schedule), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def optimizer_zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: it would come after the first micro-batches' backward."""

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        with torch.no_grad():
            self.objective.after_step(self.model)

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Nothing: micro-batches move one by one, after their counts were read on the host."""
        return batch

    def on_train_start(self) -> None:
        self.clock.start()

    def on_train_epoch_start(self) -> None:
        self.clock.start()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        last = self.trainer.is_last_batch
        if last or self.global_step % self.run.log_every == 0:
            self.tape.flush(self.reduced)
            self.report()
        self.clock.tick()

    def report(self) -> None:
        """The last step's numbers, to the loggers."""
        row = {"loss_step": self.tape.losses[-1], "lr_step": self.last_lr}
        for logger in self.loggers:
            logger.log_metrics(row, step=self.global_step)

    @property
    def last_lr(self) -> float:
        """The rate of the last step; the optimiser holds the next one's already."""
        return self.run.schedule(self.global_step - 1)

    def on_train_epoch_end(self) -> None:
        self.tape.flush(self.reduced)
        self.tape.gather(self.trainer.world_size)
        self.tape.check()
        terms, self.tape.sums = self.tape.sums.averages(self.reduced), Sums()
        record = {
            **losses("loss", terms),
            **self.beside,
            "lr": self.last_lr,
            "samples_per_second": self.clock.end_epoch(),
        }
        self.beside = {}
        number = (self.global_step - 1) // self.run.steps_per_epoch
        self.tape.epochs.append({"epoch": number, "step": self.global_step, **record})
        self.log_dict(record, batch_size=1)

    # --- held-out rows ----------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self.around_validation.enter_context(self.gathered())
        self.held_out = Sums()
        if self.trainer.world_size > 1:  # a rank may have no rows; the others wait for its zeros
            zero = torch.zeros((), device=self.device)
            for name in self.tape.names:
                self.held_out.add(name, zero, zero)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.tape.note([batch])
        if not batch.size:
            return
        step = Step(self.run.seed, 0, 0)
        seed_device(Step(self.run.seed, 0, batch_idx), self.global_rank, self.device)
        terms = self.objective(self.model, batch.to(self.device, non_blocking=True), step)
        for name, term in terms.items():
            self.held_out.add(name, term.total, term.count)

    def on_validation_epoch_end(self) -> None:
        self.around_validation.close()
        self.beside |= losses("loss_val", self.held_out.averages(self.reduced))

    # --- checkpoints ------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        tape = self.tape.state(self.reduced, self.trainer.world_size)
        checkpoint["multimask"] = {"identity": self.run.identity, "tape": tape}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("multimask")
        if saved is None:
            raise ValueError("resume: this checkpoint was not written by multimask's fit.")
        for name, value in self.run.identity.items():
            before = saved["identity"].get(name, 0)  # what is not there was not yet known of
            if before != value and name == "data":
                raise ValueError(
                    f"resume: the checkpoint was written on {self.run.num_rows} other samples than "
                    "this run has, or in another order (by their ids); bring the same data."
                )
            if before != value:
                raise ValueError(
                    f"resume: the checkpoint was written with {name}={before}, this run has "
                    f"{name}={value}; its batches would not be the same."
                )
        if not self.sharded:  # then the strategy has put the weights in place and checked them
            check_weights(checkpoint["state_dict"], self.state_dict())
        self.tape.load(saved["tape"], self.global_rank)


def losses(prefix: str, terms: Mapping[str, float]) -> dict[str, float]:
    """The sum of the terms under the prefix's own name, and each term."""
    if not terms:
        return {}
    return {prefix: sum(terms.values())} | {f"{prefix}/{n}": x for n, x in terms.items()}


def seed_device(step: Step, rank: int, device: torch.device) -> None:
    """Dropout and the like draw anew in every step, from the step alone: nothing to save."""
    key = sample_generator(step.seed, step.epoch, str(step.index), "step", rank).initial_seed()
    # not torch.manual_seed: where there is no GPU it formats a traceback for every kind of one
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        torch.cuda.manual_seed(key)
    elif device.type == "mps":
        torch.mps.manual_seed(key)


def check_weights(saved: Mapping[str, Tensor], mine: Mapping[str, Tensor]) -> None:
    for name in sorted(set(saved) | set(mine)):
        shapes = [tuple(w[name].shape) if name in w else None for w in (saved, mine)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"resume: weights {name!r} have shape {shapes[0]} in the checkpoint and "
                f"{shapes[1]} in this run; build the same model and objective."
            )


def first_of(batch: Batch) -> str:
    pairs: Sequence[tuple[str, str]] = batch.skipped
    return ": ".join(pairs[0]) if pairs else "it is empty."
