"""Who is hidden in a skeleton: body parts, joints over all time, whole frames, what moves most.

Rules for lattices (body, segment, joint); uniform noise, `Uniform`, is the core's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from multimask.masking import Context, Count, Masker, Uniform
from multimask.modalities.skeleton_topologies import Topology

Lattice = tuple[int, int, int]


def lattices(context: Context, who: str) -> dict[str, Lattice]:
    """Each modality's (bodies, segments, joints)."""
    grids = {name: context.grid(name, needed_by=who) for name in context.slots}
    for name, grid in grids.items():
        if len(grid) != 3:
            raise ValueError(
                f"{who}: modality {name!r} has the lattice {grid}, expected (bodies, segments, "
                "joints)."
            )
    return {name: (grid[0], grid[1], grid[2]) for name, grid in grids.items()}


def the_lattice(context: Context, who: str) -> Lattice:
    """The one shape that all modalities have: rules that tie tokens count in its units."""
    shapes = set(lattices(context, who).values())
    if len(shapes) != 1:
        raise ValueError(f"{who}: modalities must have one lattice, found {sorted(shapes)}.")
    return shapes.pop()


def noise(lattice: Lattice, generators: list[Generator]) -> Float[Tensor, "b m t v"]:
    """Uniform noise of this shape (1 where it is shared), drawn sample by sample."""
    return torch.stack([torch.rand(lattice, generator=g) for g in generators])


