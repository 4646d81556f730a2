"""What a run records while it goes: losses, samples seen and skipped, an epoch's sums."""

import csv
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from multimask.tokens import Batch
from multimask.training.result import TrainingError

EARLY = 50  # samples after which a bad share is trusted
Reduce = Callable[[Tensor, str], Tensor]  # over ranks, "sum" or "mean"


class Sums:
    """Totals and counts of terms, kept on the device: nothing waits for them until `averages`."""

    def __init__(self) -> None:
        self.of: dict[str, Tensor] = {}

    def add(self, name: str, total: Tensor, count: Tensor) -> None:
        pair = torch.stack((total.detach(), count.to(total)))
        pair = pair if pair.device.type == "mps" else pair.double()
        self.of[name] = pair if name not in self.of else self.of[name].to(pair) + pair

    def averages(self, reduce: Reduce) -> dict[str, float]:
        """Each term's total over its count, over all ranks."""
        if not self.of:
            return {}
        pairs = reduce(torch.stack(list(self.of.values())), "sum").tolist()
        return {
            name: total / max(count, 1.0)
            for name, (total, count) in zip(self.of, pairs, strict=True)
        }


class Tape:
    """Survives a resume: `state` goes into the checkpoint as plain numbers and text.

    losses: of every step. epochs: a record each. skipped: reason by id. seen and bad: draws.
    existing, shown: tokens in those draws. names: of the terms, once known.
    """

    def __init__(self, max_bad: float) -> None:
        self.max_bad = max_bad
        self.losses: list[float] = []
        self.epochs: list[dict[str, float]] = []
        self.skipped: dict[str, str] = {}
        self.seen = self.bad = self.existing = self.shown = 0
        self.names: tuple[str, ...] = ()
        self.sums = Sums()
        self.pending: list[tuple[tuple[str, ...], Tensor]] = []

    # --- losses -----------------------------------------------------------------------------------

    def add(self, values: Mapping[str, Tensor], device: torch.device) -> None:
        """One step's terms; they stay on the device until `flush`."""
        self.names = self.names or tuple(values)
        row = torch.stack(list(values.values())) if values else torch.zeros(0, device=device)
        self.pending.append((tuple(values), row))

    def flush(self, reduce: Reduce) -> None:
        """Fetch what is pending in one transfer. Raises TrainingError for a loss that is NaN or
        infinite, naming the first such step and its terms."""
        if not self.pending:
            return
        rows, self.pending = self.pending, []
        flat = iter(reduce(torch.cat([row for _, row in rows]), "mean").tolist())
        for names, _ in rows:
            values = {name: next(flat) for name in names}
            wrong = [f"{name}={x}" for name, x in values.items() if not math.isfinite(x)]
            if wrong:
                raise TrainingError(
                    f"fit: the loss of step {len(self.losses)} is not finite: {', '.join(wrong)}. "
                    "Lower the learning rate, clip gradients (clip=1.0), or look for extreme "
                    "values in the data."
                )
            self.losses.append(sum(values.values()) if values else math.nan)

    @property
    def running(self) -> float:
        """Mean loss of the last steps that were fetched."""
        last = [loss for loss in self.losses[-20:] if math.isfinite(loss)]
        return sum(last) / len(last) if last else math.nan

    # --- samples ----------------------------------------------------------------------------------

    def note(self, batches: Iterable[Batch]) -> None:
        """Count what batches held and what was left out of them. Runs on the host."""
        for batch in batches:
            self.seen += batch.size + len(batch.skipped)
            self.bad += len(batch.skipped)
            self.skipped.update((name, why) for name, why in batch.skipped)
            if batch.masking is not None:
                ids, valid = batch.masking.ids, batch.masking.valid
                self.existing += int(batch.masking.exists.sum())
                self.shown += ids.numel() if valid is None else int(valid.sum())
        if self.seen >= EARLY:
            self.check()

    def check(self) -> None:
        """Raises TrainingError when too large a share of the draws was bad."""
        if self.bad > self.max_bad * self.seen:
            name, why = next(iter(self.skipped.items()))
            raise TrainingError(
                f"fit: {self.bad} of {self.seen} samples ({self.bad / self.seen:.0%}) could not be "
                f"used, more than max_bad={self.max_bad:.0%} allows; the first is {name!r}: {why}"
            )

    def write_skipped(self, file: Path) -> None:
        if self.skipped:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("w", newline="", encoding="utf-8") as stream:
                csv.writer(stream).writerows([("id", "reason"), *self.skipped.items()])

    def summary(self) -> str:
        """One sentence about what was skipped."""
        names = list(self.skipped)
        first, more = names[0], f" and {len(names) - 1} more" if len(names) > 1 else ""
        return (
            f"{len(names)} samples could not be used and were left out: {first!r} "
            f"({self.skipped[first]}){more}."
        )

    # --- checkpoints ------------------------------------------------------------------------------

    PLAIN = ("losses", "epochs", "skipped", "seen", "bad", "existing", "shown", "names")

    def state(self) -> dict[str, Any]:
        sums = {name: pair.tolist() for name, pair in self.sums.of.items()}
        return {**{name: getattr(self, name) for name in self.PLAIN}, "sums": sums}

    def load(self, state: Mapping[str, Any]) -> None:
        for name in self.PLAIN:
            setattr(self, name, state[name])
        self.names = tuple(self.names)
        self.sums.of = {
            name: torch.tensor(pair, dtype=torch.float64) for name, pair in state["sums"].items()
        }
