"""Objectives: what drives training. Each is called `(model, batch, step) -> {name: Term}`."""

from multimask.objectives.base import Objective
from multimask.objectives.reconstruction import Reconstruction

__all__ = ["Objective", "Reconstruction"]
