"""What a tokenizer and its adapter promise, checked on a few of its own samples."""

import copy
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from multimask.checkpoints import load
from multimask.masking import Count, Masker, Uniform
from multimask.modality import (
    Adapter,
    HasGrid,
    KnowsValid,
    Pictures,
    Tokenizer,
    Untokenizes,
    collate,
)
from multimask.model import MaskedModel
from multimask.objectives import Reconstruction
from multimask.plugins import from_config, to_config
from multimask.tokens import Batch, Part, Step, TokenBatch, Tokens

NAME = "modality"


def check_tokenizer(tokenizer: Tokenizer, data: Sequence[Any]) -> None:
    """Shapes, places, inverse, picture and configuration, on raw data of some samples (at least
    two, of equal size)."""
    kind = type(tokenizer).__name__
    frozen = dataclasses.is_dataclass(tokenizer) and type(tokenizer).__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert frozen, f"{kind} must be a frozen dataclass: its fields are saved with the model"
    part = batch_of(tokenizer, data).parts[NAME]
    tokens = tokenizer(part)
    rows, n, c = tokens.values.shape
    assert rows == len(data), f"{kind}: {rows} rows of tokens for {len(data)} samples"
    assert c == tokenizer.token_dim, f"{kind}: token_dim={tokenizer.token_dim}, values hold {c}"
    assert tokens.coords.shape[0] in (1, rows), f"{kind}: coords for {tokens.coords.shape[0]} rows"
    shape = tuple(tokens.coords.shape[1:])
    assert shape == (n, tokenizer.coord_dim), (
        f"{kind}: coords {shape}, not {(n, tokenizer.coord_dim)}"
    )
    assert torch.equal(tokens.rows, part.rows), f"{kind}: rows are not those of the part"
    if tokenizer.num_tokens is not None:
        assert n <= tokenizer.num_tokens, f"{kind}: {n} tokens, num_tokens={tokenizer.num_tokens}"
    if isinstance(tokenizer, HasGrid):
        assert tokens.grid is not None, f"{kind} has a grid but its tokens have none"
        assert torch.Size(tokens.grid).numel() == n, f"{kind}: grid {tokens.grid} of {n} tokens"
    check_steady(tokenizer, data)
    check_numbers(tokenizer, data)
    if isinstance(tokenizer, KnowsValid):
        same_or_none(
            tokenizer.valid(part), tokens.valid, f"{kind}: valid() before and after differ"
        )
    if isinstance(tokenizer, Untokenizes):
        again = tokenizer(collated(tokenizer, tokenizer.untokenize(tokens), part))
        close = torch.allclose(
            again.values.float(), tokens.values.float(), atol=1e-5, equal_nan=True
        )
        assert close, f"{kind}: tokens of untokenized tokens are not the tokens"
    if isinstance(tokenizer, Pictures):
        check_picture(tokenizer, one_row(tokens), kind)
    assert from_config(to_config(tokenizer), {kind: type(tokenizer)}) == tokenizer, (
        f"{kind}: its configuration does not give it back"
    )


def check_steady(tokenizer: Tokenizer, data: Sequence[Any]) -> None:
    """The same tokens every time and in every batch; raw data are left alone."""
    kind, part = type(tokenizer).__name__, batch_of(tokenizer, data).parts[NAME]
    raw = copy.deepcopy(part.data)
    tokens = tokenizer(part)
    untouched = not isinstance(raw, Tensor) or equal(raw, part.data)
    assert untouched, f"{kind}: tokenizing changes the raw data in place"
    again = tokenizer(part)
    assert equal(again.values, tokens.values), f"{kind}: the same data give other tokens"
    for row, item in enumerate(data):
        alone = tokenizer(batch_of(tokenizer, [item]).parts[NAME])
        n = alone.values.shape[1]  # a batch may be padded to its longest sample
        close = torch.allclose(
            alone.values[0].float(), tokens.values[row, :n].float(), atol=1e-5, equal_nan=True
        )
        assert close, f"{kind}: the tokens of a sample depend on its batch mates"


