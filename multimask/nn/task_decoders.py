"""Decoders of one output each: its modality's tokens ask all that is visible (MultiMAE)."""

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multimask.nn.blocks import (
    Block,
    CrossAttention,
    Mlp,
    check_depth,
    check_heads,
    init_weights,
)
from multimask.nn.encoders import Places
from multimask.plugins import remembers_arguments
from multimask.tokens import Latents


class TaskDecoder(nn.Module):
    """One output's decoder (MultiMAE, Bachmann et al., ECCV 2022).

    Its modality's tokens cross-attend once to all visible tokens and the global ones, then go
    through a few self-attention blocks. A token that is visible asks as what the encoder made of
    it, a hidden one as the mask token; both with their place and a task embedding, which tells
    modalities apart and is this decoder's own.
    """

    def __init__(
        self,
        encoder_width: int,
        modalities: tuple[str, ...],
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        eps: float,
        use_globals: bool,
    ) -> None:
        super().__init__()
        self.width, self.use_globals = width, use_globals
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.tasks = nn.ParameterDict({n: nn.Parameter(torch.zeros(width)) for n in modalities})
        self.query_norm = nn.LayerNorm(width, eps=eps)
        self.context_norm = nn.LayerNorm(width, eps=eps)
        self.xattn = CrossAttention(width, heads)
        self.out_norm = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, eps=eps) for _ in range(depth))
        self.apply(init_weights)
        for token in (self.mask_token, *self.tasks.values()):
            nn.init.normal_(token, std=0.02)

    def forward(self, name: str, seen: "Seen", asked: "Asked") -> Float[Tensor, "r q w"]:
        known = self.embed(seen.tokens)
        names = torch.stack([self.tasks[each] for each in seen.modalities])
        context = known + seen.position + names.index_select(0, seen.owner.flatten()).view_as(known)
        if self.use_globals and seen.globals.shape[1]:
            context = torch.cat((context, self.embed(seen.globals)), dim=1)
        content = known.gather(1, asked.seen_at.clamp(min=0)[..., None].expand(-1, -1, self.width))
        content = torch.where((asked.seen_at >= 0)[..., None], content, self.mask_token)
        query = content + asked.position + self.tasks[name]
        attend = None
        if seen.valid is not None:
            ones = seen.valid.new_ones(len(context), context.shape[1] - seen.valid.shape[1])
            attend = torch.cat((seen.valid, ones), dim=1)[:, None, None]
        x = self.xattn(self.query_norm(query), self.context_norm(context), attend)
        x = x + self.mlp(self.out_norm(x))
        among = None if asked.valid is None else asked.valid[:, None, None]
        for block in self.blocks:
            x = block(x, among)
        return x


@dataclass(frozen=True)
class Seen:
    """What a decoder may look at, of r rows: visible tokens and whose they are."""

    tokens: Float[Tensor, "r k e"]
    globals: Float[Tensor, "r g e"]
    position: Float[Tensor, "r k w"]
    owner: Int[Tensor, "r k"]
    valid: Bool[Tensor, "r k"] | None
    modalities: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """One modality's tokens that are to be answered. at: where they stand among all decoded ones;
    seen_at: where among the visible ones, -1 where they are hidden."""

    position: Float[Tensor, "r q w"]
    at: Int[Tensor, "r q"]
    seen_at: Int[Tensor, "r q"]
    inside: Bool[Tensor, "r q"] | None
    valid: Bool[Tensor, "r q"] | None


