"""An adapter that scores directions: one minus the cosine of answer and target."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn
from torch.nn import functional as F

from multimask.modalities.skeleton_encodings import NoPlaces
from multimask.modality import Tokenizer
from multimask.plugins import remembers_arguments
from multimask.tokens import Grid

Aim = Literal["embedded", "values"]
TINY = 1e-6  # a target shorter than this has no direction


@remembers_arguments
class CosineAdapter(nn.Module):
    """Linear in; out, an answer of which only the direction counts (SkeletonMAE, ICCV 2023).

    `error` is `1 - cos`, in 0..2; zero for targets without a direction (`directed` says which).

    Args:
        aim: "embedded": the target is the joint's own linear embedding, detached: were it not, all
            embeddings could turn parallel and the loss vanish. The embedding has a bias, so size
            shows in its direction too. "values": the token's values themselves, centre them when
            reading; then only where a joint lies from the centre is learnt, not how far.
        position: of encoder and decoder, `(tokenizer, width)`; none by default, since a graph
            encoder tells joints apart by their bones.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        width: int,
        decoder_width: int | None,
        aim: Aim = "embedded",
        position: type | None = None,
    ) -> None:
        super().__init__()
        if aim not in ("embedded", "values"):
            raise ValueError(f"CosineAdapter: aim={aim!r} must be 'embedded' or 'values'.")
        if aim == "embedded" and width <= tokenizer.token_dim:
            raise ValueError(
                f"CosineAdapter: an embedding of width={width} cannot hold the direction and size "
                f"of {tokenizer.token_dim} numbers; take more, or aim='values'."
            )
        self.aim: Aim = aim
        answer_width = width if decoder_width is None else decoder_width
        out = width if aim == "embedded" else tokenizer.token_dim
        self.proj = nn.Linear(tokenizer.token_dim, width)
        # as published the decoder's own last layer answers
        self.pred = nn.Identity() if answer_width == out else nn.Linear(answer_width, out)
        self.position = (position or NoPlaces)(tokenizer, width)
        self.decoder_position = (position or NoPlaces)(tokenizer, answer_width)

    def embed(self, values: Num[Tensor, "m c"], coords: Num[Tensor, "m p"]) -> Float[Tensor, "m w"]:
        return self.proj(values.to(self.proj.weight.dtype))

    def place(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        return self.position(coords, slots, grid)

    def decoder_place(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        return self.decoder_position(coords, slots, grid)

    def predict(self, features: Float[Tensor, "m w"]) -> Float[Tensor, "m o"]:
        return self.pred(features)

    @torch.no_grad()
    def target(self, values: Num[Tensor, "m c"]) -> Float[Tensor, "m o"]:
        floats = values.to(self.proj.weight.dtype)
        return self.proj(floats) if self.aim == "embedded" else floats

    def directed(self, values: Num[Tensor, "m c"]) -> Bool[Tensor, " m"]:
        """Which targets have a direction: a joint at the centre itself has none."""
        return self.target(values).norm(dim=-1) > TINY

    def error(
        self, prediction: Float[Tensor, "m o"], values: Num[Tensor, "m c"]
    ) -> Float[Tensor, " m"]:
        return self.judged(prediction, values)[0]

    def judged(
        self, prediction: Float[Tensor, "m o"], values: Num[Tensor, "m c"]
    ) -> tuple[Float[Tensor, " m"], Bool[Tensor, " m"]]:
        """`error`, and `directed` from the same targets."""
        wanted = self.target(values).to(prediction.dtype)
        length = wanted.norm(dim=-1)
        along = (prediction * wanted).sum(dim=-1)
        lengths = prediction.norm(dim=-1) * length
        directed = length > TINY
        return (1 - along / lengths.clamp(min=1e-12)) * directed, directed

    @property
    def restoring_leaks(self) -> bool:
        """aim="values" knows no distances: the true one is put back."""
        return self.aim == "values"

    @torch.no_grad()
    def restore(
        self, prediction: Float[Tensor, "m o"], values: Num[Tensor, "m c"]
    ) -> Float[Tensor, "m c"]:
        """Answers in the scale of token values: the values whose embedding points most nearly the
        way of the answer (least squares)."""
        if self.aim == "values":
            length = values.to(prediction.dtype).norm(dim=-1, keepdim=True)
            return F.normalize(prediction, dim=-1) * length
        weight, bias = self.proj.weight.double(), self.proj.bias.double()
        along = F.normalize(prediction.double(), dim=-1)
        # weight x + bias = s along, for x and s: take out the component along the answer
        across = weight[None] - along[:, :, None] * (along @ weight)[:, None]
        rest = bias - along * (along @ bias)[:, None]
        square = across.mT @ across
        ridge = 1e-9 * torch.eye(square.shape[-1], dtype=square.dtype, device=square.device)
        right = -(across.mT @ rest[..., None])
        return torch.linalg.solve(square + ridge, right).squeeze(-1).to(prediction.dtype)
