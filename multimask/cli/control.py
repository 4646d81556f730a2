"""The control of comparisons: the same network, whose weights have learned nothing."""

import torch

from multimask.model import MaskedModel
from multimask.plugins import from_config, to_config


def fresh(model: MaskedModel, seed: int) -> MaskedModel:
    """The same network with random weights, those of the seed."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return from_config(to_config(model))
