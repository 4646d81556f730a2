"""Token states back on the lattice that the tokens were cut from."""

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from multimask.modality import HasGrid
from multimask.model import MaskedModel
from multimask.tokens import Batch, Grid, Latents


def shared_grid(model: MaskedModel, who: str) -> Grid:
    """The lattice of all modalities. Raises ValueError where they differ, or one has none."""
    grids = {
        name: tokenizer.grid if isinstance(tokenizer, HasGrid) else None
        for name, tokenizer in model.tokenizers.items()
    }
    if len(set(grids.values())) != 1 or None in grids.values():
        raise ValueError(f"{who}: expected one lattice for all modalities, found {grids}.")
    return cast(Grid, next(iter(grids.values())))


def on_lattice(
    model: MaskedModel, batch: Batch, latents: Latents, states: Float[Tensor, "b k w"], grid: Grid
) -> Float[Tensor, "b w *grid"]:
    """Token states at their places, averaged over the modalities that a sample has. Tokens that do
    not exist count as zeros."""
    b, _, width = states.shape
    alive = torch.ones_like(latents.ids, dtype=torch.bool)
    alive = alive if latents.valid is None else latents.valid
    index = latents.ids.masked_fill(~alive, latents.num_slots)
    whole = states.new_zeros(b, latents.num_slots + 1, width)
    whole = whole.scatter(1, index[..., None].expand(-1, -1, width), states)[:, :-1]
    total = states.new_zeros(b, math.prod(grid), width)
    count = states.new_zeros(b, 1, 1)
    for name, where in model.slots.items():
        if name in batch.parts:
            total = total + whole[:, where.start : where.stop]
            has = states.new_zeros(b).index_fill(0, batch.parts[name].rows, 1.0)
            count = count + has[:, None, None]
    return (total / count).transpose(1, 2).unflatten(2, grid)
