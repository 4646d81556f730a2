"""Whole modalities hidden or shown, with as many tokens as that makes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from multimask.masking.context import Context
from multimask.masking.rules import Uniform
from multimask.masking.sharing import chances_of, check_known, check_subsets, subset


@dataclass(frozen=True)
class Subset:
    """Shows a random subset of a sample's modalities in full and hides the rest (PHG-MAE, 2025:
    every subset is one hyper-edge).

    Each modality stays with chance `keep`, never none; or one of the subsets of `table`. `always`
    stay whatever is drawn, `never` are targets only. A sample that has nothing but targets shows
    them, having nothing else to show. Use it with `Natural`, which pads to its cap.
    """

    keep: float | Mapping[str, float] = 0.5
    table: tuple[tuple[str, ...], ...] = ()
    always: tuple[str, ...] = ()
    never: tuple[str, ...] = ()

    natural = True

    def __post_init__(self) -> None:
        check_subsets(self.keep, self.table, "Subset")
        if set(self.always) & set(self.never):
            both = ", ".join(sorted(set(self.always) & set(self.never)))
            raise ValueError(f"Subset: {both} cannot be always and never visible at once.")

    def __call__(
        self, exists: Bool[Tensor, "b n"], generators: list[Generator], context: Context
    ) -> Float[Tensor, "b n"]:
        scores = Uniform()(exists, generators, context)
        names = tuple(context.slots)
        check_known((*self.always, *self.never), names, "Subset")
        there = torch.stack(
            [exists[:, w.start : w.stop].any(dim=1) for w in context.slots.values()], dim=1
        )
        rows = zip(there.cpu().numpy(), generators, strict=True)
        stays = torch.from_numpy(np.stack([self.drawn(names, row, g) for row, g in rows]))
        for place, where in enumerate(context.slots.values()):
            hidden = (~stays[:, place]).to(scores)
            scores[:, where.start : where.stop] += hidden[:, None]
        return scores

    def drawn(
        self, names: tuple[str, ...], present: Bool[np.ndarray, " m"], generator: Generator
    ) -> Bool[np.ndarray, " m"]:
        """Which modalities one sample shows."""
        always = np.array([name in self.always for name in names]) & present
        free = present & ~np.array([name in (*self.always, *self.never) for name in names])
        if not (always.any() or free.any()):
            return present
        if not free.any():
            return always
        if always.any() and not self.table:  # then none of the free ones need stay
            chances = chances_of(names, free, self.keep, "Subset")
            return (torch.rand(len(names), generator=generator).numpy() < chances) | always
        return subset(names, free, self.keep, self.table, generator, "Subset") | always
