"""The contract checks hold for what is built in, and catch what breaks a promise."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from multimask.masking import Block, Context, Count, Grid, Masker, Ratio, Uniform
from multimask.modalities.image import Fit, ImagePatches
from multimask.nn.adapters import LinearAdapter
from multimask.testing import check_adapter, check_masker, check_modality, check_tokenizer
from multimask.tokens import Masking, Part, Tokens


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


# --- the promises of data that come as they like --------------------------------------------------


@dataclass(frozen=True)
class Readings:
    """A set: rows of three numbers, as many as there are, padded with NaN in a batch."""

    coord_dim = 1
    token_dim = 3
    num_tokens = None

    def collate(self, items: list[Tensor]) -> Tensor:
        return nn.utils.rnn.pad_sequence(items, batch_first=True, padding_value=torch.nan)

    def valid(self, part: Part) -> Tensor:
        return ~part.data.isnan().any(dim=2)

    def __call__(self, part: Part) -> Tokens:
        return Tokens(part.data, part.data[..., :1], part.rows, self.valid(part))


def test_a_set_of_any_length_keeps_the_contract() -> None:
    check_modality(Readings(), [torch.rand(count, 3) for count in (4, 6, 5)], max_tokens=6)


class Drifting(Windows):
    def __call__(self, part: Part) -> Tokens:
        tokens = super().__call__(part)
        return Tokens(tokens.values + torch.rand(1), tokens.coords, part.rows, grid=(4,))


class Standardising(Windows):
    def __call__(self, part: Part) -> Tokens:
        return super().__call__(Part(part.data - part.data.mean(), part.rows))


class Spoiling(Windows):
    def __call__(self, part: Part) -> Tokens:
        tokens = super().__call__(part)
        tokens = Tokens(tokens.values.clone(), tokens.coords, part.rows, grid=(4,))
        part.data.zero_()
        return tokens


class Careless(Windows):
    def collate(self, items: list[Tensor]) -> Tensor:
        return torch.stack(items)


@pytest.mark.parametrize(
    ("tokenizer", "told"),
    [
        (Drifting(), "the same data give other tokens"),
        (Standardising(), "depend on its batch mates"),
        (Spoiling(), "changes the raw data in place"),
        (Careless(), "NaN reaches a token"),
    ],
)
def test_an_unsteady_tokenizer_is_caught(tokenizer: Windows, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        check_tokenizer(tokenizer, [trace.clone() for trace in TRACES])


@dataclass(frozen=True)
class Proud(Windows):
    """Brings an adapter one weight of which never does anything."""

    def adapter(self, width: int, decoder_width: int | None) -> nn.Module:
        adapter = LinearAdapter(self, width, decoder_width)
        adapter.register_parameter("idle", nn.Parameter(torch.zeros(2)))
        return adapter


class Mixing(LinearAdapter):
    """Centres each list of tokens it is given: what is visible depends on what else is."""

    def embed(self, values: Tensor, coords: Tensor) -> Tensor:
        content = super().embed(values, coords)
        return content - content.mean(dim=0) if len(content) else content


def test_a_weight_without_a_part_is_caught() -> None:
    with pytest.raises(AssertionError, match=r"no gradient reaches adapters\.modality\.idle"):
        check_modality(Proud(), TRACES)


def test_an_adapter_that_mixes_samples_is_caught() -> None:
    with pytest.raises(AssertionError, match="a subset embeds differently"):
        check_adapter(Windows(), Mixing(Windows(), 24, 24), TRACES)


@dataclass(frozen=True)
class Unseeded:
    def __call__(
        self, exists: Tensor, generators: list[torch.Generator], context: object
    ) -> Tensor:
        return torch.rand(exists.shape)


@dataclass(frozen=True)
class Blind(Masker):
    """Scores what does not exist like anything else."""

    def __call__(
        self, exists: Tensor, generators: list[torch.Generator], context: Context
    ) -> Masking:
        masking = super().__call__(torch.ones_like(exists), generators, context)
        return replace(masking, exists=exists)


@pytest.mark.parametrize(
    ("masker", "told"),
    [
        (Masker(Unseeded(), Ratio(0.5)), "global generator"),
        (Blind(Uniform(), Count(5)), "tokens that do not exist are visible"),
    ],
)
def test_an_unfair_masker_is_caught(masker: Masker, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        check_masker(masker, {"a": (8,), "b": (4,)})
