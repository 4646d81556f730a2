"""The records that flow: sample -> Part -> Batch -> Tokens -> TokenBatch -> Latents -> Term.

Shape letters: b samples, r samples that have a modality, n tokens, k visible, d decoded tokens (as
a last axis: width), m any flat subset of tokens, p coordinates, c numbers per token, g globals.
A *slot* is a token's index in its modality; the slots of all modalities, ordered by name, stand
side by side in one axis of length n.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Int, Num, Shaped
from torch import Generator, Tensor

Sample = dict[str, Any]  # one key a modality, plus "id" and labels; a missing modality is absent
Grid = tuple[int, ...]
Slots = Mapping[str, range]  # where each modality's tokens stand in the common axis
Record = TypeVar("Record", bound="Movable")  # not Self: the checkers of the tests refuse it here


class BadSample(ValueError):
    """A sample that cannot be used. The message names the file or field, what was expected and
    what was found; long runs skip, count and list such samples."""


@runtime_checkable
class Samples(Protocol):
    """What `fit`, `embed` and curation accept: a table of samples.

    `columns` holds what is known without opening a file (ids, labels, split, which modality is
    blank): one sequence of `len(self)` entries per name, None where the sample has nothing.
    A class may also have `draw(index, generator) -> Sample`: the same sample with its random
    augmentation drawn from the generator; `self[index]` is then the deterministic reading.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample: ...
    @property
    def columns(self) -> Mapping[str, Sequence[Any]]: ...
    def with_columns(self, **columns: Sequence[Any]) -> "Samples": ...


