"""Tied masking: tokens along some axes of the lattice are hidden together."""

import math
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Generator, Tensor

from multimask.masking.context import Context
from multimask.masking.rules import Uniform
from multimask.tokens import Grid


@dataclass(frozen=True)
class Tied:
    """Random masking of lines or slabs of the lattice: one draw for all tokens that differ only
    along `axes`.

    `axes=(0,)` makes tubes (the same places in every frame or band; VideoMAE, Tong et al. 2022),
    `axes=(1, 2)` of a three-axis lattice hides whole frames or bands. Budgets count such units, so
    every count is exact; where tokens do not exist a unit is smaller and the last one visible may
    be cut.
    """

    axes: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if not self.axes or min(self.axes) < 0 or len(set(self.axes)) != len(self.axes):
            raise ValueError(f"Tied: axes={self.axes} must name lattice axes, 0 and up, each once.")

    def unit(self, context: Context) -> int:
        """Tokens that are hidden together: one number for all modalities, or ValueError."""
        sizes = {
            name: math.prod(self.grid(name, context)[axis] for axis in self.axes)
            for name in context.slots
        }
        if len(set(sizes.values())) != 1:
            raise ValueError(
                f"Tied: one budget counts units of one size, but along axes {self.axes} "
                f"the modalities tie {sizes} tokens; use a rule per modality."
            )
        return next(iter(sizes.values()))

    def grid(self, name: str, context: Context) -> Grid:
        grid = context.grid(name, needed_by="Tied")
        if max(self.axes) >= len(grid):
            raise ValueError(
                f"Tied: modality {name!r} has a lattice of {len(grid)} axes, no axis "
                f"{max(self.axes)}."
            )
        return grid

    def __call__(
        self, exists: Bool[Tensor, "b n"], generators: list[Generator], context: Context
    ) -> Float[Tensor, "b n"]:
        noise = Uniform()(exists, generators, context)
        scores = noise.double()
        for name, where in context.slots.items():
            grid = self.grid(name, context)
            shape = [1 if axis in self.axes else size for axis, size in enumerate(grid)]
            drawn = noise[:, where.start : where.start + math.prod(shape)]
            # equal draws are told apart by their rank, else one unit would cut another
            rank = drawn.argsort(dim=1, stable=True).argsort(dim=1)
            units = drawn.double() + rank * 2.0**-40
            spread = units.reshape(-1, *shape).expand(-1, *grid).flatten(1)
            scores[:, where.start : where.start + spread.shape[1]] = spread
        return scores
