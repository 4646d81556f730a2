"""The depth-map reader: one file of distances (or heights) to one `(height, width)` tensor."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
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

WHAT = "a depth map"


@dataclass(frozen=True)
class DepthMapReader:
    """Reads depth of 16-bit PNG, TIFF, GeoTIFF, NPY and arrays as float32 `(height, width)`.

    The result is number * unit, NaN where nothing is known: where the file holds `hole`, its own
    nodata, or NaN. Maps are resized by nearest pixels only, so that no depth is made up between
    near and far. A cell may name a window (`dem.tif#window=0,64,32,32`: top, left, height, width)
    or one of a NPY's maps (`maps.npy#index=7`).

    Args:
        unit: of a file's number: 0.001 for millimetres read as metres.
        hole: the file's number for unknown; None where 0 is a depth (or a height) like others.
        transform: crops and resizes (see `datasets.transforms`), as that of pictures beside it.
        max_pixels: of a map, checked before decoding.
    Raises: BadSample, one sentence, for whatever is wrong with a file.

    >>> DepthMapReader(unit=0.001).read(np.array([[1500, 0]], np.uint16)).tolist()
    [[1.5, nan]]
    """

    unit: float = 1.0
    hole: float | None = 0.0
    transform: Transform | None = None
    max_pixels: int = 89_478_485

    packs_as = "arrays"  # cells may name a part of a file
    suffixes = SUFFIXES

    def __post_init__(self) -> None:
        if not self.unit > 0:
            raise ValueError(f"DepthMapReader: unit={self.unit} must be positive.")

    @property
    def rereads(self) -> bool:
        """Whether it takes what it gave, too: else the unit would be applied twice."""
        return self.unit == 1

    @classmethod
    def fitted(cls, tokenizer: Any, augment: bool) -> "DepthMapReader":
        """The reader that gives a tokenizer its size and unit: random boxes to train on
        (`augment`), as those of pictures, else the centre."""
        crop = RandomResizedCrop if augment else ResizeCrop
        hole = None if tokenizer.hole is None else tokenizer.hole / tokenizer.unit
        return cls(tokenizer.unit, hole, crop(tokenizer.size))

    def probe(self, source: Source) -> dict[str, Any]:
        """What the header says: height and width (pixels), dtype, format, EPSG code."""
        return header_facts(*open_map(source, WHAT, self.max_pixels))

    def read(self, source: Source, generator: Generator | None = None) -> Float[Tensor, "h w"]:
        file, box = open_map(source, WHAT, self.max_pixels)
        stored = file.read(box, [0])[0].astype(np.float64)
        unknown = np.zeros(stored.shape, bool)
        for number in (self.hole, file.nodata):
            if number is not None:
                unknown |= np.isclose(stored, number, rtol=1e-9, atol=0)
        (scale,), (offset,) = file.scale or (1.0,), file.offset or (0.0,)
        depth = np.where(unknown, np.nan, (stored * scale + offset) * self.unit)
        crop = planned(self.transform, box, generator)
        return nearest(torch.from_numpy(depth.astype(np.float32)), crop).contiguous()
