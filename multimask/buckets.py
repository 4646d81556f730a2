"""Batches whose samples differ in size: split into batches that agree, and merged again."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from multimask.tokens import Batch, Latents, Part


def by_shape(batch: Batch) -> list[tuple[list[int], Batch]]:
    """Split a batch whose samples differ in size into batches whose samples agree."""
    ragged = {name: part for name, part in batch.parts.items() if isinstance(part.data, list)}
    if not ragged:
        return [(list(range(batch.size)), batch)]
    keys: list[list[object]] = [[] for _ in range(batch.size)]
    for name, part in ragged.items():
        for row, item in zip(part.rows.tolist(), part.data, strict=True):
            keys[row].append((name, shape_of(item)))
    buckets: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        buckets.setdefault(repr(key), []).append(row)
    return [(rows, taken(batch, rows)) for rows in buckets.values()]


def taken(batch: Batch, rows: list[int]) -> Batch:
    """These rows of a batch, in this order; lists whose items now agree are stacked."""
    place = {row: index for index, row in enumerate(rows)}
    parts = {}
    for name, part in batch.parts.items():
        had = part.rows.tolist()
        keep = [index for index, row in enumerate(had) if row in place]
        if not keep:
            continue
        device = part.rows.device
        data = entries(part.data, keep, len(had))
        parts[name] = Part(data, torch.tensor([place[had[i]] for i in keep], device=device))
    return Batch(
        len(rows),
        tuple(batch.sample_ids[row] for row in rows),
        {name: [values[row] for row in rows] for name, values in batch.labels.items()},
        parts,
    )


def shape_of(item: Any) -> object:
    """Shape and dtype of a sample's data; a mapping of tensors has those of each."""
    if isinstance(item, Mapping):
        return [(key, shape_of(item[key])) for key in sorted(item)]
    return tuple(item.shape), str(item.dtype)


def entries(data: Any, keep: list[int], count: int) -> Any:
    """These of a part's `count` entries: of a tensor, a list, or a mapping of tensors; what a
    mapping holds that has not one row a sample is shared by all."""
    if isinstance(data, Tensor):
        per_sample = data.ndim > 0 and len(data) == count
        return data[torch.tensor(keep, device=data.device)] if per_sample else data
    if isinstance(data, Mapping):
        return {key: entries(value, keep, count) for key, value in data.items()}
    if not isinstance(data, list):
        return data
    items = [data[index] for index in keep]
    if len({repr(shape_of(item)) for item in items}) > 1:
        return items
    if isinstance(items[0], Mapping):
        return {key: torch.stack([item[key] for item in items]) for key in items[0]}
    return torch.stack(items)


def merged(pieces: list[tuple[list[int], Latents]], size: int) -> Latents:
    """Latents of buckets back in one record, padded to the longest; padding is not valid."""
    first = pieces[0][1]
    k = max(latents.tokens.shape[1] for _, latents in pieces)
    tokens = first.tokens.new_zeros(size, k, first.tokens.shape[-1])
    ids = first.ids.new_zeros(size, k)
    valid = torch.zeros(size, k, dtype=torch.bool, device=ids.device)
    around = first.globals.new_zeros(size, *first.globals.shape[1:])
    taps = tuple(tokens.new_zeros(tokens.shape) for _ in first.taps)
    for rows, latents in pieces:
        where, count = torch.tensor(rows, device=ids.device), latents.tokens.shape[1]
        tokens[where, :count] = latents.tokens
        ids[where, :count] = latents.ids
        valid[where, :count] = True if latents.valid is None else latents.valid
        around[where] = latents.globals
        for whole, tap in zip(taps, latents.taps, strict=True):
            whole[where, :count] = tap
    num_slots = max(latents.num_slots for _, latents in pieces)
    return Latents(tokens, ids, around, num_slots, valid, taps)
