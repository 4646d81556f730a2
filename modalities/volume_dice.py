"""How well voxels were named: a loss to learn by, and Dice to report."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def dice(
    predicted: Int[Tensor, "*space"], truth: Int[Tensor, "*space"], classes: int
) -> Float[Tensor, " found"]:
    """MONAI's Dice of every class but the background (0), from label maps of one volume.

    NaN for a class that is in neither; average with `nanmean`.
    """
    from monai.metrics.meandice import compute_dice  # takes seconds to import
    from monai.networks.utils import one_hot

    maps = (one_hot(x.long()[None, None], classes) for x in (predicted, truth))
    found, wanted = maps
    scores = compute_dice(found, wanted, include_background=False, ignore_empty=False)[0]
    nowhere = torch.tensor([not ((predicted == c) | (truth == c)).any() for c in range(1, classes)])
    return scores.masked_fill(nowhere, math.nan)


def voxel_losses(
    logits: Float[Tensor, "b classes z y x"], labels: Sequence[Int[Tensor, "..."]]
) -> Float[Tensor, " b"]:
    """Cross-entropy plus soft Dice of each sample, over the voxels that it has; padding counts for
    nothing.

    labels: one map (z, y, x) or (1, z, y, x) a sample, at its own size.
    Raises: ValueError for numbers that are no class.
    """
    classes = logits.shape[1]
    largest = max(int(label.max()) for label in labels)
    if largest >= classes or min(int(label.min()) for label in labels) < 0:
        raise ValueError(
            f"voxel_losses: expected label numbers 0 to {classes - 1}, found up to {largest}; ask "
            f"for {largest + 1} classes, or give the reader other labels."
        )
    wanted = torch.full((len(logits), *logits.shape[2:]), -1, device=logits.device)
    for row, label in zip(wanted, labels, strict=True):
        z, y, x = label.shape[-3:]
        row[:z, :y, :x] = label.reshape(z, y, x).to(row)
    inside = (wanted >= 0)[:, None]
    voxels = inside.flatten(1).sum(-1).clamp(min=1)
    entropy = nn.functional.cross_entropy(logits, wanted, ignore_index=-1, reduction="none")
    truth = nn.functional.one_hot(wanted.clamp(min=0), classes).movedim(-1, 1) * inside
    chance = logits.softmax(1) * inside
    both = (chance * truth).flatten(2).sum(-1)
    either = chance.flatten(2).sum(-1) + truth.flatten(2).sum(-1)
    overlap = (2 * both + 1e-5) / (either + 1e-5)
    return entropy.flatten(1).sum(-1) / voxels + 1 - overlap[:, 1:].mean(-1)


def voxel_loss(
    logits: Float[Tensor, "b classes z y x"], labels: Sequence[Int[Tensor, "..."]]
) -> Float[Tensor, ""]:
    """The mean of `voxel_losses` over the samples."""
    return voxel_losses(logits, labels).mean()
