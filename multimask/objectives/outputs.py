"""Another answer to a modality than its adapter's: an objective's own decoder and head."""

from typing import cast

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn
from torch.nn import functional as F

from multimask.model import MaskedModel
from multimask.nn.adapters import Target
from multimask.nn.blocks import init_weights
from multimask.tokens import Latents, Masking, TokenBatch


class ExtraOutput(nn.Module):
    """Answers for a modality's values under another target (MultiMAE's `norm_rgb` beside `rgb`).

    Args:
        modality: whose tokens are answered for. token_dim: numbers per token of it.
        decoder: as a model's; its features are asked for at this modality's tokens only.
        target: "none" or "patch".
    """

    def __init__(
        self,
        modality: str,
        token_dim: int,
        decoder: nn.Module,
        target: Target = Target("patch"),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        if target.unit == "channel":
            raise ValueError("ExtraOutput: target unit 'channel' is not known here; use 'patch'.")
        self.modality, self.target = modality, target
        self.decoder = decoder
        self.pred = nn.Linear(cast(int, decoder.width), token_dim)
        self.pred.apply(init_weights)

    def forward(
        self, model: MaskedModel, tokens: TokenBatch, latents: Latents, masking: Masking
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As an entry of `MaskedModel.predict`: answers, true values, where they stand."""
        features = model.decode(tokens, latents, masking, self.decoder)
        return model.predict(tokens, features, masking, {self.modality: self})[self.modality]

    def predict(self, features: Float[Tensor, "m w"]) -> Float[Tensor, "m c"]:
        return self.pred(features)

    def error(
        self, prediction: Float[Tensor, "m c"], values: Num[Tensor, "m c"]
    ) -> Float[Tensor, " m"]:
        exact = torch.promote_types(prediction.dtype, torch.float32)
        wanted = values.to(exact)
        if self.target.unit == "patch":
            mean, spread = (x.squeeze(1) for x in self.target.statistics(wanted[:, None]))
            wanted = (wanted - mean) / spread
        return F.mse_loss(prediction.to(exact), wanted, reduction="none").mean(dim=-1)
