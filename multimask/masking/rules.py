"""Scoring rules: every token gets a score, the lowest stay visible.

A rule is a frozen dataclass called with `(exists (b, n), generators, context)` that returns scores
`(b, n)`. It draws only from the samples' own generators, so a sample's scores do not depend on its
batch mates. Rules that need a lattice find each modality's grid in `context`.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from multimask.masking.context import Context
from multimask.tokens import Grid as GridShape


@runtime_checkable
class Rule(Protocol):
    """Scores every token. A rule that looks at content says `needs_content = True`."""

    def __call__(
        self, exists: Bool[Tensor, "b n"], generators: list[Generator], context: Context
    ) -> Float[Tensor, "b n"]: ...


@runtime_checkable
class Ties(Protocol):
    """A rule that ties tokens together: budgets then count units of this many tokens."""

    def unit(self, context: Context) -> int: ...


@dataclass(frozen=True)
class Uniform:
    """Random masking: uniform noise (MAE, He et al. 2022)."""

    def __call__(
        self, exists: Bool[Tensor, "b n"], generators: list[Generator], context: Context
    ) -> Float[Tensor, "b n"]:
        noise = [torch.rand(exists.shape[1], generator=g) for g in generators]
        return torch.stack(noise).to(exists.device)


@dataclass(frozen=True)
class Block:
    """Block masking: boxes are drawn until they cover the lattice; first covered, first hidden.

    Works on lattices of any rank. Within the box that straddles the budget the order is random, so
    counts are exact. Source: the block-wise sampling of BEiT (Bao et al., ICLR 2022, algorithm 1),
    with the count made exact.
    Args: share, a box's (smallest, largest) volume as a share of the lattice; aspect, the largest
    ratio of two of a box's sides before they are cut at the border.
    """

    share: tuple[float, float] = (0.08, 0.25)
    aspect: float = 3.0

    def __post_init__(self) -> None:
        low, high = self.share
        if not (0 < low <= high <= 1 and self.aspect >= 1):
            raise ValueError(
                f"Block: share={self.share} must satisfy 0 < smallest <= largest <= 1 and "
                f"aspect={self.aspect} must be at least 1."
            )

    def __call__(
        self, exists: Bool[Tensor, "b n"], generators: list[Generator], context: Context
    ) -> Float[Tensor, "b n"]:
        scores = Uniform()(exists, generators, context).cpu()
        for name, where in context.slots.items():
            grid = context.grid(name, needed_by="Block")
            for row, generator in enumerate(generators):
                order = self.coverage(grid, generator).flatten()
                # earliest covered first to hide; noise in [0, 1) only orders within one box
                scores[row, where.start : where.start + len(order)] -= order
        return scores.to(exists.device)

    def coverage(self, grid: GridShape, generator: Generator) -> Float[Tensor, "..."]:
        """For each cell the number of boxes drawn before the one that covered it."""
        order = torch.full(grid, math.inf)
        boxes = 0
        while order.isinf().any():
            box = tuple(self.box(grid, generator))
            order[box] = order[box].clamp(max=boxes)
            boxes += 1
        return order

    def box(self, grid: GridShape, generator: Generator) -> list[slice]:
        low, high = self.share
        draw = torch.rand(2 * len(grid) + 1, generator=generator, dtype=torch.float64).tolist()
        cells = (low + (high - low) * draw[0]) * math.prod(grid)
        half = math.log(self.aspect) / 2
        logs = [(2 * x - 1) * half for x in draw[1 : len(grid) + 1]]
        level = (math.log(cells) - sum(logs)) / len(grid)
        sides = []
        for size, stretch, place in zip(grid, logs, draw[len(grid) + 1 :], strict=True):
            side = min(size, max(1, round(math.exp(level + stretch))))
            # starts reach past the border and are cut there, so border cells are hidden as often
            start = math.floor(place * (size + side - 1)) - side + 1
            sides.append(slice(max(0, start), min(size, start + side)))
        return sides


@dataclass(frozen=True)
class Grid:
    """Grid masking: the visible tokens are spread evenly; one of every `stride**rank` cells comes
    first (MAE, table 1f: with ratio .75 on a 2-D lattice exactly one cell of each 2x2 stays)."""

    stride: int = 2

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"Grid: stride={self.stride} must be at least 1.")

    def __call__(
        self, exists: Bool[Tensor, "b n"], generators: list[Generator], context: Context
    ) -> Float[Tensor, "b n"]:
        scores = Uniform()(exists, generators, context)
        for name, where in context.slots.items():
            grid = context.grid(name, needed_by="Grid")
            axes = torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")
            cell = sum((axis % self.stride) * self.stride**power for power, axis in enumerate(axes))
            order = torch.as_tensor(cell).flatten().to(scores)
            scores[:, where.start : where.start + len(order)] += order
        return scores
