"""The image reader: one picture file to one tensor, in the raw contract of image tokenizers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Num, Shaped, UInt8
from torch import Generator, Tensor

from multimask.datasets.formats.arrays import Layout, open_array, open_npy
from multimask.datasets.formats.files import Named, Picture, opened
from multimask.datasets.formats.pictures import open_jpeg, open_other
from multimask.datasets.formats.tiff import open_tiff
from multimask.datasets.transforms import Crop, RandomResizedCrop, ResizeCrop, Transform
from multimask.tokens import BadSample

Source = Named | Shaped[np.ndarray, "..."] | Shaped[Tensor, "..."]

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif"),
    *(".pgm", ".ppm", ".pnm", ".pbm", ".jp2", ".avif", ".npy"),
)
JPEG = b"\xff\xd8\xff"
NPY = b"\x93NUMPY"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in JPEG and Pillow


@dataclass(frozen=True)
class ImageReader:
    """Reads a picture as `(channels, height, width)`, uint8 in 0..255 or float32.

    The file's content decides how it is read, not its name; EXIF orientation is applied; colour
    profiles are not. 8-bit files give uint8. 16-bit ones (PNG, PGM, TIFF, NPY) give float32 in
    0..1: stored value / 65535, or / `white`. Floats and other integers stay as they are, as
    float32: then say the tokenizer's mean and std in their unit. (16-bit *colour* PNG is read at
    8 bit: Pillow knows no better.) Grey becomes three equal channels, colour one by its
    luminance, palettes and CMYK become RGB, transparency is laid over white.

    Args:
        channels: of the result; None keeps those of the file, with transparency.
        transform: crops and resizes (see `datasets.transforms`); None keeps the native size.
        dtype: "uint8" or "float32" for all files alike: 0..255 becomes 0..1, or 0..1 is rounded
            to 0..255. "stored" as above.
        white: the stored integer that is full brightness in files deeper than 8 bit: 4095 for
            12-bit data in 16-bit files.
        layout: where three-axis arrays have their channels: "chw", "hwc", or "auto", the shorter
            of first and last axis (the first when equal).
        exact: decode JPEG at full size always. Otherwise at 1/2, 1/4 or 1/8 while the crop keeps
            twice the pixels asked for; its edges then move by up to 1/4 pixel of the result.
        strict: refuse a JPEG whose pixels the decoder had to guess in part.
        max_pixels: of a file (height x width), checked before decoding.
    Raises: BadSample, one sentence, for whatever is wrong with a file.

    >>> reader = ImageReader(channels=1)
    >>> reader.read(np.zeros((3, 8, 6), np.uint8)).shape
    torch.Size([1, 8, 6])
    """

    channels: int | None = 3
    transform: Transform | None = None
    dtype: Literal["stored", "uint8", "float32"] = "stored"
    white: int | float | None = None
    layout: Layout = "auto"
    exact: bool = False
    strict: bool = True
    max_pixels: int = 89_478_485  # a GiB of 24-bit pixels, Pillow's own limit too

    takes_bytes = True  # of a packed file, as `FileBytes`
    rereads = True
    suffixes = SUFFIXES
    """What a folder's files must end in (any case) to be taken for pictures."""

    def __post_init__(self) -> None:
        if self.dtype not in ("stored", "uint8", "float32"):
            raise ValueError(
                f"ImageReader: dtype={self.dtype!r} must be 'stored', 'uint8' or 'float32'."
            )
        if self.channels is not None and self.channels < 1:
            raise ValueError(f"ImageReader: channels={self.channels} must be at least 1, or None.")

    @classmethod
    def fitted(cls, tokenizer: Any, augment: bool) -> "ImageReader":
        """The reader that gives a tokenizer its `size` and `channels`: random crops to train on
        (`augment`), else the centre."""
        crop = RandomResizedCrop if augment else ResizeCrop
        return cls(channels=tokenizer.channels, transform=crop(tokenizer.size))

    def probe(self, source: Source) -> dict[str, Any]:
        """What the header says: width and height as shown (pixels), mode, format.

        Pixels are not decoded, so damage behind the header is not found.
        """
        with self._open(source) as picture:
            return {
                "width": picture.width,
                "height": picture.height,
                "mode": picture.mode,
                "format": picture.format,
            }

    def read(self, source: Source, generator: Generator | None = None) -> Num[Tensor, "c h w"]:
        """One picture, from a path or an array; a random transform draws from the generator."""
        with self._open(source) as picture:
            crop = self._plan(picture, generator)
            shrink = crop.shrink if picture.shrinks and not self.exact else 1
            pixels = self._numbers(picture.pixels(shrink), source)
        cut = self._coloured(crop.cut(pixels, shrink), source)
        return self._typed(cut).contiguous()

    @contextmanager
    def _open(self, source: Source) -> Iterator[Picture]:
        if isinstance(source, np.ndarray | Tensor):
            yield open_array(np.asarray(source), self.layout, self.max_pixels)
            return
        with opened(source, "a picture") as file:
            start = file.read(8)
            file.seek(0)
            picture = None
            if start.startswith(JPEG):
                picture = open_jpeg(file, source, self.max_pixels, self.strict)
            elif start.startswith(NPY):
                picture = open_npy(source, self.layout, self.max_pixels)
            elif start.startswith(TIFF):
                picture = open_tiff(source, self.channels, self.max_pixels)
            yield picture or open_other(file, source, self.max_pixels, self.channels)

    def _plan(self, picture: Picture, generator: Generator | None) -> Crop:
        size = picture.height, picture.width
        if self.transform is None:
            return Crop(0, 0, *size, size=size)
        return self.transform(*size, generator)

    def _numbers(
        self, array: Shaped[np.ndarray, "c h w"], source: Source
    ) -> UInt8[Tensor, "c h w"] | Float[Tensor, "c h w"]:
        """8 bit as uint8, all else as float32."""
        if array.dtype == np.uint8:
            usable = array.flags.writeable and min(array.strides) > 0  # all that torch asks for
            return torch.from_numpy(array if usable else array.copy("K"))
        if array.dtype == np.bool_:
            return torch.from_numpy(array * np.uint8(255))
        if array.dtype.kind not in "uif":
            raise BadSample(f"{_name(source)}: expected numbers, found {array.dtype}.")
        floats = array.astype(np.float32)
        if count := floats.size - int(np.isfinite(floats).sum()):
            raise BadSample(
                f"{_name(source)}: expected finite numbers, found {count} of {floats.size} NaN or "
                "infinite."
            )
        white = self.white or (65535 if array.dtype == np.uint16 else 1)
        return torch.from_numpy(floats / np.float32(white) if array.dtype.kind in "ui" else floats)

    def _coloured(self, pixels: Num[Tensor, "c h w"], source: Source) -> Num[Tensor, "c2 h w"]:
        found, wanted = len(pixels), self.channels
        if wanted is None or found == wanted:
            return pixels
        if (found, wanted) == (1, 3):
            return pixels.expand(3, -1, -1)
        if (found, wanted) == (3, 1):
            grey = torch.einsum("chw,c->hw", pixels.float(), torch.tensor(LUMA))[None]
            return grey if pixels.is_floating_point() else grey.round().to(torch.uint8)
        raise BadSample(
            f"{_name(source)}: expected {wanted} channels, found {found}; "
            f"ImageReader(channels={found}) reads them."
        )

    def _typed(self, pixels: Num[Tensor, "c h w"]) -> Num[Tensor, "c h w"]:
        if self.dtype == "float32" and not pixels.is_floating_point():
            return pixels.float() / 255
        if self.dtype == "uint8" and pixels.is_floating_point():
            return (pixels * 255).round().clamp(0, 255).to(torch.uint8)
        return pixels


def _name(source: Source) -> str:
    return "array" if isinstance(source, np.ndarray | Tensor) else str(source)
