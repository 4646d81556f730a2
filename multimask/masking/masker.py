"""The masker: one ranking of every sample's tokens, cut by a budget, made into a Masking."""

from dataclasses import dataclass, fields, is_dataclass, replace

import torch
from jaxtyping import Bool
from torch import Generator, Tensor

from multimask.masking.budgets import Budget, Counting, Natural, Ratio
from multimask.masking.context import Context
from multimask.masking.rules import Rule, Ties, Uniform
from multimask.masking.sharing import Shares, now, shared_scores
from multimask.tokens import Masking


@dataclass(frozen=True)
class Masker:
    """A scoring rule and a budget.

    Lowest scores stay visible. Decoded are the d slots of lowest key, key = tier + noise: tier 0
    exists and hidden, 1 exists and visible (answered, not scored), 2 does not exist. With `ragged`
    samples that have fewer tokens than the budget keeps are padded; else that is an error.
    `decoded` is a second rule for methods that choose what to decode by themselves: its lowest
    scores among the tokens that exist, visible or not (VideoMAE V2's dual masking). `in_place`
    hides by place alone: the k lowest scores whether they exist or not, what does not being
    padding; a sample that lacks tokens then never shows a place that the rule hides.
    """

    rule: Rule = Uniform()  # noqa: RUF009 - frozen
    budget: Budget = Ratio(0.75)  # noqa: RUF009 - frozen
    ragged: bool = False
    decoded: Rule | None = None
    in_place: bool = False

    @property
    def content_free(self) -> bool:
        """Whether it can be drawn in the loader, before anything is tokenized."""
        return not any(getattr(rule, "needs_content", False) for rule in (self.rule, self.decoded))

    def counts(self, n: int, context: Context) -> tuple[int, int]:
        """`(k, d)` for n slots at the context's step, counted in the rule's own units."""
        budget = now(self.budget, context.step)
        if isinstance(budget, Natural) and not getattr(self.rule, "natural", False):
            raise ValueError(
                f"Masker: {type(self.rule).__name__} does not say how many tokens it hides, so "
                "budget Natural cannot be used; give a Ratio or a Count."
            )
        unit = self.rule.unit(context) if isinstance(self.rule, Ties) else 1
        if n % unit:
            raise ValueError(
                f"Masker: the rule ties {unit} tokens together, but {n} is no multiple."
            )
        if unit > 1 and isinstance(budget, Shares):
            raise ValueError(
                f"Masker: {type(budget).__name__} shares out single tokens, but "
                f"{type(self.rule).__name__} ties {unit} together; use a rule that ties none."
            )
        visible, decoded = budget(n // unit)
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
        budget = now(self.budget, context.step)
        fewest = existing = self.fewest(exists, context)
        natural = isinstance(budget, Natural)
        if fewest < k and not (self.ragged or self.in_place or natural):
            raise ValueError(
                f"Masker: keeps {k} tokens visible, but a sample has only {fewest}. Keep fewer, "
                "leave such samples out, or set ragged=True (pads and attention-masks)."
            )
        scores = self.rule(exists, generators, context)
        if not self.in_place:
            scores = scores.masked_fill(~exists, torch.inf)
        if isinstance(budget, Shares):
            scores = shared_scores(scores, exists, budget, k, generators, context.slots)
            scores = scores.masked_fill(~exists, torch.inf)
        ids = scores.argsort(dim=1, stable=True)[:, :k]
        counts = (scores < 1).sum(dim=1).clamp(max=k) if natural else None
        kept = torch.ones_like(ids, dtype=torch.bool)
        if counts is not None:
            kept = torch.arange(k, device=ids.device) < counts[:, None]
            fewest = min(fewest, int(counts.min())) if len(counts) else fewest
        visible = torch.zeros_like(exists).scatter(1, ids, kept)
        if self.decoded is None:
            tier = torch.where(exists, visible.float(), 2.0)  # hidden, visible, does not exist
            key = tier + Uniform()(exists, generators, context)
        else:
            key = self.decoded(exists, generators, context).masked_fill(~exists, torch.inf)
        decoded_ids = key.argsort(dim=1, stable=True)[:, :d]
        padded = fewest < (exists.shape[1] if self.in_place else k)
        return Masking(ids, decoded_ids, exists, padded, decoded_padded=existing < d, counts=counts)

    @staticmethod
    def fewest(exists: Bool[Tensor, "b n"], context: Context) -> int:
        """Fewest tokens of any sample, where the host can know it without waiting for a device."""
        if context.complete or not len(exists):
            return exists.shape[1]
        return int(exists.sum(dim=1).min())


def masker_for(rule: Rule, ratio: float, counting: Counting = "visible") -> Masker:
    """A rule with the budget that suits it: a rule that brings its own size keeps it, at this ratio
    where it has one; any other hides the ratio of all tokens.

    Raises: ValueError for a ratio that hides nothing or everything.
    """
    budget = Ratio(ratio, counting=counting)
    if not getattr(rule, "natural", False):
        return Masker(rule, budget)
    if is_dataclass(rule) and "ratio" in {field.name for field in fields(rule)}:
        rule = replace(rule, ratio=ratio)
    return Masker(rule, Natural())


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
