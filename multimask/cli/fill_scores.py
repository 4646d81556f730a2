"""How good filled entries are: against the truth that was held back, beside simple predictors."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from multimask.datasets.table import Table
from multimask.evaluation.maps import confusion, mean_absolute, mean_iou, psnr, ssim
from multimask.modalities.label_maps import LabelMaps
from multimask.modality import Tokenizer
from multimask.tokens import Part

Entry = tuple[int, str]  # row, modality


def hold_back(
    missing: Mapping[str, Bool[np.ndarray, " n"]], share: float, seed: int
) -> list[Entry]:
    """A share of the entries that are there, drawn at random; no row loses its last one.

    Raises: ValueError for a share that cannot be held back so.
    """
    names = list(missing)
    there = ~np.stack([missing[name] for name in names], axis=1)
    entries = np.argwhere(there)
    wanted = round(share * len(entries))
    left, chosen = there.sum(axis=1), list[Entry]()
    for row, column in np.random.default_rng(seed).permutation(entries).tolist():
        if len(chosen) < wanted and left[row] > 1:
            left[row] -= 1
            chosen.append((row, names[column]))
    if not 0 < share < 1 or len(chosen) < max(1, wanted):
        raise ValueError(
            f"share={share}: at most {len(chosen)} of {len(entries)} entries can be held back, for "
            "every row keeps one."
        )
    return sorted(chosen)


def without(table: Table, entries: Sequence[Entry]) -> Table:
    """The table with these entries blank."""
    columns = {name: list(table.columns[name]) for name in table.readers}
    for row, name in entries:
        columns[name][row] = None
    return table.with_columns(**columns)


def plane(tokenizer: Tokenizer, value: Any) -> Float[np.ndarray, "c h w"]:
    """A map as numbers, NaN where nothing is known: pictures in 0..1, depth and bands in their
    unit, classes as they are."""
    part = Part(tokenizer.collate([value]), torch.arange(1))  # type: ignore[attr-defined]
    made: Any = tokenizer.untokenize(tokenizer(part))  # type: ignore[attr-defined]
    numbers = made["pixels"] if isinstance(made, Mapping) else made
    array = numbers.numpy().astype(np.float64)
    if isinstance(tokenizer, LabelMaps):
        array = np.where(array == tokenizer.ignore, np.nan, array)
    array = array[0]
    return array[None] if array.ndim == 2 else array


@dataclass(frozen=True)
class Planes:
    """Every entry of a table as numbers on the model's grid, NaN where blank or unknown."""

    of: Mapping[str, Float[np.ndarray, "n c h w"]]
    there: Mapping[str, Bool[np.ndarray, " n"]]
    classes: Mapping[str, int]

    @classmethod
    def read(cls, table: Table, tokenizers: Mapping[str, Tokenizer]) -> "Planes":
        of, there = {}, {}
        for name, tokenizer in tokenizers.items():
            gone, reader = table.missing()[name], table.readers[name]
            assert reader is not None  # entries are files
            planes = [
                None if gone[row] else plane(tokenizer, reader.read(table.source(name, row)))
                for row in range(len(table))
            ]
            blank = np.full_like(next(p for p in planes if p is not None), np.nan)
            of[name] = np.stack([blank if p is None else p for p in planes])
            there[name] = ~gone
        classes = {n: t.classes for n, t in tokenizers.items() if isinstance(t, LabelMaps)}
        return cls(of, there, classes)


def mean_answers(seen: Planes, rows: Bool[np.ndarray, " n"]) -> dict[str, np.ndarray]:
    """Of each modality the mean of every channel over the training rows' known pixels; of classes
    the most frequent."""
    made = {}
    for name, planes in seen.of.items():
        inside = planes[rows & seen.there[name]]
        if name in seen.classes:
            known = inside[~np.isnan(inside)].astype(int)
            made[name] = np.full(planes.shape[1:], float(np.bincount(known).argmax()))
        else:
            channels = np.nanmean(inside, axis=(0, 2, 3))
            made[name] = np.broadcast_to(channels[:, None, None], planes.shape[1:]).copy()
    return made


