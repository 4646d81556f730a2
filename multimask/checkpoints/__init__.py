"""Checkpoints: `model.safetensors` and `config.json`, without code or pickles."""

from multimask.checkpoints.folder import load, save

__all__ = ["load", "save"]
