"""Optimiser and schedule: rates, weight decay and clipping, step by step."""

from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from multimask.training.optimiser import Schedule, adamw, warmup_steps
from small_training import trained


def test_the_rate_rises_and_falls_per_step() -> None:
    rate = Schedule(peak=2.0, total=20, warmup=4, floor=0.5)
    assert [rate(step) for step in range(5)] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert rate(12) == pytest.approx(1.25)
    assert rate(20) == pytest.approx(0.5)
    assert rate(30) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="warmup=30"):
        warmup_steps(30, 20)
    with pytest.raises(ValueError, match=r"warmup=-0\.1"):
        warmup_steps(-0.1, 20)


def test_the_rate_is_scaled_by_the_batch() -> None:
    seen: list[float] = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    trained(callbacks=[Watch()], lr=0.32, lr_per=256, warmup=2, accumulate=2)
    assert seen[:2] == pytest.approx([0.005, 0.01])
    seen.clear()
    _, result = trained(callbacks=[Watch()], lr=0.01, lr_per=None, warmup=0)
    assert seen[0] == pytest.approx(0.01)
    assert result.epochs[-1]["lr"] == pytest.approx(seen[-1])


def test_weight_decay_leaves_vectors_alone() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    frozen = nn.Linear(2, 2).requires_grad_(False)
    optimizer = adamw([module, module[0], frozen], 0.1, (0.9, 0.95), 0.05)
    decayed, plain = optimizer.param_groups
    assert (len(decayed["params"]), decayed["weight_decay"]) == (1, 0.05)
    assert (len(plain["params"]), plain["weight_decay"]) == (3, 0.0)


def test_clipping_counts_all_micro_batches_together() -> None:
    norms: list[float] = []

    class Watch(L.Callback):
        def on_train_batch_end(
            self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
        ) -> None:
            grads = [p.grad.norm() for p in pl_module.parameters() if p.grad is not None]
            norms.append(torch.stack(grads).norm().item())

    trained(callbacks=[Watch()], clip=0.1, accumulate=2)
    assert max(norms) <= 0.1 + 1e-5
    assert min(norms) > 0.05