@remembers_arguments
class TaskDecoders(nn.Module):
    """A `TaskDecoder` per output, each for the rows that have its modality.

    With every slot decoded a modality's whole lattice asks, visible tokens too, as published; with
    a smaller budget d only the decoded tokens do, at most d of a modality, so that the cost is
    bounded. Tokens of other modalities are answered with zeros.

    Args: modalities, all of the model's; outputs, those that are answered, by default all.
    """

    def __init__(
        self,
        encoder_width: int,
        modalities: tuple[str, ...],
        width: int = 256,
        depth: int = 2,
        heads: int = 8,
        mlp_ratio: float = 4.0,
        eps: float = 1e-6,
        use_globals: bool = True,
        outputs: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        check_heads(width, heads, "TaskDecoders")
        if depth:
            check_depth(depth, "TaskDecoders")
        unknown = sorted(set(outputs) - set(modalities))
        if unknown or not modalities:
            raise ValueError(
                f"TaskDecoders: outputs={outputs} must be among modalities={modalities}, "
                "of which there must be some."
            )
        self.width, self.modalities = width, tuple(sorted(modalities))
        self.tasks = nn.ModuleDict(
            {
                name: TaskDecoder(
                    encoder_width, self.modalities, width, depth, heads, mlp_ratio, eps, use_globals
                )
                for name in sorted(outputs or modalities)
            }
        )

    def forward(self, latents: Latents, visible: Places, decoded: Places) -> Float[Tensor, "b d w"]:
        if tuple(visible.slots) != self.modalities:
            raise ValueError(
                f"TaskDecoders: built for modalities {', '.join(self.modalities)}, but the model "
                f"has {', '.join(visible.slots)}."
            )
        size, num_decoded = decoded.ids.shape
        seen_at = places_of(visible, num_slots=visible.num_slots)
        stops = torch.tensor([w.stop for w in visible.slots.values()], device=visible.ids.device)
        owner = torch.bucketize(visible.ids.contiguous(), stops, right=True)
        flat = latents.tokens.new_zeros(size * num_decoded + 1, self.width)
        places, answers = [], []
        for name, task in self.tasks.items():
            rows = decoded.rows.get(name)
            seen = Seen(
                latents.tokens,
                latents.globals,
                visible.position,
                owner,
                visible.valid,
                self.modalities,
            )
            asked = asked_of(decoded, decoded.slots[name], seen_at)
            here = None if rows is not None and len(rows) == size else rows
            if rows is None:
                here = torch.zeros(0, dtype=torch.long, device=decoded.ids.device)
            at = asked.at + torch.arange(size, device=asked.at.device)[:, None] * num_decoded
            if asked.inside is not None:
                at = torch.where(asked.inside, at, size * num_decoded)
            if here is not None:
                seen, asked, at = on_rows(seen, here), on_rows(asked, here), at[here]
            answers.append(task(name, seen, asked).flatten(0, 1))
            places.append(at.flatten())
        answered = torch.cat(answers)
        flat = flat.to(answered.dtype).index_copy(0, torch.cat(places), answered)
        return flat[:-1].view(size, num_decoded, self.width)


def places_of(visible: Places, num_slots: int) -> Int[Tensor, "b n"]:
    """For every slot its place among the visible tokens, -1 where it is not."""
    size, k = visible.ids.shape
    where = torch.arange(k, device=visible.ids.device).expand(size, k)
    ids = visible.ids
    if visible.valid is not None:  # padding may repeat a slot: it is written behind the last one
        ids = torch.where(visible.valid, ids, num_slots)
    table = torch.full((size, num_slots + 1), -1, dtype=torch.long, device=ids.device)
    return table.scatter(1, ids, where)[:, :num_slots]


def asked_of(decoded: Places, where: range, seen_at: Int[Tensor, "b n"]) -> Asked:
    """The decoded tokens of one modality's slots, in their order; padded to as many as there may
    be."""
    num_slots, ids = decoded.num_slots, decoded.ids
    whole = ids.shape[1] == num_slots
    inside = (ids >= where.start) & (ids < where.stop)
    key = ids if whole else torch.where(inside, ids, num_slots)
    order = key.argsort(dim=1)
    at = order[:, where.start : where.stop] if whole else order[:, : len(where)]
    position = decoded.position.gather(1, at[..., None].expand(-1, -1, decoded.position.shape[-1]))
    found = None if whole else inside.gather(1, at)
    valid = found
    if decoded.valid is not None:
        exist = decoded.valid.gather(1, at)
        valid = exist if found is None else exist & found
    if valid is not None:  # where nothing is asked, attention still needs something to look at
        valid = valid | ~valid.any(dim=1, keepdim=True)
    return Asked(position, at, seen_at.gather(1, ids.gather(1, at)), found, valid)


Rows = TypeVar("Rows", Seen, Asked)


def on_rows(record: Rows, rows: Int[Tensor, " r"]) -> Rows:
    tensors = {n: value for n, value in vars(record).items() if isinstance(value, Tensor)}
    return replace(record, **{n: value.index_select(0, rows) for n, value in tensors.items()})