def moved(value: Any, how: str, *args: Any, **kwargs: Any) -> Any:
    """Apply a tensor method (`to`, `pin_memory`) to every tensor of nested records."""
    if isinstance(value, Tensor):
        return getattr(value, how)(*args, **kwargs)
    if is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in fields(value) if f.init]
        return replace(
            value, **{name: moved(getattr(value, name), how, *args, **kwargs) for name in names}
        )
    if isinstance(value, dict):
        return {key: moved(item, how, *args, **kwargs) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(moved(item, how, *args, **kwargs) for item in value)
    return value


class Movable:
    """Lets Lightning and pinned loaders move a frozen record as a whole."""

    def to(self: Record, device: torch.device | str, *, non_blocking: bool = False) -> Record:
        return moved(self, "to", device, non_blocking=non_blocking)

    def pin_memory(self: Record) -> Record:
        return moved(self, "pin_memory")


@dataclass(frozen=True)
class Part(Movable):
    """One modality of a batch: the stacked data of the samples that have it, and which they are.

    `data` is what the tokenizer's collate made: by default a tensor `(r, ...)` when all samples
    agree in shape, else a list of r tensors. `rows (r,)` ascends.
    """

    data: Any
    rows: Int[Tensor, " r"]


@dataclass(frozen=True)
class Picks(Movable):
    """Some tokens of a batch as flat lists per modality, and the way back to `(b, k)`.

    `source[name] (m,)` indexes `Tokens.values.flatten(0, 1)`; `slots[name] (m,)` is the token's
    index in its modality. Lists concatenated in name order, with one row of zeros behind them, and
    indexed by `order (b * k,)` give the places row by row; None says they already stand so.
    """

    source: dict[str, Int[Tensor, " _"]]
    slots: dict[str, Int[Tensor, " _"]]
    order: Int[Tensor, " bk"] | None


@dataclass(frozen=True)
class Masking(Movable):
    """Who is visible and who is answered for. k and d are shapes, hence Python ints.

    `ids (b, k)` are the tokens that the encoder reads, `decoded_ids (b, d)` those that the decoder
    answers for, both slots of the common axis; `exists (b, n)`. Where `padded` (`decoded_padded`),
    some ids name tokens that do not exist: they are never attended to nor scored. Where the number
    of visible tokens varies, only the first `counts (b,)` of a row's ids are meant and the rest is
    padding. `picks` and `decoded_picks` are the same ids as flat lists, made where the masking was
    drawn.
    """

    ids: Int[Tensor, "b k"]
    decoded_ids: Int[Tensor, "b d"]
    exists: Bool[Tensor, "b n"]
    padded: bool = False
    decoded_padded: bool = False
    picks: Picks | None = None
    decoded_picks: Picks | None = None
    counts: Int[Tensor, " b"] | None = None

    @cached_property
    def alive(self) -> Bool[Tensor, "b k"]:
        """Which of `ids` are meant and exist."""
        alive = self.exists.gather(1, self.ids)
        if self.counts is None:
            return alive
        return alive & (torch.arange(self.ids.shape[1], device=alive.device) < self.counts[:, None])

    @cached_property
    def visible(self) -> Bool[Tensor, "b n"]:
        return torch.zeros_like(self.exists).scatter(1, self.ids, self.alive)

    @cached_property
    def decoded(self) -> Bool[Tensor, "b n"]:
        return torch.zeros_like(self.exists).scatter(1, self.decoded_ids, True)

    @cached_property
    def target(self) -> Bool[Tensor, "b n"]:
        """What is scored: decoded, existing, hidden."""
        return self.decoded & self.exists & ~self.visible

    @cached_property
    def asked(self) -> Bool[Tensor, "b d"]:
        """`target` at the decoded places."""
        return self.target.gather(1, self.decoded_ids)

    @cached_property
    def valid(self) -> Bool[Tensor, "b k"] | None:
        """Which of `ids` are meant and exist; None when all are."""
        return self.alive if self.padded else None

    @cached_property
    def decoded_valid(self) -> Bool[Tensor, "b d"] | None:
        """Which of `decoded_ids` exist; None when all do."""
        return self.exists.gather(1, self.decoded_ids) if self.decoded_padded else None


@dataclass(frozen=True)
class Batch(Movable):
    """Samples side by side. `labels[name]` has one entry a sample (None where it has none);
    `skipped` lists (id, reason) of samples that could not be read and were left out."""

    size: int
    sample_ids: tuple[str, ...]
    labels: dict[str, list[Any]]
    parts: dict[str, Part]
    masking: Masking | None = None
    skipped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Tokens(Movable):
    """One modality as tokens.

    values: `(r, n, c)` content, float or integer (codes).
    coords: `(r or 1, n, p)` places in physical units where the file states them, else index.
    rows: `(r,)` which samples of the batch these are.
    valid: `(r, n)` which tokens exist, None when all do.
    grid: lattice shape; tokens are row-major in it. None for sets.
    edges: `(2, e)` pairs of slots, for graphs.
    """

    values: Num[Tensor, "r n c"]
    coords: Num[Tensor, "r_or_1 n p"]
    rows: Int[Tensor, " r"]
    valid: Bool[Tensor, "r n"] | None = None
    grid: Grid | None = None
    edges: Int[Tensor, "2 e"] | None = None


@dataclass(frozen=True)
class TokenBatch(Movable):
    """All modalities of a batch as tokens, and the slots of all the model's modalities, present
    or not. `modalities` holds only those that some sample has."""

    size: int
    modalities: dict[str, Tokens]
    slots: dict[str, range]

    @property
    def num_slots(self) -> int:
        return max((where.stop for where in self.slots.values()), default=0)

    @property
    def complete(self) -> bool:
        """Known to the host: every sample has every token of every modality."""
        return all(
            name in self.modalities
            and (tokens := self.modalities[name]).values.shape[:2] == (self.size, len(where))
            and tokens.valid is None
            for name, where in self.slots.items()
        )

    @cached_property
    def exists(self) -> Bool[Tensor, "b n"]:
        parts = {
            name: (tokens.rows, tokens.values.shape[1], tokens.valid)
            for name, tokens in self.modalities.items()
        }
        device = next((t.values.device for t in self.modalities.values()), torch.device("cpu"))
        return existing(self.size, self.slots, parts, device)


def existing(
    size: int,
    slots: Slots,
    parts: Mapping[str, tuple[Tensor, int, Tensor | None]],
    device: torch.device | str = "cpu",
) -> Bool[Tensor, "b n"]:
    """Which slots hold a token, from each modality's (rows, number of tokens, valid)."""
    total = max((where.stop for where in slots.values()), default=0)
    exists = torch.zeros(size, total, dtype=torch.bool, device=device)
    for name, (rows, num_tokens, valid) in parts.items():
        start = slots[name].start
        block = exists[:, start : start + num_tokens]
        block[rows] = True if valid is None else valid
    return exists


def slots_of(num_tokens: Mapping[str, int]) -> dict[str, range]:
    """Slot ranges side by side, ordered by name.

    >>> slots_of({"t2": 3, "flair": 2})
    {'flair': range(0, 2), 't2': range(2, 5)}
    """
    ranges, start = {}, 0
    for name in sorted(num_tokens):
        ranges[name] = range(start, start + num_tokens[name])
        start += num_tokens[name]
    return ranges


@dataclass(frozen=True)
class Latents(Movable):
    """What the encoder made of the visible tokens.

    `globals` are class, register or memory tokens (never counted in ids); `taps` are token states
    after the layers that were asked for; `maps` are an encoder's own lattice outputs, if any.
    """

    tokens: Shaped[Tensor, "b k w"]
    ids: Int[Tensor, "b k"]
    globals: Shaped[Tensor, "b g w"]
    num_slots: int
    valid: Bool[Tensor, "b k"] | None = None
    taps: tuple[Tensor, ...] = ()
    maps: tuple[Tensor, ...] = ()

    def mean(self) -> Shaped[Tensor, "b w"]:
        """Mean over the tokens that exist. Zero for a sample of which nothing is visible."""
        if self.valid is None:
            return self.tokens.mean(dim=1)
        weights = self.valid.to(self.tokens.dtype)
        return torch.einsum("bkw,bk->bw", self.tokens, weights) / weights.sum(
            dim=1, keepdim=True
        ).clamp(min=1)

    def pooled(self, how: str = "mean") -> Shaped[Tensor, "b w"]:
        """One vector a sample: `mean` of tokens, or `global`, the first global token."""
        if how == "mean":
            return self.mean()
        if how == "global":
            if self.globals.shape[1] == 0:
                raise ValueError(
                    "pooled('global'): this encoder has no global tokens; use 'mean', "
                    "or build the encoder with num_globals=1."
                )
            return self.globals[:, 0]
        raise ValueError(f"pooled: how={how!r} is unknown; use 'mean' or 'global'.")

    def at(self, ids: Int[Tensor, "b d"]) -> Shaped[Tensor, "b d w"]:
        """The latents of these slots; zeros where a slot was not encoded."""
        place = torch.full((len(ids), self.num_slots), -1, dtype=torch.long, device=ids.device)
        where = torch.arange(self.ids.shape[1], device=ids.device).expand_as(self.ids)
        if self.valid is not None:
            where = where.masked_fill(~self.valid, -1)
        place.scatter_(1, self.ids, where)
        index = place.gather(1, ids)
        picked = self.tokens.gather(
            1, index.clamp(min=0)[..., None].expand(-1, -1, self.tokens.shape[-1])
        )
        return picked * (index >= 0)[..., None]


@dataclass(frozen=True)
class Term(Movable):
    """One loss term. Its value is total / count, and only the training shell divides: it sums both
    over ranks and accumulated micro-batches first, so that two ranks equal one."""

    total: Shaped[Tensor, ""]
    count: Shaped[Tensor, ""]

    def value(self) -> Tensor:
        return self.total / self.count.clamp(min=1)


@dataclass(frozen=True)
class Step:
    """Where the run is. Everything random about a sample comes from here and from its id."""

    seed: int = 0
    epoch: int = 0
    index: int = 0

    def generators(self, sample_ids: Iterable[str], purpose: str, view: int = 0) -> list[Generator]:
        """Every sample's own CPU generator for one purpose ("augment", "masking", ...)."""
        return [
            sample_generator(self.seed, self.epoch, sample_id, purpose, view)
            for sample_id in sample_ids
        ]


def sample_generator(
    seed: int, epoch: int, sample_id: str, purpose: str, view: int = 0
) -> Generator:
    """The generator of one sample, epoch, purpose and view: the same on any worker or rank."""
    key = json.dumps([seed, epoch, sample_id, purpose, view]).encode()
    digest = hashlib.sha256(key).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
