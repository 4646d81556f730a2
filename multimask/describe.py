"""What a model is and costs: parameters, tokens, effective ratio, FLOPs, shares."""

from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from multimask.masking.masker import Masker
from multimask.model import MaskedModel
from multimask.tokens import Step, TokenBatch, Tokens


@dataclass(frozen=True)
class Description:
    """parameters: trainable ones, by part. tokens: slots by modality. flops: of one sample's
    forward pass by part (a multiply-add counts two), matrix products and attention only."""

    parameters: dict[str, int]
    tokens: dict[str, int]
    visible: int
    decoded: int
    effective_ratio: float
    flops: dict[str, int]

    @property
    def encoder_share(self) -> float:
        return self.flops["encoder"] / max(sum(self.flops.values()), 1)

    @property
    def decoder_share(self) -> float:
        return self.flops["decoder"] / max(sum(self.flops.values()), 1)

    def __str__(self) -> str:
        count = sum(self.parameters.values())
        tokens = ", ".join(f"{name} {number}" for name, number in self.tokens.items())
        total = sum(self.flops.values())
        lines = [
            f"parameters  {count / 1e6:.2f} M ("
            + ", ".join(f"{n} {v / 1e6:.2f} M" for n, v in self.parameters.items())
            + ")",
            f"tokens      {tokens}: {self.visible} visible, {self.decoded} decoded "
            f"({self.effective_ratio:.1%} hidden)",
            f"forward     {total / 1e9:.3f} GFLOP a sample: encoder {self.encoder_share:.0%}, "
            f"decoder {self.decoder_share:.0%}, ends {self.flops['adapters'] / max(total, 1):.0%}",
        ]
        return "\n".join(lines)


def describe(model: MaskedModel, masker: Masker) -> Description:
    """Counted on one complete sample of zeros: nothing is estimated from formulas."""
    parts = {"encoder": model.encoder, "decoder": model.decoder, "adapters": model.adapters}
    parameters = {
        name: sum(p.numel() for p in part.parameters() if p.requires_grad) if part else 0
        for name, part in parts.items()
    }
    tokens = sample_of_zeros(model)
    masking = masker(tokens.exists, Step().generators(["sample"], "masking"), model.context(tokens))
    was_training = model.training
    model.eval()
    # in plain products: the counter does not know every device's fused attention
    plain = sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), plain, FlopCounterMode(display=False) as whole:
        with FlopCounterMode(display=False) as encoding:
            latents = model.encode_visible(tokens, masking)
        with FlopCounterMode(display=False) as decoding:
            features = model.decode(tokens, latents, masking)
        model.predict(tokens, features, masking)
    model.train(was_training)
    ends = {"encoder": model.encoder, "decoder": model.decoder}
    inside = {
        name: module_flops(counter, part)
        for (name, part), counter in zip(ends.items(), (encoding, decoding), strict=True)
    }
    inside["adapters"] = whole.get_total_flops() - sum(inside.values())
    visible, decoded = masking.ids.shape[1], masking.decoded_ids.shape[1]
    hidden = int((masking.exists & ~masking.visible).sum())
    return Description(
        parameters, dict(model.num_tokens), visible, decoded, hidden / tokens.num_slots, inside
    )


def module_flops(counter: FlopCounterMode, module: torch.nn.Module | None) -> int:
    if module is None:
        return 0
    name = type(module).__name__
    return sum(counter.get_flop_counts().get(name, {}).values())


def sample_of_zeros(model: MaskedModel) -> TokenBatch:
    rows = torch.zeros(1, dtype=torch.long, device=model.device)
    modalities = {}
    for name, tokenizer in model.tokenizers.items():
        n = model.num_tokens[name]
        modalities[name] = Tokens(
            torch.zeros(1, n, tokenizer.token_dim, device=model.device),
            torch.zeros(1, n, tokenizer.coord_dim, device=model.device),
            rows,
            grid=model.static_grid(name),
        )
    return TokenBatch(1, modalities, model.slots)
