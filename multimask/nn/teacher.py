"""Teachers: another view of a module that gives targets and never learns by gradient."""

import copy
from typing import Any, cast

import torch
from torch import nn


class Teacher(nn.Module):
    """A frozen, EMA or tied teacher of any module.

    decay=None freezes a copy as it is; a float makes the copy follow the student (`follow`),
    `teacher = decay * teacher + (1 - decay) * student`; `tied=True` asks the student itself.
    Always in eval mode, never in the optimiser. Only an EMA teacher goes into a checkpoint: a
    frozen one is made again from where it came, a tied one is the student.
    Args: norm, a module applied to what the teacher says (its own normalisation of targets).
    """

    def __init__(
        self,
        module: nn.Module,
        decay: float | None = None,
        tied: bool = False,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if decay is not None and (tied or not 0 <= decay <= 1):
            raise ValueError(
                f"Teacher: decay={decay} must lie in [0, 1] and does not go with tied=True."
            )
        self.decay, self.tied = decay, tied
        kept = module if tied else copy.deepcopy(module).requires_grad_(False).eval()
        if decay is None:
            # neither in parameters() nor in state_dict()
            object.__setattr__(self, "unregistered", kept)
        else:
            self.copy = kept
        self.norm = norm

    @property
    def module(self) -> nn.Module:
        return cast(nn.Module, self.unregistered if self.decay is None else self.copy)

    def train(self, mode: bool = True) -> "Teacher":
        super().train(mode)
        if not self.tied:
            self.module.eval()
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> "Teacher":
        if self.decay is None and not self.tied:
            self.module._apply(fn)  # follows moves to another device
        return super()._apply(fn, recurse)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        module = self.module
        was_training = module.training
        module.eval()
        try:
            said = module(*args, **kwargs)
        finally:
            module.train(was_training and self.tied)
        return said if self.norm is None else self.norm(said)

    @torch.no_grad()
    def follow(self, student: nn.Module, decay: float | None = None) -> None:
        """One EMA step, after the optimiser's. Buffers are copied. `decay` overrides."""
        if self.decay is None:
            return
        rate = self.decay if decay is None else decay
        pairs = list(zip(self.module.parameters(), student.parameters(), strict=True))
        mine = [own.data for own, _ in pairs]
        theirs = [other.detach() for _, other in pairs]
        for own, other in zip(mine, theirs, strict=True):
            own.lerp_(other, 1 - rate)
        for own, other in zip(self.module.buffers(), student.buffers(), strict=True):
            own.copy_(other)
