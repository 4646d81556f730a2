"""Two co-located samplings of one scene with tokens swapped at random; each view reconstructed."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from multimask.masking.budgets import num_visible
from multimask.masking.context import Context
from multimask.model import MaskedModel
from multimask.objectives.base import Objective
from multimask.tokens import Batch, Masking, Step, Term


class Views(NamedTuple):
    """Two maskings of one batch. first (b, p): where the first view holds the first sensor."""

    one: Masking
    two: Masking
    first: Bool[Tensor, "b p"]


class CrossSensorMixup(Objective):
    """Cross-sensor token mixup (SMARTIES, Sumbul et al., ICCV 2025).

    Two modalities on one lattice, a token a location each. A random `swap` of a sample's locations
    change sensors: the first view holds the first sensor's tokens elsewhere and the second's there,
    the second view the other ones. One random share `ratio` of the locations is hidden from both,
    and each view answers for its own tokens there, so targets and heads move with the tokens. A
    sample that has one sensor only shows it in both views.

    Args: symmetric: False leaves the second view entirely to the second sensor, as the released
    code does by overwriting.
    """

    def __init__(
        self,
        sensors: tuple[str, str],
        ratio: float = 0.75,
        swap: float = 0.5,
        symmetric: bool = True,
    ) -> None:
        super().__init__()
        if len(set(sensors)) != 2 or not (0 < ratio < 1 and 0 <= swap <= 1):
            raise ValueError(
                f"CrossSensorMixup: sensors={sensors} must be two, ratio={ratio} lie between 0 and "
                f"1 and swap={swap} in [0, 1]."
            )
        self.sensors, self.ratio, self.swap, self.symmetric = sensors, ratio, swap, symmetric

    def forward(self, model: MaskedModel, batch: Batch, step: Step) -> dict[str, Term]:
        tokens = model.tokenize(batch)
        generators = step.generators(batch.sample_ids, "masking")
        views = self.views(tokens.exists, generators, model.context(tokens))
        terms = {}
        for name, masking in (("first", views.one), ("second", views.two)):
            masking = model.picked(tokens, masking)
            latents = model.encode_visible(tokens, masking)
            features = model.decode(tokens, latents, masking)
            asked = masking.asked.flatten()
            total = count = torch.zeros((), device=model.device)
            for each, (answer, values, at) in model.predict(tokens, features, masking).items():
                error = model.adapter(each).error(answer, values)
                scored = asked.index_select(0, at).to(error.dtype)
                total, count = total + (error * scored).sum(), count + scored.sum()
            terms[name] = Term(0.5 * total, count)
        return terms

    def views(
        self, exists: Bool[Tensor, "b n"], generators: list[Generator], context: Context
    ) -> Views:
        one, two = (context.slots[name] for name in self.sensors)
        if len(context.slots) != 2 or len(one) != len(two):
            raise ValueError(
                f"CrossSensorMixup: expected the two sensors {self.sensors} on one lattice, found "
                f"{ {name: len(where) for name, where in context.slots.items()} } tokens."
            )
        places = len(one)
        swapped = first_of(noise(places, generators), round(places * self.swap))
        order = noise(places, generators).argsort(dim=1)
        swapped, order = swapped.to(exists.device), order.to(exists.device)
        has = [exists[:, where.start : where.stop] for where in (one, two)]
        k = num_visible(places, self.ratio)
        starts = one.start, two.start
        firsts = [~swapped, swapped if self.symmetric else torch.zeros_like(swapped)]
        made = []
        for first in firsts:
            held = torch.where(first, has[0] | ~has[1], has[0] & ~has[1])  # who is there, if one is
            slots = torch.arange(places, device=exists.device) + torch.where(held, *starts)
            slots = slots.gather(1, order)
            there = bool(context.complete) or bool(exists.gather(1, slots).all())
            padded = not there
            made.append(Masking(slots[:, :k], slots[:, k:], exists, padded, padded))
        return Views(made[0], made[1], firsts[0])


def noise(count: int, generators: list[Generator]) -> Float[Tensor, "b p"]:
    return torch.stack([torch.rand(count, generator=g) for g in generators])


def first_of(scores: Float[Tensor, "b p"], count: int) -> Bool[Tensor, "b p"]:
    """The `count` lowest of each row."""
    return scores.argsort(dim=1).argsort(dim=1) < count
