"""The masker: one ranking of every sample's tokens, cut by a budget, made into a Masking."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Generator, Tensor

from multimask.masking.budgets import Budget, Ratio
from multimask.masking.context import Context
from multimask.masking.rules import Rule, Ties, Uniform
from multimask.tokens import Masking, Picks, Slots


@dataclass(frozen=True)
class Masker:
    """A scoring rule and a budget.

    Lowest scores stay visible. Decoded are the d slots of lowest key, key = tier + noise: tier 0
    exists and hidden, 1 exists and visible (answered, not scored), 2 does not exist. With `ragged`
    samples that have fewer tokens than the budget keeps are padded; else that is an error.
    `decoded` is a second rule for methods that choose what to decode by themselves: its lowest
    scores among the tokens that exist, visible or not (VideoMAE V2's dual masking).
    """

    rule: Rule = Uniform()  # noqa: RUF009 - frozen
    budget: Budget = Ratio(0.75)  # noqa: RUF009 - frozen
    ragged: bool = False
    decoded: Rule | None = None

    @property
    def content_free(self) -> bool:
        """Whether it can be drawn in the loader, before anything is tokenized."""
        return not getattr(self.rule, "needs_content", False)

    def counts(self, n: int, context: Context) -> tuple[int, int]:
        """`(k, d)` for n slots, counted in the rule's own units."""
        unit = self.rule.unit(context) if isinstance(self.rule, Ties) else 1
        if n % unit:
            raise ValueError(
                f"Masker: the rule ties {unit} tokens together, but {n} is no multiple."
            )
        visible, decoded = self.budget(n // unit)
        return visible * unit, decoded * unit

    def __call__(
        self, exists: Bool[Tensor, "b n"], generators: list[Generator], context: Context
    ) -> Masking:
        if len(generators) != len(exists):
            raise ValueError(
                f"Masker: {len(exists)} samples came with {len(generators)} generators; "
                "every sample needs its own."
            )
        k, d = self.counts(exists.shape[1], context)
        fewest = self.fewest(exists, context)
        if fewest < k and not self.ragged:
            raise ValueError(
                f"Masker: keeps {k} tokens visible, but a sample has only {fewest}. Keep fewer, "
                "leave such samples out, or set ragged=True (pads and attention-masks)."
            )
        scores = self.rule(exists, generators, context).masked_fill(~exists, torch.inf)
        ids = scores.argsort(dim=1, stable=True)[:, :k]
        visible = torch.zeros_like(exists).scatter(1, ids, True)
        if self.decoded is None:
            tier = torch.where(exists, visible.float(), 2.0)  # hidden, visible, does not exist
            key = tier + Uniform()(exists, generators, context)
        else:
            key = self.decoded(exists, generators, context).masked_fill(~exists, torch.inf)
        decoded_ids = key.argsort(dim=1, stable=True)[:, :d]
        return Masking(ids, decoded_ids, exists, padded=fewest < k, decoded_padded=fewest < d)

    @staticmethod
    def fewest(exists: Bool[Tensor, "b n"], context: Context) -> int:
        """Fewest tokens of any sample, where the host can know it without waiting for a device."""
        if context.complete or not len(exists):
            return exists.shape[1]
        return int(exists.sum(dim=1).min())


def everything(exists: Bool[Tensor, "b n"], complete: bool = False) -> Masking:
    """All that exists is visible, in slot order; nothing is decoded."""
    size, n = exists.shape
    none = torch.zeros(size, 0, dtype=torch.long, device=exists.device)
    if complete:
        ids = torch.arange(n, device=exists.device).expand(size, n)
        return Masking(ids, none, exists)
    counts = exists.sum(dim=1)
    k = int(counts.max()) if size else 0
    ids = (~exists).to(torch.int8).argsort(dim=1, stable=True)[:, :k]
    return Masking(ids, none, exists, padded=bool((counts < k).any()))


def with_picks(
    masking: Masking,
    slots: Slots,
    rows: Mapping[str, Int[Tensor, " r"]],
    num_tokens: Mapping[str, int],
) -> Masking:
    """Attach the flat lists: `rows` and `num_tokens` tell where each modality's values lie."""
    exists = masking.exists
    picks = find_picks(masking.ids, exists, masking.padded, slots, rows, num_tokens)
    decoded = find_picks(
        masking.decoded_ids, exists, masking.decoded_padded, slots, rows, num_tokens
    )
    return replace(masking, picks=picks, decoded_picks=decoded)


def find_picks(
    ids: Int[Tensor, "b k"],
    exists: Bool[Tensor, "b n"],
    padded: bool,
    slots: Slots,
    rows: Mapping[str, Int[Tensor, " r"]],
    num_tokens: Mapping[str, int],
) -> Picks:
    """The flat lists of `ids` per modality, rows ascending, and the way back.

    On a device this waits for it once per modality unless the batch has a single modality that
    every sample has; maskings drawn in the loader are taken apart there, on the host.
    """
    size, k = ids.shape
    if not padded and len(slots) == 1:
        ((name, where),) = slots.items()
        if name in rows and len(rows[name]) == size and num_tokens[name] == len(where):
            start = torch.arange(size, device=ids.device)[:, None] * num_tokens[name]
            return Picks({name: (start + ids).flatten()}, {name: ids.flatten()}, None)
    source, local, order = {}, {}, torch.full((size * k,), -1, device=ids.device)
    alive = exists.gather(1, ids)
    filled = 0
    for name, where in slots.items():
        if name not in rows:
            continue
        inside = alive & (ids >= where.start) & (ids < where.stop)
        at = inside.flatten().nonzero().squeeze(1)
        part_row = torch.full((size,), -1, device=ids.device)
        part_row[rows[name]] = torch.arange(len(rows[name]), device=ids.device)
        local[name] = ids.flatten()[at] - where.start
        source[name] = part_row[at // max(k, 1)] * num_tokens[name] + local[name]
        order[at] = torch.arange(filled, filled + len(at), device=ids.device)
        filled += len(at)
    order[order < 0] = filled  # the row of zeros behind the lists
    return Picks(source, local, order)
