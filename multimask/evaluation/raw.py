"""Features without a model: token values as they are. Where a probe on these wins, a data set
shows nothing about a model."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from multimask.evaluation.embeddings import Embeddings, stream
from multimask.modality import HasGrid, Tokenizer
from multimask.nn.adapters import HasChannels
from multimask.tokens import Batch, Grid, Sample, Samples, Tokens


def raw_values(
    samples: Samples | Sequence[Sample],
    tokenizers: Mapping[str, Tokenizer],
    *,
    most: int = 1024,
    batch_size: int = 256,
    workers: int = 0,
) -> Embeddings:
    """Token values side by side, averaged down until a modality has at most `most` numbers: first
    over each token's values per channel, then over neighbouring tokens. In sets, tokens' places
    stand beside their values. What a sample or a token lacks is zeros; a last column says whether
    the sample is there. All samples must have one size.
    """

    def compute(batch: Batch) -> Tensor:
        return side_by_side(batch, tokenizers, lambda tokens, c, axis: downsampled(tokens, c, most))

    return stream(samples, tokenizers, compute, batch_size=batch_size, workers=workers)


def raw_means(
    samples: Samples | Sequence[Sample],
    tokenizers: Mapping[str, Tokenizer],
    *,
    batch_size: int = 256,
    workers: int = 0,
) -> Embeddings:
    """The mean of every channel over the whole sample; where a tokenizer states no channels, of
    every number of a token; where it states a `channel_axis`, of each place along that axis of its
    lattice. What a sample lacks is zeros and a last column that says so."""

    def compute(batch: Batch) -> Tensor:
        return side_by_side(batch, tokenizers, overall_means)

    return stream(samples, tokenizers, compute, batch_size=batch_size, workers=workers)


@runtime_checkable
class HasChannelAxis(Protocol):
    """A tokenizer whose channels are tokens of their own: which axis of its lattice counts them."""

    @property
    def channel_axis(self) -> int: ...


Summary = Callable[[Tokens, int, int | None], Float[Tensor, "r d"]]
POOLS: tuple[Callable[..., Tensor], ...] = (
    F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d,
    F.adaptive_avg_pool3d,
)


def side_by_side(
    batch: Batch, tokenizers: Mapping[str, Tokenizer], summary: Summary
) -> Float[Tensor, "b d"]:
    columns = []
    for name, tokenizer in sorted(tokenizers.items()):
        channels = tokenizer.channels if isinstance(tokenizer, HasChannels) else tokenizer.token_dim
        axis = tokenizer.channel_axis if isinstance(tokenizer, HasChannelAxis) else None
        empty = summary(*with_places(blank(name, tokenizer), channels), axis)
        whole = torch.zeros(batch.size, empty.shape[1] + 1)
        if name in batch.parts:
            tokens = tokenizer(batch.parts[name])
            found = summary(*with_places(tokens, channels), axis)
            if found.shape[1] != whole.shape[1] - 1:
                raise ValueError(
                    f"raw features of {name!r}: a sample has {tokens.values.shape[1]} tokens, the "
                    f"tokenizer states {tokenizer.num_tokens}; bring all samples to one size."
                )
            whole[tokens.rows] = F.pad(found, (0, 1), value=1.0)
        columns.append(whole)
    return torch.cat(columns, dim=1)


def blank(name: str, tokenizer: Tokenizer) -> Tokens:
    """One sample of zeros, which tells how many numbers a summary has."""
    if tokenizer.num_tokens is None:
        raise ValueError(
            f"raw features of {name!r}: its number of tokens varies, so they have no fixed places."
        )
    grid = tokenizer.grid if isinstance(tokenizer, HasGrid) else None
    n = tokenizer.num_tokens
    nowhere = torch.zeros(1, n, tokenizer.coord_dim)
    return Tokens(torch.zeros(1, n, tokenizer.token_dim), nowhere, torch.arange(1), grid=grid)


def with_places(tokens: Tokens, channels: int) -> tuple[Tokens, int]:
    """A set's tokens with their places as further channels: unlike on a lattice, they are data."""
    if tokens.grid is not None:
        return tokens, channels
    entries = rearrange(tokens.values.float(), "r n (e c) -> r n e c", c=channels)
    places = tokens.coords.float()[:, :, None].expand(*entries.shape[:3], -1)
    values = torch.cat((entries, places), dim=-1).flatten(2)
    return replace(tokens, values=values), channels + places.shape[-1]


def downsampled(tokens: Tokens, channels: int, most: int) -> Float[Tensor, "r d"]:
    if tokens.values.shape[1:].numel() <= most:
        return existing_values(tokens).flatten(1)
    means = channel_means(tokens, channels)
    if means.shape[1:].numel() <= most:
        return means.flatten(1)
    if tokens.grid is None or len(tokens.grid) > 3:
        return means.mean(dim=1)
    pool = POOLS[len(tokens.grid) - 1]
    lattice = rearrange(means, "r n c -> r c n").unflatten(2, tokens.grid)
    return pool(lattice, shrunk(tokens.grid, most // channels)).flatten(1)


def shrunk(grid: Grid, most: int) -> list[int]:
    """The lattice cut down to at most so many cells, longest sides first.

    >>> shrunk((14, 14), 100), shrunk((2, 50), 20)
    ([10, 10], [2, 10])
    """
    sides = list(grid)
    while math.prod(sides) > max(most, 1):
        longest = sides.index(max(sides))
        sides[longest] -= 1
    return sides


def overall_means(tokens: Tokens, channels: int, axis: int | None) -> Float[Tensor, "r d"]:
    """Of each channel; where tokens are channels, of each place along that axis of the lattice."""
    means = channel_means(tokens, channels)
    if tokens.grid is None or axis is None:
        return means.mean(dim=1)
    lattice = means.unflatten(1, tokens.grid).movedim(1 + axis, 1)
    return lattice.unsqueeze(2).flatten(2, -2).mean(dim=2).flatten(1)


def channel_means(tokens: Tokens, channels: int) -> Float[Tensor, "r n c"]:
    return reduce(existing_values(tokens), "r n (e c) -> r n c", "mean", c=channels)


def existing_values(tokens: Tokens) -> Float[Tensor, "r n c"]:
    """Values as floats; zeros where a token, or a number of it (NaN), does not exist."""
    values = tokens.values.float().nan_to_num(nan=0.0)
    return values if tokens.valid is None else values.masked_fill(~tokens.valid[..., None], 0.0)
