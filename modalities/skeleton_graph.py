"""Graph layers over joints that keep the lattice: every frame shares one small neighbour matrix."""

from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multimask.modalities.prelu import PReLU
from multimask.modalities.skeleton_topologies import Topology
from multimask.nn.encoders import Places
from multimask.plugins import remembers_arguments
from multimask.tokens import Latents

Conv = Literal["gin", "gcn"]


class GraphLayer(nn.Module):
    """One round of messages along bones.

    "gin": `mlp((1 + eps) x_i + sum of neighbours)`, eps fixed (GIN, Xu et al. 2019, as in
    `torch_geometric.nn.GINConv`). "gcn": linear, then the symmetrically normalised mean with self
    loops (Kipf & Welling 2017, `GCNConv`). All joints of a frame at once: one product with a v x v
    matrix instead of a gather and a scatter an edge.
    """

    matrix: Tensor

    def __init__(
        self, topology: Topology, width: int, hidden: int, out: int, conv: Conv, eps: float = 0.0
    ) -> None:
        super().__init__()
        adjacency, loops = topology.adjacency(), torch.eye(len(topology))
        if conv == "gin":
            matrix = adjacency + (1 + eps) * loops
            self.mlp = nn.Sequential(nn.Linear(width, hidden), PReLU(), nn.Linear(hidden, out))
        elif conv == "gcn":
            scale = (adjacency + loops).sum(dim=1).rsqrt()
            matrix = scale[:, None] * (adjacency + loops) * scale
            self.mlp = nn.Linear(width, out)
        else:
            raise ValueError(f"GraphLayer: conv={conv!r} must be 'gin' or 'gcn'.")
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, x: Float[Tensor, "f v w"]) -> Float[Tensor, "f v o"]:
        return self.mlp(self.heard(x))

    def heard(self, x: Float[Tensor, "f v w"]) -> Float[Tensor, "f v w"]:
        """What reaches each joint, before it is digested."""
        return torch.matmul(self.matrix.to(x.dtype), x)


class GraphStack(nn.Module):
    """Layers with a norm per joint and PReLU between them (and at the end when `activate_last`).

    LayerNorm, where GraphMAE has BatchNorm: statistics of a batch would let a sample's result
    depend on its mates, and on joints that are not there.
    """

    def __init__(
        self,
        topology: Topology,
        width: int,
        hidden: int,
        depth: int,
        conv: Conv,
        activate_last: bool,
    ) -> None:
        super().__init__()
        self.topology = topology
        self.layers = nn.ModuleList(
            GraphLayer(topology, width, hidden, width, conv) for _ in range(depth)
        )
        rounds = depth if activate_last else depth - 1
        self.after = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), PReLU()) for _ in range(rounds)
        )

    def forward(
        self,
        x: Float[Tensor, "b k w"],
        places: Places,
        taps: tuple[int, ...] = (),
        asked: Int[Tensor, "b d"] | None = None,
    ) -> tuple[Float[Tensor, "b n w"], list[Tensor]]:
        """The whole lattice, or only the slots `asked` for, and the states after some layers.
        Joints that do not exist send nothing: they are zero before every layer."""
        exists = existing_slots(places)
        lattice = on_lattice(x, places, exists)
        joints, tapped = len(self.topology), []
        for index, layer in enumerate(cast(list[GraphLayer], list(self.layers))):
            frames = lattice.reshape(-1, joints, lattice.shape[-1])
            if asked is not None and index == len(self.layers) - 1:
                heard = picked(layer.heard(frames).view(lattice.shape), asked)
                answers = layer.mlp(heard)
                if exists is not None:
                    answers = answers * exists.gather(1, asked)[..., None]
                return answers, tapped
            lattice = layer(frames).view(*lattice.shape[:2], -1)
            if index < len(self.after):
                lattice = self.after[index](lattice)
            if exists is not None:
                lattice = lattice * exists[..., None]
            if index in taps:
                tapped.append(lattice)
        return lattice, tapped


