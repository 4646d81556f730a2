"""torch_geometric at both ends: our tokens as its graphs, its networks as our encoders."""

from typing import TYPE_CHECKING, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from multimask.nn.encoders import Places
from multimask.plugins import remembers_arguments
from multimask.tokens import Latents, Tokens

if TYPE_CHECKING:
    from torch_geometric.data import Data

Network = Literal["GIN", "GCN", "GAT", "GraphSAGE"]


def graphs(tokens: Tokens) -> "list[Data]":
    """One `torch_geometric` graph a sample: x, edge_index, pos, and `valid` where tokens lack.

    Batch them with `torch_geometric.data.Batch.from_data_list` or its `DataLoader`.
    Raises: ValueError for tokens without edges.
    """
    from torch_geometric.data import Data

    if tokens.edges is None:
        raise ValueError("graphs: these tokens have no edges.")
    made = []
    for row, values in enumerate(tokens.values):
        valid = torch.ones(len(values), dtype=torch.bool)
        data = Data(
            x=values,
            edge_index=tokens.edges,
            pos=tokens.coords[row if len(tokens.coords) > 1 else 0],
            valid=valid if tokens.valid is None else tokens.valid[row],
        )
        made.append(data)
    return made


@remembers_arguments
class GeometricEncoder(nn.Module):
    """A network of `torch_geometric.nn.models` over the tokens' own edges, any graph.

    Hidden tokens stay as a learned token. Slower than `GraphEncoder` (messages an edge, not a
    product a frame), but it takes attention (GAT), edges in time (`time_edges` of the tokenizer)
    and several modalities of different graphs. Edges of tokens that do not exist are left out;
    tokens of modalities without edges stand alone.
    """

    keeps_hidden = True

    def __init__(
        self, network: Network = "GIN", width: int = 64, depth: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        from torch_geometric.nn import models

        if network not in ("GIN", "GCN", "GAT", "GraphSAGE"):
            raise ValueError(
                f"GeometricEncoder: network={network!r} must be GIN, GCN, GAT or GraphSAGE."
            )
        self.width, self.depth = width, depth
        self.mask_token = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.mask_token, std=0.02)
        # no norm: its batch and graph norms let samples and hidden tokens see each other
        self.network = getattr(models, network)(
            width, width, depth, out_channels=width, dropout=dropout, act="relu", norm=None
        )

    def forward(
        self, content: Float[Tensor, "b k w"], places: Places, taps: tuple[int, ...] = ()
    ) -> Latents:
        if taps:
            raise ValueError("GeometricEncoder: has no taps; use GraphEncoder.")
        edges = self.edges(places)
        x = content + places.position
        answered = cast(Tensor, self.network(x.flatten(0, 1), edges)).view_as(x)
        none = content.new_zeros(len(content), 0, self.width)
        return Latents(answered, places.ids, none, places.num_slots, places.valid)

    def edges(self, places: Places) -> Tensor:
        """Edges of all samples between places of the flattened `(b, k)`."""
        if not places.edges:
            raise ValueError("GeometricEncoder: none of these tokens have edges.")
        common = torch.cat(
            [edges + places.slots[name].start for name, edges in places.edges.items()], dim=1
        )
        size, k = places.ids.shape
        device = places.ids.device
        place = torch.full((size, places.num_slots), -1, dtype=torch.long, device=device)
        where = torch.arange(size * k, device=device).view(size, k)
        if places.valid is not None:
            where = where.masked_fill(~places.valid, -1)
        place.scatter_(1, places.ids, where)
        ends = place[:, common].permute(1, 0, 2).flatten(1)
        return ends[:, (ends >= 0).all(dim=0)]
