"""What a modality must say: the Tokenizer and the Adapter, and what they may say beside.

A tokenizer cuts raw data into tokens and has no weights; one such class is a complete plug-in. An
adapter gives tokens their width on the way in and answers for them on the way out; a tokenizer
that brings none gets `LinearAdapter`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Num, UInt8
from numpy import ndarray
from torch import Tensor

from multimask.tokens import (
    BadSample,
    Batch,
    Grid,
    Part,
    Sample,
    Tokens,
    existing,
    slots_of,
)


@runtime_checkable
class Tokenizer(Protocol):
    """Cuts one modality into tokens. A frozen dataclass: its fields are saved with the model.

    token_dim: numbers per token. coord_dim: coordinates per token. num_tokens: slots the modality
    takes in the model; None where counts vary, and the model is then told `max_tokens`.
    The class states its raw contract (shape, dtype, units) and raises `BadSample` or `ValueError`
    when data break it. It may also have any of the abilities below.
    """

    @property
    def token_dim(self) -> int: ...
    @property
    def coord_dim(self) -> int: ...
    @property
    def num_tokens(self) -> int | None: ...
    def __call__(self, part: Part) -> Tokens: ...


@runtime_checkable
class HasGrid(Protocol):
    """Its tokens fill a lattice of this shape, row-major."""

    @property
    def grid(self) -> Grid: ...


@runtime_checkable
class HasBox(Protocol):
    """Its token values are a box of a lattice: these sides, row-major, channels innermost."""

    @property
    def box(self) -> tuple[int, ...]: ...
    @property
    def channels(self) -> int: ...


@runtime_checkable
class Collates(Protocol):
    """Puts its samples' data together its own way (ragged data, graphs, padding)."""

    def collate(self, items: Sequence[Any]) -> Any: ...


@runtime_checkable
class KnowsValid(Protocol):
    """Tells from raw data, before tokenizing, which tokens exist: `(r, n)`, None for all."""

    def valid(self, part: Part) -> Bool[Tensor, "r n"] | None: ...


@runtime_checkable
class KnowsPlaces(Protocol):
    """Knows where its tokens are before it sees any: `blank(count)` is raw data, as its `collate`
    would give, of so many samples that hold nothing and have every token. With it a modality can be
    answered for samples that lack it."""

    def blank(self, count: int) -> Any: ...


@runtime_checkable
class Untokenizes(Protocol):
    """Gives the raw data of all rows back; exact where tokens partition the sample."""

    def untokenize(self, tokens: Tokens) -> Any: ...


@runtime_checkable
class Pictures(Protocol):
    """Draws one row in true units; tokens not `shown` are blanked."""

    def picture(
        self, tokens: Tokens, shown: Bool[Tensor, " n"] | None = None
    ) -> UInt8[ndarray, "h w 3"]: ...


@runtime_checkable
class Mixes(Protocol):
    """Blends two samples' raw data into data that keep the contract, for kinds where a blend
    means something. `blend` averages, `share` being the first's weight; `paste` puts a box of the
    second, drawn by the generator, into the first and says what share of the first is left.
    ValueError for two that cannot be mixed, as when their sizes differ.
    """

    def blend(self, first: Any, second: Any, share: float) -> Any: ...
    def paste(
        self, first: Any, second: Any, share: float, generator: torch.Generator
    ) -> tuple[Any, float]: ...


@runtime_checkable
class Adapter(Protocol):
    """The weights at a modality's two ends. m is any flat subset of its tokens, possibly none.

    `embed` content to encoder width; `place` position for the encoder; `decoder_place` position
    plus modality embedding for the decoder, for visible and hidden tokens alike; `predict` decoder
    features to an answer; `error` of answers against true values, one number a token, not averaged.
    An adapter with `embeds_all = True` is always given all tokens of its modality, hidden ones too
    (batch statistics as published); the model then picks the visible ones. One with
    `answers_by_place = True` has `predict(features, coords)`: which answer it owes depends on where
    the token is, as with a head per wavelength.
    """

    def embed(
        self, values: Num[Tensor, "m c"], coords: Num[Tensor, "m p"]
    ) -> Float[Tensor, "m w"]: ...
    def place(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]: ...
    def decoder_place(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]: ...
    def predict(self, features: Float[Tensor, "m w"]) -> Float[Tensor, "m o"]: ...
    def error(
        self, prediction: Float[Tensor, "m o"], values: Num[Tensor, "m c"]
    ) -> Float[Tensor, " m"]: ...


