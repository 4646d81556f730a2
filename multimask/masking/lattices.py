"""Rules for lattices whose first axis is time (or depth): tubes, slabs, the running cell."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from multimask.masking.context import Context
from multimask.masking.rules import Uniform


def ranked(count: int, generator: Generator) -> Float[Tensor, " count"]:
    """A random order of `count` units as whole numbers, so that no two of them tie."""
    return torch.randperm(count, generator=generator).float()


@dataclass(frozen=True)
class Tube:
    """Tube masking: the same places are hidden along the whole first axis (VideoMAE, Tong et al.,
    NeurIPS 2022). Budgets count tubes. A lattice that is shorter than another modality's cannot be
    tied with it, so all lattices must be equally long."""

    def unit(self, context: Context) -> int:
        lengths = {name: context.grid(name, "Tube")[0] for name in context.slots}
        if len(set(lengths.values())) != 1:
            raise ValueError(
                f"Tube: tubes must be equally long in all modalities, found {lengths}; "
                "use Uniform or Block."
            )
        return next(iter(lengths.values()))

    def __call__(
        self, exists: Bool[Tensor, "b n"], generators: list[Generator], context: Context
    ) -> Float[Tensor, "b n"]:
        sizes = {name: context.grid(name, "Tube") for name in context.slots}
        places = {name: math.prod(grid[1:]) for name, grid in sizes.items()}
        rows = []
        for generator in generators:
            order = ranked(sum(places.values()), generator).split(list(places.values()))
            repeated = [
                part.repeat(grid[0]) for part, grid in zip(order, sizes.values(), strict=True)
            ]
            rows.append(torch.cat(repeated))
        return torch.stack(rows).to(exists.device)


@dataclass(frozen=True)
class Slab:
    """Whole slices of the first axis are hidden (frame masking). Budgets count slices."""

    def unit(self, context: Context) -> int:
        sizes = {name: math.prod(context.grid(name, "Slab")[1:]) for name in context.slots}
        if len(set(sizes.values())) != 1:
            raise ValueError(
                f"Slab: slices must hold equally many tokens in all modalities, found {sizes}; "
                "use Uniform or Block."
            )
        return next(iter(sizes.values()))

    def __call__(
        self, exists: Bool[Tensor, "b n"], generators: list[Generator], context: Context
    ) -> Float[Tensor, "b n"]:
        unit = self.unit(context)
        slices = sum(context.grid(name, "Slab")[0] for name in context.slots)
        order = torch.stack([ranked(slices, generator) for generator in generators])
        return order.repeat_interleave(unit, dim=1).to(exists.device)


@dataclass(frozen=True)
class RunningCell:
    """The running cell (VideoMAE V2, Wang et al., CVPR 2023; Qing et al. 2023): inside each
    `size` x `size` cell of the last two axes the kept places move on by one from slice to slice.

    A budget of a quarter, half or three quarters of the lattice keeps exactly that share of every
    cell and, where the first axis is a multiple of `size**2`, of every place over time; there are
    `size**2` patterns, one is drawn per sample. Other budgets are cut at random within one step.
    """

    size: int = 2

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"RunningCell: size={self.size} must be at least 1.")

    def __call__(
        self, exists: Bool[Tensor, "b n"], generators: list[Generator], context: Context
    ) -> Float[Tensor, "b n"]:
        cells = self.size**2
        scores = Uniform()(exists, generators, context).cpu()  # orders within one step only
        starts = [int(torch.randint(cells, (1,), generator=g)) for g in generators]
        for name, where in context.slots.items():
            grid = context.grid(name, "RunningCell")
            if len(grid) != 3:
                raise ValueError(
                    f"RunningCell: modality {name!r} has a lattice of {len(grid)} axes; "
                    "it needs three."
                )
            time, row, column = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
            place = (row % self.size) * self.size + column % self.size
            # the place in a queue that moves on by one a slice; its head is dropped first
            turn = (place + time + 1).flatten()
            for sample, start in enumerate(starts):
                queue = (turn + start) % cells
                scores[sample, where.start : where.start + len(queue)] += cells - 1 - queue
        return scores.to(exists.device)
