"""What a run records while it goes: losses, samples seen and skipped, an epoch's sums."""

import csv
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from multimask.tokens import Batch
from multimask.training.result import Record, TrainingError

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

    def pairs(self, reduce: Reduce) -> dict[str, list[float]]:
        """Each term's [total, count] over all ranks; every rank takes part."""
        if not self.of:
            return {}
        return dict(
            zip(self.of, reduce(torch.stack(list(self.of.values())), "sum").tolist(), strict=True)
        )

    def averages(self, reduce: Reduce) -> dict[str, float]:
        return {n: total / max(count, 1.0) for n, (total, count) in self.pairs(reduce).items()}


@dataclass
class Seen:
    """Draws, those of them that were bad, and tokens in the others; reasons by id."""

    draws: int = 0
    bad: int = 0
    existing: int = 0
    shown: int = 0
    skipped: dict[str, str] = field(default_factory=dict)

    def note(self, batch: Batch) -> None:
        """Runs on the host."""
        self.draws += batch.size + len(batch.skipped)
        self.bad += len(batch.skipped)
        self.skipped.update(batch.skipped)
        if batch.masking is not None:
            ids, valid = batch.masking.ids, batch.masking.valid
            self.existing += int(batch.masking.exists.sum())
            self.shown += ids.numel() if valid is None else int(valid.sum())

    def __add__(self, other: "Seen") -> "Seen":
        return Seen(
            self.draws + other.draws,
            self.bad + other.bad,
            self.existing + other.existing,
            self.shown + other.shown,
            self.skipped | other.skipped,
        )


class Tape:
    """Survives a resume: `state` goes into the checkpoint as plain numbers and text.

    losses: of every step. epochs: a record each. names: of the terms, once known. seen: by all
    ranks, as of the last `gather`; fresh: by this rank since then.
    """

    def __init__(self, max_bad: float) -> None:
        self.max_bad = max_bad
        self.losses: list[float] = []
        self.epochs: list[Record] = []
        self.names: tuple[str, ...] = ()
        self.seen, self.fresh = Seen(), Seen()
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
        """Count what batches held and what was left out of them."""
        for batch in batches:
            self.fresh.note(batch)
        if self.seen.draws + self.fresh.draws >= EARLY:
            self.check()

    def check(self) -> None:
        """Raises TrainingError when too large a share of the draws was bad."""
        draws, bad = self.seen.draws + self.fresh.draws, self.seen.bad + self.fresh.bad
        if bad > self.max_bad * draws:
            name, why = next(iter((self.seen + self.fresh).skipped.items()))
            raise TrainingError(
                f"fit: {bad} of {draws} samples ({bad / draws:.0%}) could not be used, more than "
                f"max_bad={self.max_bad:.0%} allows; the first is {name!r}: {why}"
            )

    def gather(self, ranks: int) -> None:
        """Put together what the ranks saw; every rank takes part."""
        found: list[Any] = [self.fresh]
        if ranks > 1:
            found = [None] * ranks
            distributed.all_gather_object(found, self.fresh)
        self.seen, self.fresh = sum(found, self.seen), Seen()

    def write_skipped(self, file: Path) -> None:
        if self.seen.skipped:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("w", newline="", encoding="utf-8") as stream:
                csv.writer(stream).writerows([("id", "reason"), *self.seen.skipped.items()])

    def summary(self) -> str:
        """One sentence about what was skipped."""
        names = list(self.seen.skipped)
        first, more = names[0], f" and {len(names) - 1} more" if len(names) > 1 else ""
        number = "one sample" if len(names) == 1 else f"{len(names)} samples"
        return (
            f"{number} could not be used and left out: {first!r} "
            f"({self.seen.skipped[first]}){more}."
        )

    # --- checkpoints ------------------------------------------------------------------------------

    def state(self, reduce: Reduce, ranks: int) -> dict[str, Any]:
        """Of all ranks together; every rank takes part."""
        self.flush(reduce)
        self.gather(ranks)
        return {
            "losses": self.losses,
            "epochs": self.epochs,
            "names": self.names,
            "seen": asdict(self.seen),
            "sums": self.sums.pairs(reduce),
        }

    def load(self, state: Mapping[str, Any], rank: int) -> None:
        self.losses, self.epochs = state["losses"], state["epochs"]
        self.names, self.seen = tuple(state["names"]), Seen(**state["seen"])
        share = 1.0 if rank == 0 else 0.0  # one rank goes on with the sums of all
        self.sums.of = {
            name: torch.tensor(pair, dtype=torch.float64) * share
            for name, pair in state["sums"].items()
        }
