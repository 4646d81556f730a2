"""The default adapter: linear in, linear out, squared or absolute error to stated targets."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float, Int, Num
from torch import Tensor, nn
from torch.nn import functional as F

from multimask.modality import HasGrid, Tokenizer
from multimask.nn.blocks import init_weights
from multimask.nn.positions import CoordMLP, SinCos
from multimask.plugins import remembers_arguments
from multimask.tokens import Grid

Unit = Literal["none", "patch", "channel"]
Loss = Literal["squared", "absolute"]


@runtime_checkable
class HasChannels(Protocol):
    """Token values are laid out (..., channel), channels innermost."""

    @property
    def channels(self) -> int: ...


@dataclass(frozen=True)
class Target:
    """How token values become regression targets.

    unit: "none" regresses the values as they are; "patch" subtracts each token's mean and divides
    by its spread (MAE's norm_pix); "channel" does so per token and channel. The spread is
    `sqrt(var + epsilon)`, var with n - 1 in the denominator when `unbiased` (MAE), else n; with
    `epsilon_on="spread"` it is `sqrt(var) + epsilon` (VideoMAE).
    """

    unit: Unit = "none"
    epsilon: float = 1e-6
    unbiased: bool = True
    epsilon_on: Literal["variance", "spread"] = "variance"

    def __post_init__(self) -> None:
        if self.unit not in ("none", "patch", "channel"):
            raise ValueError(f"Target: unit={self.unit!r} must be 'none', 'patch' or 'channel'.")
        if self.epsilon <= 0:
            raise ValueError(f"Target: epsilon={self.epsilon} must be positive.")
        if self.epsilon_on not in ("variance", "spread"):
            raise ValueError(
                f"Target: epsilon_on={self.epsilon_on!r} must be 'variance' or 'spread'."
            )

    def statistics(
        self, values: Float[Tensor, "m g e"]
    ) -> tuple[Float[Tensor, "m g 1"], Float[Tensor, "m g 1"]]:
        """Mean and spread over the last axis."""
        mean = values.mean(dim=-1, keepdim=True)
        # two passes: on a CPU torch.var_mean takes two to five times as long
        squares = (values - mean).square().sum(dim=-1, keepdim=True)
        var = squares / (values.shape[-1] - (1 if self.unbiased else 0))
        if self.epsilon_on == "spread":
            return mean, var.sqrt() + self.epsilon
        return mean, (var + self.epsilon).sqrt()


@remembers_arguments
class LinearAdapter(nn.Module):
    """Linear in, linear out, mean squared error per token.

    Args:
        tokenizer: what it stands at the ends of.
        width, decoder_width: of encoder and decoder; decoder_width None for a model that has no
            decoder, whose heads then sit on the encoder.
        target: how values become targets; "channel" needs a tokenizer with `channels`.
        position, decoder_position: classes from `nn.positions`; default sin-cos tables on
            lattices, an MLP of coordinates for sets.
        named: add a learned modality embedding in the encoder too. decoder_named: add one in the
            decoder, starting at zero (with a single modality it tells nothing).
        loss: a token's error is the mean of "squared" or "absolute" differences.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        width: int,
        decoder_width: int | None,
        target: Target = Target(),
        position: type | None = None,
        decoder_position: type | None = None,
        named: bool = False,
        decoder_named: bool = True,
        loss: Loss = "squared",
    ) -> None:
        super().__init__()
        if loss not in ("squared", "absolute"):
            raise ValueError(f"LinearAdapter: loss={loss!r} must be 'squared' or 'absolute'.")
        self.tokenizer, self.target, self.loss = tokenizer, target, loss
        self.groups = 1
        if target.unit == "channel":
            if not isinstance(tokenizer, HasChannels):
                raise ValueError(
                    f"LinearAdapter: target unit 'channel' needs a tokenizer that states its "
                    f"channels; {type(tokenizer).__name__} does not."
                )
            self.groups = tokenizer.channels
        default = SinCos if isinstance(tokenizer, HasGrid) else CoordMLP
        answer_width = width if decoder_width is None else decoder_width
        self.proj = nn.Linear(tokenizer.token_dim, width)
        self.pred = nn.Linear(answer_width, tokenizer.token_dim)
        self.position = (position or default)(tokenizer, width)
        self.name = nn.Parameter(torch.zeros(width)) if named else None
        self.decoder_position = self.decoder_name = None  # every weight has a part in every step
        if decoder_width is not None:
            self.decoder_position = (decoder_position or position or default)(
                tokenizer, decoder_width
            )
            if decoder_named:
                self.decoder_name = nn.Parameter(torch.zeros(decoder_width))
        self.apply(init_weights)

    def embed(self, values: Num[Tensor, "m c"], coords: Num[Tensor, "m p"]) -> Float[Tensor, "m w"]:
        content = self.proj(values.to(self.proj.weight.dtype))
        return content if self.name is None else content + self.name

    def place(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        return self.position(coords, slots, grid)

    def decoder_place(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        if self.decoder_position is None:
            raise ValueError("LinearAdapter: it was built for a model without a decoder.")
        place = self.decoder_position(coords, slots, grid)
        return place if self.decoder_name is None else place + self.decoder_name

    def predict(self, features: Float[Tensor, "m w"]) -> Float[Tensor, "m c"]:
        return self.pred(features)

    def targets(self, values: Float[Tensor, "m c"]) -> Float[Tensor, "m c"]:
        """What `predict` is asked for: the values, normalised as `target` says."""
        if self.target.unit == "none":
            return values
        grouped = self.grouped(values)
        mean, spread = self.target.statistics(grouped)
        return self.ungrouped((grouped - mean) / spread)

    def error(
        self, prediction: Float[Tensor, "m c"], values: Num[Tensor, "m c"]
    ) -> Float[Tensor, " m"]:
        # under autocast predictions come in half precision; targets never do
        exact = torch.promote_types(prediction.dtype, torch.float32)
        wanted = self.targets(values.to(exact))
        measure = F.mse_loss if self.loss == "squared" else F.l1_loss
        return measure(prediction.to(exact), wanted, reduction="none").mean(dim=-1)

    @property
    def restoring_leaks(self) -> bool:
        """Whether `restore` uses the hidden token's true mean and spread."""
        return self.target.unit != "none"

    def restore(
        self, prediction: Float[Tensor, "m c"], values: Num[Tensor, "m c"]
    ) -> Float[Tensor, "m c"]:
        """Answers in the scale of token values. Normalised targets do not say where a token's mean
        lies, so its TRUE mean and spread are put back: right to look at, not a fair score."""
        if not self.restoring_leaks:
            return prediction
        mean, spread = self.target.statistics(self.grouped(values.to(prediction.dtype)))
        return self.ungrouped(self.grouped(prediction) * spread + mean)

    def grouped(self, values: Float[Tensor, "m c"]) -> Float[Tensor, "m g e"]:
        return rearrange(values, "m (e g) -> m g e", g=self.groups)

    def ungrouped(self, values: Float[Tensor, "m g e"]) -> Float[Tensor, "m c"]:
        return rearrange(values, "m g e -> m (e g)")
