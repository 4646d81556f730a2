"""Fused AdamW, and a learning rate that rises linearly and falls as half a cosine."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True)
class Schedule:
    """Learning rate of step s: `peak * (s + 1) / warmup` while s < warmup, then half a cosine from
    peak to `floor`, which the step after the last would reach.

    >>> rate = Schedule(peak=1.0, total=12, warmup=2)
    >>> [round(rate(step), 2) for step in (0, 1, 2, 7, 11)]
    [0.5, 1.0, 1.0, 0.5, 0.02]
    """

    peak: float
    total: int
    warmup: int = 0
    floor: float = 0.0

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))
        return self.floor + (self.peak - self.floor) * 0.5 * (1 + math.cos(math.pi * done))


def warmup_steps(warmup: float | int, total: int) -> int:
    """A whole number of steps as given; a share of all steps otherwise.

    >>> warmup_steps(0.05, 200), warmup_steps(7, 200)
    (10, 7)
    """
    steps = warmup if isinstance(warmup, int) else math.floor(warmup * total + 1e-6)
    if not (warmup >= 0 and steps <= total):
        raise ValueError(
            f"fit: warmup={warmup} must be a share of the steps in [0, 1], or a number of steps "
            f"up to {total}."
        )
    return steps


def adamw(
    modules: Iterable[nn.Module],
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    fused: bool = True,
    lr_factors: Mapping[int, float] | None = None,
) -> torch.optim.AdamW:
    """Everything that takes a gradient, each once; no weight decay on scales, biases and other
    one-dimensional parameters. `lr_factors` multiply the rate, by the `id` of a parameter."""
    parameters = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("fit: neither model nor objective has a parameter that trains.")
    grouped: dict[tuple[float, bool, bool], list[torch.nn.Parameter]] = {}
    for key, parameter in parameters.items():
        factor = (lr_factors or {}).get(key, 1.0)
        whole = not isinstance(parameter, DTensor)  # one kernel takes either, not both
        grouped.setdefault((factor, parameter.ndim > 1, whole), []).append(parameter)
    # in a fixed order, because checkpoints know groups by number
    groups = [
        {"params": found, "lr": lr * factor, "weight_decay": weight_decay if decays else 0.0}
        for (factor, decays, _), found in sorted(grouped.items(), key=lambda item: item[0])[::-1]
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=fused)


def scheduled(optimizer: torch.optim.Optimizer, schedule: Schedule) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: schedule(step) / schedule.peak)
