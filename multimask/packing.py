"""Tokens as flat lists per modality, and back as rows: so that only some tokens are embedded.

A batch's picked tokens `(b, k)` come from several modalities, of which any sample may lack some.
Weights are applied to one flat list per modality; `arranged` lays the lists out as rows again.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multimask.tokens import Masking, Picks, Slots, Tokens


def with_picks(
    masking: Masking,
    slots: Slots,
    rows: Mapping[str, Int[Tensor, " r"]],
    num_tokens: Mapping[str, int],
) -> Masking:
    """Attach the flat lists: `rows` and `num_tokens` tell where each modality's values lie."""
    picks = find_picks(masking.ids, masking.alive, masking.padded, slots, rows, num_tokens)
    decoded_alive = masking.exists.gather(1, masking.decoded_ids)
    decoded = find_picks(
        masking.decoded_ids, decoded_alive, masking.decoded_padded, slots, rows, num_tokens
    )
    return replace(masking, picks=picks, decoded_picks=decoded)


def find_picks(
    ids: Int[Tensor, "b k"],
    alive: Bool[Tensor, "b k"],
    padded: bool,
    slots: Slots,
    rows: Mapping[str, Int[Tensor, " r"]],
    num_tokens: Mapping[str, int],
) -> Picks:
    """The flat lists of the `ids` that are alive, per modality, rows ascending; and the way back.

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


def coords_at(tokens: Tokens, source: Int[Tensor, " m"]) -> Tensor:
    """Coordinates of flat tokens; a lattice shares one set among its rows."""
    coords = tokens.coords
    if len(coords) == 1 and tokens.values.shape[0] != 1:
        return coords[0].index_select(0, source % tokens.values.shape[1])
    return coords.flatten(0, 1).index_select(0, source)


def arranged(lists: list[Tensor], picks: Picks, ids: Int[Tensor, "b k"]) -> Float[Tensor, "b k w"]:
    """Flat lists in name order, laid out as rows; what does not exist gets zeros."""
    flat = lists[0] if len(lists) == 1 else torch.cat(lists)
    if picks.order is not None:
        flat = torch.cat((flat, flat.new_zeros(1, flat.shape[1]))).index_select(0, picks.order)
    return flat.view(*ids.shape, flat.shape[1])


def places_in_rows(picks: Picks, device: torch.device) -> Int[Tensor, " m"] | None:
    """For every entry of the concatenated lists its place in the flattened rows; None when the
    list stands in order already."""
    if picks.order is None:
        return None
    total = sum(len(source) for source in picks.source.values())
    inverse = torch.empty(total + 1, dtype=torch.long, device=device)
    inverse[picks.order] = torch.arange(len(picks.order), device=device)
    return inverse[:total]
