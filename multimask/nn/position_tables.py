"""Position tables that other projects store among their weights, although they never train."""

import torch
from einops import rearrange
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from multimask.modality import HasGrid, Tokenizer
from multimask.nn.positions import interpolate_table, sincos
from multimask.plugins import remembers_arguments
from multimask.tokens import Grid


def monai_sincos(grid: Grid, width: int) -> Float[Tensor, "n w"]:
    """MONAI's fixed table of a 3-D lattice (its `build_sincos_position_embedding`), row-major.

    MONAI's arrays have the axes (h, w, d) = (x, y, z), ours (z, y, x): `grid` and the rows are
    ours, the numbers theirs. Sines then cosines, `width / 6` each, of w = y, h = x, d = z.
    """
    if len(grid) != 3 or width % 6:
        raise ValueError(
            f"monai_sincos: needs a lattice of 3 axes and a width that is a multiple of 6, "
            f"not {grid} and {width}."
        )
    count = width // 6
    omega = 1.0 / 10000.0 ** (torch.arange(count, dtype=torch.float32) / count)
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in grid), indexing="ij")
    z, y, x = (axis.flatten()[:, None] * omega for axis in axes)
    return torch.cat([f(angle) for angle in (y, x, z) for f in (torch.sin, torch.cos)], dim=1)


class StoredTable(nn.Module):
    """Positions as a buffer: kept with the weights, bit by bit, and not trained. On another lattice
    the table is interpolated."""

    table: Tensor

    def __init__(self, grid: Grid, table: Float[Tensor, "n w"]) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("table", table)

    def forward(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        table = self.table
        if grid is not None and grid != self.grid:
            table = interpolate_table(table, self.grid, grid)
        return table.index_select(0, slots)


@remembers_arguments
class StoredSinCos(StoredTable):
    """MONAI's 3-D sin-cos positions."""

    def __init__(self, tokenizer: Tokenizer, width: int) -> None:
        if not isinstance(tokenizer, HasGrid):
            raise ValueError(f"StoredSinCos: {type(tokenizer).__name__} has no lattice.")
        super().__init__(tokenizer.grid, monai_sincos(tokenizer.grid, width))


@remembers_arguments
class PlaneSinCos(StoredTable):
    """MultiMAE's fixed positions on a 2-D lattice: MAE's table with rows before columns (its two
    halves swapped)."""

    def __init__(self, tokenizer: Tokenizer, width: int) -> None:
        if not isinstance(tokenizer, HasGrid) or len(tokenizer.grid) != 2 or width % 4:
            raise ValueError(
                f"PlaneSinCos: needs a lattice of 2 axes and a width that is a multiple of 4, not "
                f"{type(tokenizer).__name__} and {width}."
            )
        columns, rows = sincos(tokenizer.grid, width).chunk(2, dim=1)
        super().__init__(tokenizer.grid, torch.cat((rows, columns), dim=1))


@remembers_arguments
class FixedTable(StoredTable):
    """A table that came with weights. It begins as the sin-cos table."""

    def __init__(self, tokenizer: Tokenizer, width: int) -> None:
        if not isinstance(tokenizer, HasGrid):
            raise ValueError(f"FixedTable: {type(tokenizer).__name__} has no lattice.")
        super().__init__(tokenizer.grid, sincos(tokenizer.grid, width))


def turned_table(table: Float[Tensor, "n w"], grid: Grid) -> Float[Tensor, "n w"]:
    """Rows in the order of a lattice with these axes, from rows in the order of its reversed axes.

    Its own inverse with the reversed grid.
    """
    a, b, c = grid
    return rearrange(table, "(c b a) w -> (a b c) w", a=a, b=b, c=c)
