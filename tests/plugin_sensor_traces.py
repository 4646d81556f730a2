"""A seventh kind in one file: traces of several sensors over time, cut into windows of each."""

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from multimask.tokens import BadSample, Part, Tokens


@dataclass(frozen=True)
class SensorTraces:
    """Raw contract: `(sensors, steps)` float, `rate` steps a second. A token is `window` steps of
    one sensor, its coords (sensor, seconds at its middle). Raises BadSample for other shapes."""

    sensors: int = 6
    steps: int = 96
    window: int = 8
    rate: float = 10.0

    coord_dim = 2

    @property
    def token_dim(self) -> int:
        return self.window

    @property
    def grid(self) -> tuple[int, int]:
        return self.sensors, self.steps // self.window

    @property
    def num_tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    def __call__(self, part: Part) -> Tokens:
        if part.data.shape[1:] != (self.sensors, self.steps):
            raise BadSample(
                f"SensorTraces: expected {self.sensors} sensors of {self.steps} steps, found "
                f"{tuple(part.data.shape[1:])}; cut or resample them when reading."
            )
        values = rearrange(part.data, "r s (t w) -> r (s t) w", w=self.window)
        places = torch.cartesian_prod(*(torch.arange(n, device=values.device) for n in self.grid))
        seconds = (places[:, 1] + 0.5) * self.window / self.rate
        coords = torch.stack((places[:, 0].to(seconds.dtype), seconds), dim=1)
        return Tokens(values, coords[None], part.rows, grid=self.grid)

    def untokenize(self, tokens: Tokens) -> Float[Tensor, "r s t"]:
        return rearrange(tokens.values, "r (s t) w -> r s (t w)", s=self.sensors)

    def picture(
        self, tokens: Tokens, shown: Bool[Tensor, " n"] | None = None
    ) -> UInt8[np.ndarray, "h w 3"]:
        levels = tokens.values[0].float().cpu().mul(40).add(128).clamp(0, 255)
        levels = levels if shown is None else levels.where(shown.cpu()[:, None], 255.0)
        rows = rearrange(levels, "(s t) w -> s (t w)", s=self.sensors).repeat_interleave(8, 0)
        return rows.to(torch.uint8)[..., None].expand(-1, -1, 3).contiguous().numpy()
