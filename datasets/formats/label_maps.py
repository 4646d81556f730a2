"""The label-map reader: one file of class numbers to one `(height, width)` tensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Num
from torch import Generator, Tensor

from multimask.datasets.formats.maps import (
    SUFFIXES,
    Source,
    header_facts,
    nearest,
    open_map,
    planned,
)
from multimask.datasets.transforms import RandomResizedCrop, ResizeCrop, Transform
from multimask.tokens import BadSample

WHAT = "a label map"


@dataclass(frozen=True)
class LabelMapReader:
    """Reads class numbers of PNG, TIFF, GeoTIFF, NPY and arrays as int64 `(height, width)`.

    Of a palette PNG the indices count, not the colours. A GeoTIFF's nodata becomes `ignore`. Maps
    are resized by nearest pixels only. A cell may name a window (`map.tif#window=0,64,32,32`: top,
    left, height, width) or one of a NPY's maps (`maps.npy#index=7`).

    Args:
        classes: how many there are; None checks nothing.
        numbers: the file's own numbers of each class, `((1, 2), (4,))`: 1 and 2 are class 0, 4 is
            class 1, all others unknown. () takes numbers as they are.
        ignore: what unknown pixels hold, in files without `numbers` and in the result.
        transform: crops and resizes (see `datasets.transforms`), as that of pictures beside it.
        max_pixels: of a map, checked before decoding.
    Raises: BadSample, one sentence: numbers outside the classes, several channels, fractions.

    >>> LabelMapReader(numbers=((4,), (1, 2))).read(np.array([[1, 4, 7]])).tolist()
    [[1, 0, 255]]
    """

    classes: int | None = None
    numbers: tuple[tuple[int, ...], ...] = ()
    ignore: int = 255
    transform: Transform | None = None
    max_pixels: int = 89_478_485

    packs_as = "arrays"  # cells may name a part of a file
    suffixes = SUFFIXES

    def __post_init__(self) -> None:
        listed = [number for group in self.numbers for number in group]
        if len(set(listed)) < len(listed):
            raise ValueError(f"LabelMapReader: numbers={self.numbers} names one number twice.")

    @property
    def rereads(self) -> bool:
        """Whether it takes what it gave, too: else classes would be taken for file numbers."""
        return not self.numbers

    @classmethod
    def fitted(cls, tokenizer: Any, augment: bool) -> "LabelMapReader":
        """The reader that gives a tokenizer its size and checks its classes: random boxes to train
        on (`augment`), as those of pictures, else the centre."""
        crop = RandomResizedCrop if augment else ResizeCrop
        return cls(
            tokenizer.classes, tokenizer.numbers, tokenizer.ignore, transform=crop(tokenizer.size)
        )

    def probe(self, source: Source) -> dict[str, Any]:
        """What the header says: height and width (pixels), dtype, format, EPSG code."""
        return header_facts(*open_map(source, WHAT, self.max_pixels))

    def read(self, source: Source, generator: Generator | None = None) -> Int[Tensor, "h w"]:
        file, box = open_map(source, WHAT, self.max_pixels)
        stored = file.read(box, [0])[0]
        unknown = np.isnan(stored) if stored.dtype.kind == "f" else np.zeros(stored.shape, bool)
        whole = np.where(unknown, 0, stored).astype(np.int64)
        if stored.dtype.kind == "f" and (whole != np.where(unknown, 0, stored)).any():
            raise BadSample(
                f"{file.path}: expected whole class numbers, found fractions; was the map "
                "interpolated?"
            )
        if file.nodata is not None:
            unknown |= stored == file.nodata
        whole[unknown] = self.ignore
        labels = self.classed(whole, file.path)
        labels[unknown] = self.ignore  # whatever class that number may name
        labels = torch.from_numpy(labels)
        return nearest(labels, planned(self.transform, box, generator)).contiguous()

    def classed(self, whole: Num[np.ndarray, "h w"], path: str) -> Num[np.ndarray, "h w"]:
        """Class numbers, `ignore` where nothing is known."""
        if self.numbers:
            made = np.full(whole.shape, self.ignore, np.int64)
            for place, group in enumerate(self.numbers):
                made[np.isin(whole, group)] = place
            return made
        if self.classes is None:
            return whole
        wrong = whole[(whole != self.ignore) & ((whole < 0) | (whole >= self.classes))]
        if wrong.size:
            raise BadSample(
                f"{path}: expected classes 0..{self.classes - 1} or {self.ignore}, found "
                f"{sorted(set(wrong.tolist()))[:5]} in {wrong.size} pixels."
            )
        return whole

    def in_file_numbers(self, labels: Num[np.ndarray, "h w"]) -> Num[np.ndarray, "h w"]:
        """Classes as files write them: of a class with several numbers the first."""
        if not self.numbers:
            return labels
        first: Mapping[int, int] = {n: group[0] for n, group in enumerate(self.numbers)}
        unknown = unknown_number(self.numbers, self.ignore)
        return np.vectorize(lambda label: first.get(label, unknown), otypes=[np.int64])(labels)


def unknown_number(numbers: tuple[tuple[int, ...], ...], ignore: int) -> int:
    """What stands for unknown in files: 0 where it is no class, else `ignore`."""
    return 0 if all(0 not in group for group in numbers) else ignore
