"""What a step needs to know about the run it belongs to."""

from dataclasses import dataclass

from multimask.training.hardware import Strategy
from multimask.training.optimiser import Schedule, warmup_steps


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a step needs to know about the run. data: which samples, in which order. lr: at its
    peak. fused: the one-kernel optimiser. weights: a checksum of how often rows are drawn, 0 for
    all alike."""

    seed: int
    batch_size: int
    num_rows: int
    data: str
    steps_per_epoch: int
    epochs: int
    lr: float
    betas: tuple[float, float]
    weight_decay: float
    warmup: float | int
    min_lr: float
    fused: bool
    strategy: Strategy = "ddp"
    weights: int = 0

    def __post_init__(self) -> None:
        _ = self.schedule  # raises for a warm-up that cannot be

    @property
    def schedule(self) -> Schedule:
        total = self.epochs * self.steps_per_epoch
        return Schedule(self.lr, total, warmup_steps(self.warmup, total), self.min_lr)

    @property
    def log_every(self) -> int:
        return min(50, max(1, self.steps_per_epoch // 10))

    @property
    def identity(self) -> dict[str, int | str]:
        """What a resumed run must share for its batches to be the same."""
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "rows": self.num_rows,
            "data": self.data,
            "weights": self.weights,
        }