@remembers_arguments
class GraphEncoder(nn.Module):
    """Messages along bones, frame by frame; hidden joints stay in the graph as a learned token.

    The encoder of SkeletonMAE (Yan et al., ICCV 2023): three GIN layers. A joint hears of others
    up to `depth` bones away and of no other frame; for context in time use the transformer.

    Args:
        topology: must be the tokenizer's; every modality's lattice ends in its joints.
        width: of a joint's state. depth: layers. hidden: of the layers' MLP, default `width`.
        conv: "gin" or "gcn".
    """

    keeps_hidden = True

    def __init__(
        self,
        topology: Topology,
        width: int = 64,
        depth: int = 3,
        hidden: int | None = None,
        conv: Conv = "gin",
    ) -> None:
        super().__init__()
        check_sizes("GraphEncoder", width, depth)
        self.topology, self.width, self.depth = topology, width, depth
        self.mask_token = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.mask_token, std=0.02)
        self.stack = GraphStack(topology, width, hidden or width, depth, conv, activate_last=True)

    def forward(
        self, content: Float[Tensor, "b k w"], places: Places, taps: tuple[int, ...] = ()
    ) -> Latents:
        """`taps` asks for the states after these layers (0-based, negative from the end)."""
        check_lattices(self.topology, places)
        wanted = tuple(sorted({index % self.depth for index in taps}))
        lattice, tapped = self.stack(content + places.position, places, wanted)
        none = content.new_zeros(len(content), 0, self.width)
        if existing_slots(places) is not None:
            lattice = picked(lattice, places.ids)
            tapped = [picked(tap, places.ids) for tap in tapped]
        return Latents(lattice, places.ids, none, places.num_slots, places.valid, tuple(tapped))


@remembers_arguments
class GraphDecoder(nn.Module):
    """Graph layers from an encoder that kept hidden joints to answers for them.

    A linear layer without bias, then messages. With `remask`, codes of hidden joints are set to
    zero in between: what a hidden joint became must be told by its neighbours (GraphMAE, Hou et al.
    2022), which must then be seen, or lie no further than `depth` from one that is.
    """

    def __init__(
        self,
        topology: Topology,
        encoder_width: int,
        width: int = 64,
        depth: int = 1,
        hidden: int | None = None,
        conv: Conv = "gin",
        remask: bool = False,
    ) -> None:
        super().__init__()
        check_sizes("GraphDecoder", width, depth)
        self.topology, self.width, self.depth, self.remask = topology, width, depth, remask
        self.embed = nn.Linear(encoder_width, width, bias=False)
        self.stack = GraphStack(topology, width, hidden or width, depth, conv, activate_last=False)

    def forward(self, latents: Latents, visible: Places, decoded: Places) -> Float[Tensor, "b d w"]:
        codes = self.embed(latents.tokens)
        if self.remask:
            if visible.shown is None:
                raise ValueError(
                    "GraphDecoder: re-masking needs an encoder that keeps hidden tokens; "
                    "use GraphEncoder, or say remask=False."
                )
            codes = codes * visible.shown[..., None]
        answers, _ = self.stack(codes + visible.position, visible, asked=decoded.ids)
        return answers


# --- between (b, k, w) and the lattice ------------------------------------------------------------


def existing_slots(places: Places) -> Bool[Tensor, "b n"] | None:
    """Which slots hold a token; None when all do."""
    if places.ids.shape[1] == places.num_slots and places.valid is None:
        return None
    here = torch.ones_like(places.ids, dtype=torch.bool) if places.valid is None else places.valid
    nowhere = here.new_zeros(len(here), places.num_slots)
    return nowhere.scatter(1, places.ids, here)


def on_lattice(
    x: Float[Tensor, "b k w"], places: Places, exists: Bool[Tensor, "b n"] | None
) -> Float[Tensor, "b n w"]:
    if exists is None:  # all slots, and `everything` lists them in order
        return x
    zeros = x.new_zeros(len(x), places.num_slots, x.shape[-1])
    lattice = zeros.scatter(1, places.ids[..., None].expand(-1, -1, x.shape[-1]), x)
    return lattice * exists[..., None]


def picked(lattice: Float[Tensor, "b n w"], ids: Int[Tensor, "b k"]) -> Float[Tensor, "b k w"]:
    return lattice.gather(1, ids[..., None].expand(-1, -1, lattice.shape[-1]))


def check_lattices(topology: Topology, places: Places) -> None:
    for name, where in places.slots.items():
        grid = places.grids.get(name)
        if grid is None or grid[-1] != len(topology) or len(where) % len(topology):
            raise ValueError(
                f"GraphEncoder: modality {name!r} has the lattice {grid}, but a graph of "
                f"{len(topology)} joints needs one that ends in {len(topology)}."
            )


def check_sizes(who: str, width: int, depth: int) -> None:
    if width < 1 or depth < 1:
        raise ValueError(f"{who}: width={width} and depth={depth} must be at least 1.")
