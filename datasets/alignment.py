"""Modalities that lie on each other: one augmentation for all of them, on one grid."""

import zlib
from collections.abc import Mapping, Sequence

from multimask.tokens import BadSample

AXES = ("frames", "z", "y", "x", "height", "width")
"""What readers call the sizes of a grid."""

Groups = tuple[tuple[str, ...], ...]


def own_seed(seed: int, modality: str, groups: Groups | None) -> int:
    """What a modality of a row draws from: that of its group, or its own. The row's itself where
    no groups are declared."""
    if groups is None:
        return seed
    key = next((min(group) for group in groups if modality in group), modality)
    return seed ^ zlib.crc32(key.encode())


def check_groups(groups: Groups, known: Sequence[str]) -> None:
    names = [name for group in groups for name in group]
    twice = sorted({name for name in names if names.count(name) > 1})
    unknown = sorted(set(names) - set(known))
    if twice:
        raise ValueError(f"with_aligned: {twice[0]!r} is named twice; groups must not overlap.")
    if unknown:
        raise ValueError(
            f"with_aligned: there is no modality {unknown[0]!r}; there are {', '.join(known)}."
        )


def check_one_grid(row: str, sizes: Mapping[str, Mapping[str, int]]) -> None:
    """Raises BadSample unless all modalities that are there have equal sizes of the same axes."""
    there = [(name, size) for name, size in sizes.items() if size]
    for name, size in there[1:]:
        first, wanted = there[0]
        if any(size[axis] != wanted[axis] for axis in size.keys() & wanted.keys()):
            one, other = (" x ".join(map(str, found.values())) for found in (wanted, size))
            raise BadSample(
                f"row {row!r}: {first} and {name} are declared aligned, but their grids are {one} "
                f"and {other}; resample one of them, or do not declare it aligned."
            )