@runtime_checkable
class Restores(Protocol):
    """An adapter whose answers can be turned back into token values.

    Where `restoring_leaks`, true statistics of the hidden token were needed to do so.
    """

    @property
    def restoring_leaks(self) -> bool: ...
    def restore(
        self, prediction: Float[Tensor, "m o"], values: Num[Tensor, "m c"]
    ) -> Float[Tensor, "m c"]: ...


@runtime_checkable
class BringsAdapter(Protocol):
    """A tokenizer whose modality wants more than linear layers."""

    def adapter(self, width: int, decoder_width: int | None) -> torch.nn.Module: ...


@runtime_checkable
class BringsAdapterFor(Protocol):
    """As `BringsAdapter`, for an adapter that regresses values and so honours the model's `Target`
    (normalisation; `multimask.nn.adapters.Target`)."""

    def adapter_for(
        self, width: int, decoder_width: int | None, target: Any
    ) -> torch.nn.Module: ...


@runtime_checkable
class BringsAdapterAt(Protocol):
    """As `BringsAdapter`, for an adapter that takes the class of its positions, and whether it
    names its modality to the decoder, from the method that builds it."""

    def adapter_at(
        self, width: int, decoder_width: int | None, position: type, decoder_named: bool
    ) -> torch.nn.Module: ...


def collate(samples: Sequence[Sample], tokenizers: Mapping[str, Tokenizer]) -> Batch:
    """Put samples side by side: each modality keeps only the samples that have it.

    A key of None counts as absent. What is neither "id" nor a modality is a label.

    Raises: BadSample for a sample with none of the modalities; ValueError for duplicate ids.
    """
    ids = tuple(str(sample.get("id", row)) for row, sample in enumerate(samples))
    if len(set(ids)) != len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise ValueError(f"collate: id {twice!r} occurs twice in one batch; ids must differ.")
    for name, sample in zip(ids, samples, strict=True):
        if all(sample.get(key) is None for key in tokenizers):
            raise BadSample(
                f"sample {name!r}: has none of the model's modalities {sorted(tokenizers)}, "
                f"only {sorted(sample)}."
            )
    parts = {}
    for key, tokenizer in tokenizers.items():
        rows = [row for row, sample in enumerate(samples) if sample.get(key) is not None]
        if rows:
            items = [samples[row][key] for row in rows]
            parts[key] = Part(stack(items, tokenizer), torch.tensor(rows))
    label_names = {key for sample in samples for key in sample} - {"id", *tokenizers}
    labels = {key: [sample.get(key) for sample in samples] for key in sorted(label_names)}
    return Batch(len(samples), ids, labels, parts)


def stack(items: Sequence[Any], tokenizer: Tokenizer) -> Any:
    """One tensor when all items agree in shape and dtype, else a list (mixed native sizes).

    Raises: BadSample for NaN or infinite numbers, unless the tokenizer says itself what exists.
    """
    if isinstance(tokenizer, Collates):
        return tokenizer.collate(items)
    tensors = [torch.as_tensor(item) for item in items]
    if not isinstance(tokenizer, KnowsValid):
        for tensor in tensors:
            if tensor.is_floating_point() and not tensor.isfinite().all():
                count = int((~tensor.isfinite()).sum())
                raise BadSample(f"{type(tokenizer).__name__}: {count} numbers are NaN or infinite.")
    if len({(t.shape, t.dtype) for t in tensors}) == 1:
        return torch.stack(tensors)
    return tensors


def unless_all(exist: Bool[Tensor, "r n"]) -> Bool[Tensor, "r n"] | None:
    """What `valid` answers: None where all tokens exist, which saves the masking work. On a device
    that question would wait for it, so there it is not asked; the loader makes the masking anyway.
    """
    return None if exist.device.type == "cpu" and bool(exist.all()) else exist


def present(
    batch: Batch, tokenizers: Mapping[str, Tokenizer], num_tokens: Mapping[str, int]
) -> tuple[Tensor, dict[str, Tensor], dict[str, int]]:
    """Before tokenizing: which slots exist, each modality's rows and how many tokens a row has.

    A modality whose tokenizer does not say (`KnowsValid`) is taken to fill its slots.
    """
    slots, parts = slots_of(num_tokens), {}
    for name, part in batch.parts.items():
        tokenizer = tokenizers[name]
        valid = tokenizer.valid(part) if isinstance(tokenizer, KnowsValid) else None
        count = num_tokens[name] if valid is None else valid.shape[1]
        parts[name] = (part.rows, count, valid)
    exists = existing(batch.size, slots, parts)
    rows = {name: rows for name, (rows, _, _) in parts.items()}
    return exists, rows, {name: count for name, (_, count, _) in parts.items()}
