"""Checkpoints: `model.safetensors` and `config.json`, without code or pickles; and weights of other
projects, read and written in their names."""

from multimask.checkpoints.adapt import Report, pour
from multimask.checkpoints.folder import save
from multimask.checkpoints.foreign import export, initialise, load

__all__ = ["Report", "export", "initialise", "load", "pour", "save"]
