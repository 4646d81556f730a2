"""Where what a reader makes of a file lies in it, and putting other numbers there."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Shaped
from torch import Tensor
from torch.nn import functional as F

from multimask.datasets.formats.cubes import Box
from multimask.datasets.formats.depth_maps import DepthMapReader
from multimask.datasets.formats.files import AnyPath
from multimask.datasets.formats.geokeys import Geo
from multimask.datasets.formats.geotiff import open_tiff_cube
from multimask.datasets.formats.images import ImageReader
from multimask.datasets.formats.label_maps import LabelMapReader
from multimask.datasets.formats.maps import open_map, planned
from multimask.datasets.formats.spectral import SpectralReader, cropped
from multimask.datasets.transforms import Crop
from multimask.tokens import BadSample

MapReader = LabelMapReader | DepthMapReader


@dataclass(frozen=True)
class Place:
    """A picture's or map's own size (of the window that a cell names), the part of it that a
    sample shows, and where it lies on the ground, if its file says so."""

    height: int
    width: int
    crop: Crop
    geo: Geo | None = None

    @property
    def covered(self) -> float:
        """The share of it that a sample shows."""
        return self.crop.height * self.crop.width / (self.height * self.width)

    def put(
        self, shown: Shaped[Tensor, "c tall wide"], outside: float, mixed: bool = True
    ) -> Shaped[Tensor, "c h w"]:
        """What a sample shows, at the file's own resolution; `outside` where it shows nothing.

        mixed: numbers may be interpolated; classes may not.
        """
        size = (self.crop.height, self.crop.width)
        placed = shown
        if shown.shape[1:] != size:
            how: dict[str, Any] = {"mode": "nearest-exact"}
            if mixed:
                how = {"mode": "bilinear", "align_corners": False}
            placed = F.interpolate(shown[None].double(), size, **how)[0].to(shown.dtype)
        whole = shown.new_full((len(shown), self.height, self.width), outside)
        rows = slice(self.crop.top, self.crop.top + size[0])
        whole[:, rows, self.crop.left : self.crop.left + size[1]] = placed
        return whole


def place_of(reader: Any, source: Any) -> Place | None:
    """Where a reader's deterministic reading of a source lies; None where it has no rows and
    columns, or the reader is none of ours."""
    if isinstance(reader, ImageReader):
        return picture_place(reader, source)
    if isinstance(reader, LabelMapReader | DepthMapReader):
        file, box = open_map(source, "a map", reader.max_pixels)
        return within(box, planned(reader.transform, box, None), file.geo)
    if isinstance(reader, SpectralReader):
        file, path, box = reader.located(source)
        shown = box if reader.size is None else cropped(path, box, reader.size, None)
        crop = Crop(
            shown.top - box.top,
            shown.left - box.left,
            shown.height,
            shown.width,
            (shown.height, shown.width),
        )
        return within(box, crop, file.geo)
    return None


def within(box: Box, crop: Crop, geo: Geo | None) -> Place:
    return Place(box.height, box.width, crop, None if geo is None else geo.at(box.top, box.left))


def picture_place(reader: ImageReader, source: Any) -> Place:
    facts = reader.probe(source)
    height, width = facts["height"], facts["width"]
    whole = Crop(0, 0, height, width, (height, width))
    crop = whole if reader.transform is None else reader.transform(height, width, None)
    return Place(height, width, crop, ground_of(source) if facts["format"] == "TIFF" else None)


def ground_of(path: AnyPath) -> Geo | None:
    """Where a TIFF lies on the ground; None where it does not say so or is no stack of bands."""
    try:
        return open_tiff_cube(path).geo
    except BadSample:
        return None


def own_place(size: tuple[int, int]) -> Place:
    """Of a sample whose other parts do not tell where it lies."""
    return Place(*size, Crop(0, 0, *size, size))