def nearest_rows(
    seen: Planes, rows: Bool[np.ndarray, " n"], entries: Sequence[Entry]
) -> dict[Entry, int]:
    """For each entry the training row that has the modality and is nearest by what both have.

    Distance: mean over shared modalities of the mean squared difference of standardised pixels that
    both know; of classes the share of pixels that differ.
    """
    distances = {name: distances_of(seen, name, rows) for name in seen.of}
    found = {}
    for row, name in entries:
        others = [other for other in seen.of if other != name and seen.there[other][row]]
        shared = np.stack([distances[other][row] for other in others])
        candidates = rows & seen.there[name] & ~np.isnan(shared).all(axis=0)
        candidates[row] = False
        if not candidates.any():
            raise ValueError(f"no training row has {name!r} and anything that row {row} has.")
        with np.errstate(invalid="ignore"):
            total = np.nansum(shared, axis=0) / np.maximum((~np.isnan(shared)).sum(axis=0), 1)
        found[row, name] = int(np.where(candidates, total, np.inf).argmin())
    return found


def distances_of(seen: Planes, name: str, rows: Bool[np.ndarray, " n"]) -> Float[np.ndarray, "n n"]:
    """Between all rows; NaN where one of the two lacks the modality."""
    planes, there = seen.of[name], seen.there[name]
    flat = planes.reshape(len(planes), -1)
    if name not in seen.classes:
        inside = planes[rows & there]
        mean = np.nanmean(inside, axis=(0, 2, 3))[:, None, None]
        std = np.nanstd(inside, axis=(0, 2, 3))[:, None, None]
        flat = ((planes - mean) / np.maximum(std, 1e-9)).reshape(len(planes), -1)
    made = np.full((len(flat), len(flat)), np.nan)
    for row in np.flatnonzero(there):
        off = flat[there] - flat[row]
        off = (off != 0) * ~np.isnan(off) if name in seen.classes else np.square(off)
        known = ~np.isnan(flat[there]) & ~np.isnan(flat[row])
        total = np.where(known, np.nan_to_num(off), 0).sum(axis=1)
        made[row, there] = np.where(known.any(axis=1), total / np.maximum(known.sum(1), 1), np.nan)
    return made


@dataclass(frozen=True)
class Score:
    """Of one modality and predictor: means over entries. errors: one an entry (share of wrong
    pixels of classes, else mean absolute error), for pairing."""

    numbers: dict[str, float]
    errors: Float[np.ndarray, " entries"]


def score(
    answers: Sequence[Float[np.ndarray, "c h w"]],
    truths: Sequence[Float[np.ndarray, "c h w"]],
    span: float,
    classes: int | None,
) -> Score:
    """classes: of a label map, None for other maps. span: from least to largest true value."""
    pairs = list(zip(answers, truths, strict=True))
    if classes is not None:
        counts = [confusion(whole(a), whole(b), classes) for a, b in pairs]
        wrong = [1 - np.trace(one) / max(one.sum(), 1) for one in counts]
        right = 1 - float(np.mean(wrong))
        return Score({"accuracy": right, "mIoU": mean_iou(counts)}, np.array(wrong))
    errors = np.array([mean_absolute(a, b) for a, b in pairs])
    likeness = [ssim(a, b, span) for a, b in pairs]
    numbers = {
        "PSNR": together(psnr(a, b, span) for a, b in pairs),
        "SSIM": float(np.nanmean(likeness)) if not np.isnan(likeness).all() else float("nan"),
        "MAE": float(errors.mean()),
    }
    return Score(numbers, errors)


def together(ratios: Iterable[float]) -> float:
    """PSNR of the mean squared error of maps with these: one that is met exactly is no infinity."""
    return -10 * float(np.log10(np.mean([10 ** (-ratio / 10) for ratio in ratios])))


def whole(labels: Float[np.ndarray, "c h w"]) -> np.ndarray:
    """Class numbers, -1 where unknown."""
    return np.where(np.isnan(labels[0]), -1, labels[0]).astype(np.int64)
