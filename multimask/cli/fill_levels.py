"""What a modality's files hold in the middle: where standardised answers are laid on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from multimask.datasets.table import Table
from multimask.datasets.volumes import Volume
from multimask.modalities.depth_maps import DepthMaps, trimmed
from multimask.tokens import BadSample

LOOK_AT = 16  # rows that the numbers of per-sample standardised modalities are taken from


@dataclass(frozen=True)
class Level:
    """What standardised voxels are multiplied by and added to, one number a channel, and of how
    many files these are the medians."""

    scale: tuple[float, ...]
    shift: tuple[float, ...]
    files: int


def volume_level(name: str, table: Table) -> Level | None:
    found = [value for value in some_values(name, table) if isinstance(value, Volume)]
    if not found:
        return None
    scales, shifts = (np.median([getattr(v, key) for v in found], 0) for key in ("scale", "shift"))
    return Level(tuple(map(float, scales)), tuple(map(float, shifts)), len(found))


def depth_level(name: str, tokenizer: DepthMaps, table: Table) -> tuple[float, float]:
    """(mean, std) of depth: the tokenizer's own where it has a fixed scale; else what the maps that
    are there have in the middle."""
    if tokenizer.scale == "fixed":
        return tokenizer.mean, tokenizer.std
    maps = [value.flatten()[None] for value in some_values(name, table)]
    levels = [trimmed(one) for one in maps]
    if not levels:
        return 0.0, 1.0
    means = torch.cat([mean for mean, _ in levels])
    return float(means.median()), float(torch.cat([v for _, v in levels]).sqrt().median())


def some_values(name: str, table: Table) -> list[Any]:
    """What the first readable files of a modality hold."""
    reader, found = table.readers.get(name), []
    for index in range(len(table)):
        source = table.source(name, index) if reader is not None else None
        if reader is None or source is None or len(found) == LOOK_AT:
            continue
        try:
            found.append(reader.read(source))
        except (BadSample, OSError):
            continue  # reading its row lists it
    return found
