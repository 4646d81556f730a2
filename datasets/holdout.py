"""Which samples are held out: decided by hashes of their ids, so rows may come and go."""

import hashlib
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt64


def held_out(
    ids: Sequence[str],
    share: float,
    seed: int,
    labels: Sequence[Hashable] | None = None,
    groups: Sequence[Hashable] | None = None,
) -> Bool[np.ndarray, " n"]:
    """Mark round(share * n) samples, every label's in proportion (to within one sample).

    With groups, whole groups are marked until they hold about that share, whatever their labels.
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share} must lie between 0 and 1.")
    held = (
        _whole_groups(groups, share, seed) if groups else _in_proportion(ids, share, seed, labels)
    )
    if held.all() or not held.any():
        raise ValueError(
            f"share={share} of {len(held)} {'samples in these groups' if groups else 'samples'} "
            "leaves one side empty; choose another share."
        )
    return held


def _in_proportion(
    ids: Sequence[str], share: float, seed: int, labels: Sequence[Hashable] | None
) -> Bool[np.ndarray, " n"]:
    keys, codes = _hashes(ids, seed), _codes(labels or [None] * len(ids))
    order = np.lexsort((keys, codes))  # by label, then by hash
    counts = np.bincount(codes)
    rank = np.empty(len(ids))
    rank[order] = np.arange(len(ids)) - np.repeat(np.cumsum(counts) - counts, counts)
    quantile = (rank + 0.5) / counts[codes]  # of a sample among those of its label
    held = np.zeros(len(ids), bool)
    held[np.lexsort((keys, quantile))[: round(share * len(ids))]] = True
    return held


def _whole_groups(groups: Sequence[Hashable], share: float, seed: int) -> Bool[np.ndarray, " n"]:
    codes = _codes(groups)
    names = [str(name) for name in dict.fromkeys(groups)]  # in the order of their codes
    sizes, order = np.bincount(codes), np.argsort(_hashes(names, seed), kind="stable")
    middle = np.cumsum(sizes[order]) - sizes[order] / 2
    chosen = order[middle < share * len(codes)]
    return np.isin(codes, chosen if len(chosen) else order[:1])


def _codes(values: Sequence[Any]) -> Int[np.ndarray, " n"]:
    """Equal values as equal numbers, counted up from 0 in order of appearance."""
    code = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return np.fromiter((code[value] for value in values), np.int64, len(values))


def _hashes(names: Sequence[str], seed: int) -> UInt64[np.ndarray, " n"]:
    digests = (hashlib.sha256(repr((seed, name)).encode()).digest() for name in names)
    return np.fromiter((int.from_bytes(d[:8], "big") for d in digests), np.uint64, len(names))
