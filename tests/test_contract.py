"""The contract checks hold for what is built in, and catch what breaks a promise."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from multimask.masking import Block, Count, Grid, Masker, Ratio, Uniform
from multimask.modalities.image import Fit, ImagePatches
from multimask.nn.adapters import LinearAdapter
from multimask.testing import check_adapter, check_masker, check_modality, check_tokenizer
from multimask.tokens import Part, Tokens


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("fit", ["error", "crop", "pad"])
def test_pictures_keep_the_contract(channels: int, fit: Fit) -> None:
    size = (24, 16) if fit == "error" else (27, 19)
    tokenizer = ImagePatches(size, (4, 8), channels, 0.4, 0.3, fit)
    check_modality(tokenizer, list(torch.rand(3, channels, *size)))


@pytest.mark.parametrize("rule", [Uniform(), Block(), Grid()], ids=lambda r: type(r).__name__)
@pytest.mark.parametrize("budget", [Ratio(0.6), Count(3, 5)], ids=lambda b: type(b).__name__)
def test_maskers_keep_the_contract(rule: Uniform, budget: Ratio) -> None:
    check_masker(Masker(rule, budget), {"a": (4, 6), "b": (3, 3, 3)})


@dataclass(frozen=True)
class Windows:
    """Traces of 12 numbers in windows of 3: keeps every promise."""

    coord_dim = 1
    token_dim = 3
    num_tokens = 4
    grid = (4,)

    def __call__(self, part: Part) -> Tokens:
        values = part.data.unflatten(1, (4, 3))
        return Tokens(values, torch.arange(4.0)[None, :, None], part.rows, grid=(4,))

    def untokenize(self, tokens: Tokens) -> Tensor:
        return tokens.values.flatten(1)

    def picture(self, tokens: Tokens, shown: Tensor | None = None) -> np.ndarray:
        values = tokens.values[0] if shown is None else tokens.values[0] * shown[:, None]
        grey = (values.flatten() * 255).byte().numpy()
        return np.repeat(grey[None, :, None], 3, axis=2)


class Backwards(Windows):
    def untokenize(self, tokens: Tokens) -> Tensor:
        return super().untokenize(tokens).flip(1)


class Showing(Windows):
    def picture(self, tokens: Tokens, shown: Tensor | None = None) -> np.ndarray:
        return super().picture(tokens)


class Wide(Windows):
    token_dim = 4


class Astray(Windows):
    def __call__(self, part: Part) -> Tokens:
        tokens = super().__call__(part)
        return Tokens(tokens.values, tokens.coords, part.rows.flip(0), grid=(4,))


TRACES = list(torch.rand(3, 12))


def test_the_plain_plug_in_of_this_test_keeps_the_contract() -> None:
    check_modality(Windows(), TRACES)


@pytest.mark.parametrize(
    ("tokenizer", "told"),
    [
        (Backwards(), "untokenized"),
        (Showing(), "hidden"),
        (Wide(), "token_dim=4"),
        (Astray(), "rows are not"),
    ],
)
def test_a_broken_tokenizer_is_caught(tokenizer: Windows, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        check_tokenizer(tokenizer, TRACES)


class Peeking(nn.Module):
    """An adapter whose embedding looks at its neighbours in the list."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = LinearAdapter(Windows(), 8, 8)

    def embed(self, values: Tensor, coords: Tensor) -> Tensor:
        return self.inner.embed(values - values.mean(), coords)

    def place(self, coords: Tensor, slots: Tensor, grid: tuple[int, ...] | None) -> Tensor:
        return self.inner.place(coords, slots, grid)

    def decoder_place(self, coords: Tensor, slots: Tensor, grid: tuple[int, ...] | None) -> Tensor:
        return self.inner.decoder_place(coords, slots, grid)

    def predict(self, features: Tensor) -> Tensor:
        return self.inner.predict(features)

    def error(self, prediction: Tensor, values: Tensor) -> Tensor:
        return self.inner.error(prediction, values)


class Averaging(Peeking):
    def embed(self, values: Tensor, coords: Tensor) -> Tensor:
        return self.inner.embed(values, coords)

    def error(self, prediction: Tensor, values: Tensor) -> Tensor:
        return super().error(prediction, values).mean()


@pytest.mark.parametrize(("adapter", "told"), [(Peeking, "subset"), (Averaging, "one a token")])
def test_a_broken_adapter_is_caught(adapter: type[nn.Module], told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        check_adapter(Windows(), adapter(), TRACES)


@dataclass(frozen=True)
class Herd:
    """A rule whose scores depend on who else is in the batch."""

    def __call__(
        self, exists: Tensor, generators: list[torch.Generator], context: object
    ) -> Tensor:
        scores = torch.stack([torch.rand(exists.shape[1], generator=g) for g in generators])
        return scores.roll(1, dims=0)


def test_a_broken_masker_is_caught() -> None:
    with pytest.raises(AssertionError, match="batch mates"):
        check_masker(Masker(Herd(), Ratio(0.5)), {"a": (8,)})
