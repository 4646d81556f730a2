"""Where a joint is in the graph: learned tables, Laplacian eigenvectors, random-walk returns.

Each is a position as `LinearAdapter` takes them, `(tokenizer, width)`: an encoding of the joint, a
sin-cos table of time, and a learned vector a body (zero at first). `NoPlaces` is for graph
encoders that tell joints apart by their bones alone.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from multimask.modalities.skeleton_topologies import Topology
from multimask.modality import Tokenizer
from multimask.nn.positions import cached_sincos
from multimask.plugins import remembers_arguments
from multimask.tokens import Grid


@runtime_checkable
class HasTopology(Protocol):
    """A lattice (bodies, segments, joints) whose joints hang together."""

    @property
    def topology(self) -> Topology: ...
    @property
    def bodies(self) -> int: ...
    @property
    def grid(self) -> tuple[int, int, int]: ...


def laplacian_encoding(topology: Topology, count: int) -> Float[Tensor, "v f"]:
    """The `count` smoothest non-constant eigenvectors of the normalised Laplacian (Dwivedi et al.
    2020), zeros where a skeleton has fewer.

    An eigenvector's sign is free; here its entry of largest size is positive (the first of
    several), so that the encoding is the same on every machine.
    """
    adjacency = topology.adjacency().double()
    scale = adjacency.sum(dim=1).clamp(min=1).rsqrt()
    laplacian = torch.eye(len(topology)).double() - scale[:, None] * adjacency * scale
    vectors = torch.linalg.eigh(laplacian).eigenvectors[:, 1 : count + 1]
    sizes = vectors.abs()
    # rounding must not decide between mirror joints, which are equally large
    largest = (sizes >= sizes.amax(dim=0) - 1e-6).int().argmax(dim=0)
    vectors = vectors * vectors.gather(0, largest[None]).sign()
    return nn.functional.pad(vectors, (0, count - vectors.shape[1])).float()


def walk_encoding(topology: Topology, count: int) -> Float[Tensor, "v f"]:
    """Chances that a random walk is back at its joint after 1..count steps (Dwivedi et al. 2022).
    Mirror joints have the same."""
    adjacency = topology.adjacency()
    step = adjacency / adjacency.sum(dim=1, keepdim=True).clamp(min=1)
    power, back = torch.eye(len(topology)), []
    for _ in range(count):
        power = power @ step
        back.append(power.diagonal())
    return torch.stack(back, dim=1)


class PlacesInTime(nn.Module):
    """What the encodings share: joint + time + body, gathered by slot."""

    def __init__(self, tokenizer: Tokenizer, width: int) -> None:
        super().__init__()
        if not isinstance(tokenizer, HasTopology):
            raise ValueError(
                f"{type(tokenizer).__name__} has no topology; joint encodings need joints."
            )
        self.width = width
        self.body = nn.Parameter(torch.zeros(tokenizer.bodies, width))

    def forward(
        self,
        joint: Float[Tensor, "v w"],
        slots: Int[Tensor, " m"],
        grid: Grid | None,
    ) -> Float[Tensor, "m w"]:
        if grid is None or len(grid) != 3:
            raise ValueError(f"joint encodings need a lattice (body, segment, joint), not {grid}.")
        _, segments, joints = grid
        time = cached_sincos((segments,), self.width, slots.device)
        frame = slots // joints
        return (
            joint.index_select(0, slots % joints)
            + time.index_select(0, frame % segments)
            + self.body.index_select(0, frame // segments)
        )


def topology_of(tokenizer: Tokenizer) -> Topology:
    if not isinstance(tokenizer, HasTopology):
        raise ValueError(f"{type(tokenizer).__name__} has no topology.")
    return tokenizer.topology


@remembers_arguments
class JointPlaces(nn.Module):
    """A learned vector per joint."""

    def __init__(self, tokenizer: Tokenizer, width: int) -> None:
        super().__init__()
        self.around = PlacesInTime(tokenizer, width)
        self.table = nn.Parameter(torch.zeros(len(topology_of(tokenizer)), width))
        nn.init.normal_(self.table, std=0.02)

    def forward(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        return self.around(self.table, slots, grid)


@remembers_arguments
class LaplacianPlaces(nn.Module):
    """Laplacian eigenvectors of the skeleton through a linear layer."""

    encoding: Tensor

    def __init__(self, tokenizer: Tokenizer, width: int, count: int = 8) -> None:
        super().__init__()
        self.around = PlacesInTime(tokenizer, width)
        encoding = laplacian_encoding(topology_of(tokenizer), count)
        self.register_buffer("encoding", encoding, persistent=False)
        self.proj = nn.Linear(count, width)

    def forward(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        return self.around(self.proj(self.encoding), slots, grid)


@remembers_arguments
class WalkPlaces(nn.Module):
    """Random-walk return probabilities through a linear layer. They cannot tell left from right."""

    encoding: Tensor

    def __init__(self, tokenizer: Tokenizer, width: int, count: int = 8) -> None:
        super().__init__()
        self.around = PlacesInTime(tokenizer, width)
        encoding = walk_encoding(topology_of(tokenizer), count)
        self.register_buffer("encoding", encoding, persistent=False)
        self.proj = nn.Linear(count, width)

    def forward(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        return self.around(self.proj(self.encoding), slots, grid)


@remembers_arguments
class NoPlaces(nn.Module):
    """Zero everywhere."""

    def __init__(self, tokenizer: Tokenizer, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(
        self, coords: Num[Tensor, "m p"], slots: Int[Tensor, " m"], grid: Grid | None
    ) -> Float[Tensor, "m w"]:
        return torch.zeros(1, 1, device=slots.device).expand(len(slots), self.width)