def check_numbers(tokenizer: Tokenizer, data: Sequence[Any]) -> None:
    """Not-a-number in the raw data is refused, or makes tokens that do not exist. A tokenizer that
    says `missing_within = True` lets tokens hold it, and its adapter is asked to take it."""
    broken = torch.as_tensor(data[0]).clone() if isinstance(data[0], Tensor | np.ndarray) else None
    if broken is None or not broken.is_floating_point():
        return
    broken.view(-1)[0] = torch.nan
    try:
        tokens = tokenizer(batch_of(tokenizer, [broken]).parts[NAME])
    except ValueError:  # BadSample is one
        return
    there = tokens.values if tokens.valid is None else tokens.values[tokens.valid]
    if getattr(tokenizer, "missing_within", False):
        assert there.isnan().any(), f"{type(tokenizer).__name__}: a missing number became another"
        return
    assert there.isfinite().all(), (
        f"{type(tokenizer).__name__}: NaN reaches a token; raise BadSample, or say in `valid` that "
        "the token does not exist"
    )


def check_picture(tokenizer: Pictures, tokens: Tokens, kind: str) -> None:
    n = tokens.values.shape[1]
    whole = tokenizer.picture(tokens)
    assert whole.dtype == np.uint8, f"{kind}: a picture is uint8, not {whole.dtype}"
    assert whole.ndim == 3, f"{kind}: a picture is (height, width, 3), not {whole.shape}"
    assert whole.shape[2] == 3, f"{kind}: a picture is (height, width, 3), not {whole.shape}"
    blank = tokenizer.picture(tokens, torch.zeros(n, dtype=torch.bool))
    assert blank.shape == whole.shape, f"{kind}: hiding tokens changes the size of the picture"
    assert not np.array_equal(blank, whole), f"{kind}: the picture shows tokens that are hidden"


def check_adapter(tokenizer: Tokenizer, adapter: torch.nn.Module, data: Sequence[Any]) -> None:
    """Embedding a subset equals the subset of embedding all; zero rows work; errors per token."""
    assert isinstance(adapter, Adapter), f"{type(adapter).__name__} lacks a method of Adapter"
    kind = type(adapter).__name__
    adapter.eval()
    tokens = tokenizer(batch_of(tokenizer, data).parts[NAME])
    rows, n, _ = tokens.values.shape
    there = torch.ones(rows, n, dtype=torch.bool) if tokens.valid is None else tokens.valid
    values = tokens.values[there]
    coords = tokens.coords.expand(rows, -1, -1)[there]
    slots = torch.arange(n).expand(rows, -1)[there]
    some = torch.arange(0, len(values), 3)
    with torch.no_grad():
        whole = adapter.embed(values, coords)
        few = adapter.embed(values[some], coords[some])
        assert torch.allclose(whole[some], few, atol=1e-5), f"{kind}: a subset embeds differently"
        for place in (adapter.place, adapter.decoder_place):
            here = place(coords, slots, tokens.grid)
            part = place(coords[some], slots[some], tokens.grid)
            assert torch.allclose(here[some], part, atol=1e-5), f"{kind}: a subset lies elsewhere"
        features = adapter.decoder_place(coords, slots, tokens.grid)
        by_place = getattr(adapter, "answers_by_place", False)
        prediction = adapter.predict(features, *((coords,) if by_place else ()))
        error = adapter.error(prediction, values)
        assert error.shape == (len(values),), (
            f"{kind}: error {tuple(error.shape)}, one a token wanted"
        )
        assert error.isfinite().all(), f"{kind}: errors are not finite"
        if getattr(tokenizer, "missing_within", False):
            values = values.clone()
            values[:, 0] = torch.nan
            assert adapter.embed(values, coords).isfinite().all(), f"{kind}: NaN is embedded"
            assert adapter.error(prediction, values).isfinite().all(), f"{kind}: NaN is scored"
        none = adapter.embed(values[:0], coords[:0])
        assert none.shape == (0, whole.shape[1]), f"{kind}: no tokens must embed to no rows"
        no_place = (coords[:0],) if by_place else ()
        nothing = adapter.error(adapter.predict(features[:0], *no_place), values[:0])
        assert nothing.shape == (0,), f"{kind}: no answers must have no errors"


