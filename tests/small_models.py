"""What tests of the model share: small models of three modalities and samples that lack some."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from multimask.masking import Count, Masker
from multimask.modalities.image import ImagePatches
from multimask.modality import Tokenizer, collate
from multimask.model import MaskedModel
from multimask.nn.adapters import Target
from multimask.nn.decoders import JointDecoder
from multimask.nn.encoders import Encoder
from multimask.tokens import Masking, Part, Sample, Step, TokenBatch, Tokens


@dataclass(frozen=True)
class Readings:
    """A set: up to six rows of (time, pressure, heat), fewer are padded with NaN."""

    most: int = 6

    token_dim = 3
    coord_dim = 1
    num_tokens = None

    def collate(self, items: Sequence[Any]) -> Tensor:
        padded = torch.full((len(items), self.most, 3), torch.nan, dtype=items[0].dtype)
        for row, item in zip(padded, items, strict=True):
            row[: len(item)] = item
        return padded

    def valid(self, part: Part) -> Bool[Tensor, "r n"]:
        return ~part.data.isnan().any(dim=2)

    def __call__(self, part: Part) -> Tokens:
        return Tokens(part.data, part.data[..., :1], part.rows, self.valid(part))


DAY, NIGHT = ImagePatches((8, 12), 4), ImagePatches(8, 4, channels=1)

KINDS: dict[str, Tokenizer] = {"day": DAY, "night": NIGHT, "log": Readings()}


def build(
    tokenizers: Mapping[str, Tokenizer] = KINDS,
    decoder: Callable[..., nn.Module] | bool = JointDecoder,
    target: Target = Target(),  # noqa: B008
    **encoder: Any,
) -> MaskedModel:
    torch.manual_seed(0)
    model = MaskedModel(
        tokenizers,
        Encoder(24, 2, 2, **encoder),
        decoder if isinstance(decoder, bool) else decoder(24, 16, 2, 2),
        target=target,
        max_tokens={"log": 6} if "log" in tokenizers else None,
    )
    with torch.no_grad():  # off the values that weights start from
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.double().eval()  # so that rounding hides nothing


def sample(*names: str, seed: int = 0) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    made = {
        "day": torch.rand(3, 8, 12, generator=generator, dtype=torch.double),
        "night": torch.rand(1, 8, 8, generator=generator, dtype=torch.double),
        "log": torch.rand(3 + seed % 4, 3, generator=generator, dtype=torch.double),
    }
    return {"id": f"s{seed}", **{name: made[name] for name in names}}


MIXED = [
    sample("day", "night", "log", seed=0),
    sample("day", "log", seed=1),
    sample("night", seed=2),
    sample("log", "night", seed=3),
    sample("day", seed=4),
]

MASKER = Masker(budget=Count(3, 12))


def tokens_and_masking(
    model: MaskedModel, samples: Sequence[Sample], masker: Masker = MASKER
) -> tuple[TokenBatch, Masking]:
    batch = collate(samples, model.tokenizers)
    tokens = model.tokenize(batch)
    generators = Step().generators(batch.sample_ids, "masking")
    return tokens, model.picked(tokens, masker(tokens.exists, generators, model.context(tokens)))
