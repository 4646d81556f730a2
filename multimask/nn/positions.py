"""Where a token is, as a vector: fixed sin-cos tables, learned tables, an MLP of coordinates.

Each is built from a tokenizer and a width and called with flat lists `(coords, slots, grid)`.
Tables are built from the lattice shape, never from coordinates.
"""

import functools
from typing import Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float, Int, Num
from torch import Tensor, nn
from torch.nn import functional as F

from multimask.modality import HasGrid, Tokenizer
from multimask.plugins import remembers_arguments
from multimask.tokens import Grid


@runtime_checkable
class Position(Protocol):
    def __call__(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]: ...


def sincos(grid: Grid, width: int) -> Float[Tensor, "n w"]:
    """The fixed sin-cos table of a lattice of any rank, row-major.

    Every axis gets `width // (2 * rank)` frequencies `10000 ** (-j / count)`, first their sines,
    then their cosines, the LAST axis first: on a 2-D lattice this is MAE's table (columns before
    rows). Numbers left over are zero.
    """
    count = width // (2 * len(grid))
    if count == 0:
        raise ValueError(
            f"sincos: width={width} is too small for a lattice of {len(grid)} axes; "
            f"it must be at least {2 * len(grid)}."
        )
    omega = 10000.0 ** (-torch.arange(count, dtype=torch.float64) / count)
    axes = torch.meshgrid(*(torch.arange(s, dtype=torch.float64) for s in grid), indexing="ij")
    angles = [axis.flatten()[:, None] * omega for axis in reversed(axes)]
    table = torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)
    return F.pad(table, (0, width - table.shape[1])).float()


@functools.lru_cache(maxsize=64)
def cached_sincos(grid: Grid, width: int, device: torch.device) -> Float[Tensor, "n w"]:
    with torch.device("cpu"):
        return sincos(grid, width).to(device)


@remembers_arguments
class SinCos(nn.Module):
    """Fixed n-D sin-cos positions; any lattice shape at any time. No weights."""

    def __init__(self, tokenizer: Tokenizer, width: int) -> None:
        super().__init__()
        if not isinstance(tokenizer, HasGrid):
            raise ValueError(
                f"SinCos: {type(tokenizer).__name__} has no lattice; use CoordMLP for sets."
            )
        self.width = width
        sincos((1,) * len(tokenizer.grid), width)  # a width that is too small is said now

    def forward(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        if grid is None:
            raise ValueError("SinCos: these tokens have no lattice.")
        return cached_sincos(grid, self.width, slots.device).index_select(0, slots)


@remembers_arguments
class Learned(nn.Module):
    """A learned vector per slot; on another lattice the table is interpolated (cubic on 2-D as in
    MAE's fine-tuning, linear on 1-D and 3-D)."""

    def __init__(self, tokenizer: Tokenizer, width: int) -> None:
        super().__init__()
        if tokenizer.num_tokens is None:
            raise ValueError(
                f"Learned: {type(tokenizer).__name__} has no fixed number of tokens; "
                "use SinCos on lattices or CoordMLP for sets."
            )
        self.grid = tokenizer.grid if isinstance(tokenizer, HasGrid) else None
        self.table = nn.Parameter(torch.zeros(tokenizer.num_tokens, width))
        nn.init.normal_(self.table, std=0.02)

    def forward(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        table = self.table
        if grid is not None and self.grid is not None and grid != self.grid:
            table = interpolate_table(table, self.grid, grid)
        return table.index_select(0, slots)


def interpolate_table(
    table: Float[Tensor, "n w"], old: Grid, new: Grid
) -> Float[Tensor, "new_n w"]:
    """Resample a position table from one lattice to another (align_corners=False)."""
    modes = {1: "linear", 2: "bicubic", 3: "trilinear"}
    if len(old) != len(new) or len(old) not in modes:
        raise ValueError(f"a position table cannot go from lattice {old} to {new}.")
    lattice = rearrange(table, "n w -> 1 w n").reshape(1, table.shape[1], *old)
    resized = F.interpolate(lattice, size=new, mode=modes[len(old)], align_corners=False)
    return rearrange(resized.flatten(2), "1 w n -> n w")


@remembers_arguments
class CoordMLP(nn.Module):
    """Two linear layers of a token's coordinates (Point-MAE, Pang et al. 2022: 128 hidden)."""

    def __init__(self, tokenizer: Tokenizer, width: int, hidden: int = 128) -> None:
        super().__init__()
        self.fc1 = nn.Linear(tokenizer.coord_dim, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        return self.fc2(F.gelu(self.fc1(coords.to(self.fc1.weight.dtype))))