def check_modality(
    tokenizer: Tokenizer, data: Sequence[Any], max_tokens: int | None = None
) -> None:
    """All of the above, and through a small model: hidden content changes nothing, nor does the
    order of samples or what others lack; every weight has a gradient; the model comes back from
    disk as it was."""
    check_tokenizer(tokenizer, data)
    slots = {} if max_tokens is None else {NAME: max_tokens}
    torch.manual_seed(0)
    model = MaskedModel({NAME: tokenizer}, max_tokens=slots, width=48, depth=1, heads=2).eval()
    check_adapter(tokenizer, model.adapters[NAME], data)
    batch = batch_of(tokenizer, data)
    tokens = model.tokenize(batch)
    fewest = int(tokens.exists.sum(dim=1).min())
    assert fewest >= 2, "the samples need at least two tokens each to hide one"
    masker = Masker(Uniform(), Count(max(1, fewest // 2)))
    masking = masker(tokens.exists, Step().generators(batch.sample_ids, "m"), model.context(tokens))
    kind = type(tokenizer).__name__
    with torch.no_grad():
        before = model.encode_visible(tokens, masking).tokens
        after = model.encode_visible(scrambled(tokens, ~masking.visible), masking).tokens
        batch_statistics = getattr(model.adapters[NAME], "embeds_all", False)
        assert batch_statistics or torch.equal(before, after), f"{kind}: hidden content leaks"
        vectors = model.encode(batch).mean()
        backwards = model.encode(batch_of(tokenizer, data[::-1])).mean().flip(0)
    assert torch.allclose(vectors, backwards, atol=1e-5), f"{kind}: the order of samples matters"
    terms = Reconstruction(masker)(model.train(), batch, Step())
    torch.stack([term.value() for term in terms.values()]).sum().backward()
    idle = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert not idle, f"{kind}: no gradient reaches {', '.join(idle)}"
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model.eval().save(folder)
        again = load(folder, classes={kind: type(tokenizer)}).encode(batch).mean()
    assert torch.equal(again, model.encode(batch).mean()), f"{kind}: a saved model differs"
    check_beside_another(tokenizer, data, max_tokens)


def check_beside_another(
    tokenizer: Tokenizer, data: Sequence[Any], max_tokens: int | None = None
) -> None:
    """Two modalities of the kind, one of which samples may lack."""
    kind, pair = type(tokenizer).__name__, {"first": tokenizer, "second": tokenizer}
    slots = {} if max_tokens is None else dict.fromkeys(pair, max_tokens)
    torch.manual_seed(0)
    model = MaskedModel(pair, max_tokens=slots, width=48, depth=1, heads=2).eval()
    samples = [
        {"id": "both", "first": data[0], "second": data[1]},
        {"id": "one", "first": data[1]},
        {"id": "other", "second": data[0]},
    ]
    with torch.no_grad():
        together = model.encode(collate(samples, pair)).mean()
        for row, sample in enumerate(samples):
            alone = model.encode(collate([sample], pair)).mean()[0]
            close = torch.allclose(alone, together[row], atol=1e-5)
            assert close, f"{kind}: a sample notices what others have"
    masker = Masker(Uniform(), Count(1))
    terms = Reconstruction(masker)(model.train(), collate(samples[1:2], pair), Step())
    torch.stack([term.value() for term in terms.values()]).sum().backward()
    idle = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert not idle, f"{kind}: with a modality absent, no gradient reaches {', '.join(idle)}"


def batch_of(tokenizer: Tokenizer, data: Sequence[Any]) -> Batch:
    samples = [{"id": str(index), NAME: item} for index, item in enumerate(data)]
    return collate(samples, {NAME: tokenizer})


def collated(tokenizer: Tokenizer, raw: Any, part: Part) -> Part:
    """Untokenized data as a part again: a stacked tensor as it is, a mapping in place of what was
    collated, anything else row by row."""
    if isinstance(raw, Mapping):
        return Part({**part.data, **raw}, part.rows)
    return Part(raw, part.rows) if isinstance(raw, Tensor) else batch_of(tokenizer, raw).parts[NAME]


def one_row(tokens: Tokens) -> Tokens:
    coords = tokens.coords[:1]
    valid = None if tokens.valid is None else tokens.valid[:1]
    return replace(
        tokens, values=tokens.values[:1], coords=coords, rows=tokens.rows[:1], valid=valid
    )


def scrambled(tokens: TokenBatch, hidden: Tensor) -> TokenBatch:
    """The same batch with other content in the hidden tokens."""
    part = tokens.modalities[NAME]
    here = hidden[part.rows][:, : part.values.shape[1], None]
    noise = torch.randint_like(part.values, 0, 2) if not part.values.is_floating_point() else None
    other = torch.randn_like(part.values) if noise is None else noise
    changed = replace(part, values=torch.where(here, other, part.values))
    return TokenBatch(tokens.size, {NAME: changed}, tokens.slots)


def equal(a: Tensor, b: Tensor) -> bool:
    """Bit for bit, and NaN is NaN."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


def same_or_none(a: Tensor | None, b: Tensor | None, told: str) -> None:
    assert (a is None) == (b is None), told
    if a is not None and b is not None:
        assert torch.equal(a, b), told