def over_slots(
    scores: Float[Tensor, "b m t v"], lattice: Lattice, exists: Bool[Tensor, "b n"]
) -> Float[Tensor, "b n"]:
    """The same scores for all of a sample's modalities, spread over what shares them."""
    whole = scores.expand(-1, *lattice).flatten(1)
    return whole.repeat(1, exists.shape[1] // whole.shape[1]).to(exists.device)


@dataclass(frozen=True)
class JointTubes:
    """A joint is hidden in all frames or in none (tube masking, Tong et al. 2022, on joints)."""

    def unit(self, context: Context) -> int:
        return the_lattice(context, "JointTubes")[1]

    def __call__(
        self, exists: Bool[Tensor, "b n"], generators: list[Generator], context: Context
    ) -> Float[Tensor, "b n"]:
        lattice = bodies, _, joints = the_lattice(context, "JointTubes")
        modalities = len(context.slots)
        drawn = noise((modalities * bodies, 1, joints), generators)
        return over_slots(drawn, (modalities * bodies, lattice[1], joints), exists)


@dataclass(frozen=True)
class WholeFrames:
    """A segment is hidden with all joints of all bodies, or shown: between frames only motion
    tells what is missing."""

    def unit(self, context: Context) -> int:
        bodies, _, joints = the_lattice(context, "WholeFrames")
        return bodies * joints * len(context.slots)

    def __call__(
        self, exists: Bool[Tensor, "b n"], generators: list[Generator], context: Context
    ) -> Float[Tensor, "b n"]:
        lattice = the_lattice(context, "WholeFrames")
        return over_slots(noise((1, lattice[1], 1), generators), lattice, exists)


@dataclass(frozen=True)
class BodyParts:
    """Whole body parts are hidden, in all frames and bodies (SkeletonMAE, Yan et al. 2023).

    Budgets count joints. Without `choices` parts are hidden in random order, and of the part that
    straddles the budget random joints. With `choices` every sample hides one of these sets of
    parts, drawn evenly; all sets must have the same number of joints, which the budget must hide:
    `part_masker` makes the two agree.

    Args: topology, whose parts they are. choices: sets of names of parts.
    """

    topology: Topology
    choices: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def fitted(cls, tokenizer: Any) -> "BodyParts":
        """The parts of a tokenizer's skeleton."""
        return cls(tokenizer.topology)

    def __post_init__(self) -> None:
        for names in self.choices:
            if unknown := sorted(set(names) - set(self.topology.parts)):
                raise ValueError(
                    f"BodyParts: no part is named {unknown[0]!r}; this skeleton has "
                    f"{', '.join(self.topology.parts)}."
                )
        sizes = {self.size(names) for names in self.choices}
        if len(sizes) > 1:
            raise ValueError(
                f"BodyParts: choices hide {sorted(sizes)} joints, but a run hides one number; "
                "give sets of equal size."
            )

    def size(self, names: Sequence[str]) -> int:
        return sum(len(self.topology.parts[name]) for name in set(names))

    def unit(self, context: Context) -> int:
        bodies, segments, joints = the_lattice(context, "BodyParts")
        if joints != len(self.topology):
            raise ValueError(
                f"BodyParts: its skeleton has {len(self.topology)} joints, the data have {joints}."
            )
        return bodies * segments * len(context.slots)

    def __call__(
        self, exists: Bool[Tensor, "b n"], generators: list[Generator], context: Context
    ) -> Float[Tensor, "b n"]:
        self.unit(context)
        lattice = the_lattice(context, "BodyParts")
        scores = torch.stack([self.joint_scores(g) for g in generators])
        return over_slots(scores[:, None, None], lattice, exists)

    def joint_scores(self, generator: Generator) -> Float[Tensor, " v"]:
        """Highest are hidden first: parts by rank, joints within one at random."""
        within = torch.rand(len(self.topology), generator=generator)
        rank = torch.zeros(len(self.topology))
        if self.choices:
            pick = int(torch.randint(len(self.choices), (), generator=generator))
            for name in self.choices[pick]:
                rank[list(self.topology.parts[name])] = 1
        else:
            order = torch.randperm(len(self.topology.parts), generator=generator)
            for place, joints in zip(order.tolist(), self.topology.parts.values(), strict=True):
                rank[list(joints)] = place
        return rank + within


def part_masker(topology: Topology, *choices: Sequence[str]) -> Masker:
    """Hides exactly one of these sets of parts, also in clips that lack joints or frames.

    >>> from multimask.modalities.skeleton_topologies import COCO17
    >>> part_masker(COCO17, ("right_arm", "right_leg")).budget
    Count(visible=13, decoded=None)
    """
    rule = BodyParts(topology, tuple(tuple(names) for names in choices))
    if not choices or not 0 < rule.size(choices[0]) < len(topology):
        raise ValueError(
            "part_masker: name at least one set of parts, and not the whole body; this skeleton "
            f"has {', '.join(topology.parts)}."
        )
    budget = Count(len(topology) - rule.size(choices[0]))
    return Masker(rule, budget, ragged=True, in_place=True)


@dataclass(frozen=True)
class Moving:
    """What moves fast is more likely hidden (motion-aware masking; MAMP, Mao et al. 2023).

    A token's speed is the mean distance that its joint covers from a frame to the next, into the
    following segment; unknown neighbours count as rest. Hidden are the tokens of largest
    `speed / (temperature x the sample's mean speed) + Gumbel noise`: sampling without replacement
    in proportion to the softmax of speed. Low temperatures hide the fastest always, high ones make
    it uniform. Looks at content, so it is drawn in the step. dims: coordinates per joint.
    """

    temperature: float = 1.0
    dims: int = 3

    needs_content = True

    @classmethod
    def fitted(cls, tokenizer: Any) -> "Moving":
        """Speeds in as many coordinates as a tokenizer's joints have."""
        return cls(dims=tokenizer.dims)

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"Moving: temperature={self.temperature} must be positive.")

    def __call__(
        self, exists: Bool[Tensor, "b n"], generators: list[Generator], context: Context
    ) -> Float[Tensor, "b n"]:
        if context.tokens is None:
            raise ValueError("Moving: looks at motion, so it needs the tokenized batch.")
        uniform = Uniform()(exists, generators, context).clamp(1e-7, 1 - 1e-7)
        speeds = torch.zeros_like(uniform)
        for name, lattice in lattices(context, "Moving").items():
            tokens, where = context.tokens.modalities.get(name), context.slots[name]
            if tokens is not None:
                speed = token_speed(tokens.values, tokens.valid, lattice, self.dims)
                speeds[tokens.rows, where.start : where.start + speed.shape[1]] = speed.to(speeds)
        mean = speeds.sum(dim=1, keepdim=True) / exists.sum(dim=1, keepdim=True).clamp(min=1)
        gumbel = -torch.log(-torch.log(uniform))
        return speeds / (self.temperature * mean.clamp(min=1e-12)) + gumbel


def token_speed(
    values: Float[Tensor, "r n c"],
    valid: Bool[Tensor, "r n"] | None,
    lattice: Lattice,
    dims: int = 3,
) -> Float[Tensor, "r n"]:
    """Mean distance per frame, in the unit of the values, of every joint and segment."""
    bodies, segments, joints = lattice
    if values.shape[-1] % dims:
        raise ValueError(
            f"Moving: tokens of {values.shape[-1]} numbers do not hold coordinates of {dims}; "
            "say Moving(dims=2) for skeletons in the plane."
        )
    path = rearrange(values, "r (m t v) (s c) -> r m v (t s) c", m=bodies, v=joints, c=dims)
    steps = (path[..., 1:, :] - path[..., :-1, :]).norm(dim=-1)
    if valid is not None:
        known = rearrange(valid, "r (m t v) -> r m v t", m=bodies, v=joints)
        known = known.repeat_interleave(path.shape[-2] // segments, dim=-1)
        steps = steps * (known[..., 1:] & known[..., :-1])
    # the last frame has no next one: it repeats the step before
    last = steps[..., -1:] if steps.shape[-1] else steps.new_zeros(*steps.shape[:-1], 1)
    every = torch.cat((steps, last), dim=-1)
    return rearrange(every, "r m v (t s) -> r m t v s", t=segments).mean(dim=-1).flatten(1)
