"""Pictures that Pillow knows: JPEG (pixels by simplejpeg), PNG, WebP, BMP, GIF, PGM, TIFF ..."""

from io import BytesIO

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from multimask.datasets.formats.files import File, Named, Picture, check_size, decoding
from multimask.datasets.formats.jpeg import decode_jpeg
from multimask.tokens import BadSample

DEEP = ("I", "F")  # Pillow's modes of more than 8 bit begin so: I;16, I;16B, I, F
SCALED_BY_PILLOW = ("PPM", "PNG")  # mode I then holds 0..65535

# EXIF orientation: which axes of (c, h, w) are mirrored; from 5 on height and width swap first
MIRRORED = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}


def open_jpeg(file: File, path: Named, max_pixels: int, strict: bool) -> Picture:
    """A JPEG; grey ones have one channel, all others (CMYK too) are RGB. The file is read whole."""
    data = file.read()
    image = picture_header(BytesIO(data), path, max_pixels)
    turn = _orientation(image)

    def pixels(shrink: int) -> UInt8[np.ndarray, "c h w"]:
        size, grey = (image.height, image.width), image.mode == "L"
        stored = decode_jpeg(data, path, size, grey, shrink, strict)
        return _upright(np.moveaxis(stored, 2, 0), turn)

    height, width = (image.width, image.height) if turn >= 5 else (image.height, image.width)
    return Picture(height, width, image.mode, "JPEG", pixels, shrinks=True)


def open_other(file: File, path: Named, max_pixels: int, channels: int | None) -> Picture:
    """Any other format that Pillow reads; of an animation the first frame.

    Palettes become RGB. Transparency is laid over white, unless as many `channels` as there are
    with it, or None for all, are asked for. Pixels can be read while the file is open.
    """
    image = picture_header(file, path, max_pixels)
    turn = 1 if image.format == "TIFF" else _orientation(image)  # Pillow turns TIFFs by itself

    def pixels(shrink: int) -> Shaped[np.ndarray, "c h w"]:
        with decoding(path, f"a whole {image.format} picture"):
            image.load()
            stored = np.array(_plain(image, channels))
        return _upright(stored[None] if stored.ndim == 2 else np.moveaxis(stored, 2, 0), turn)

    height, width = (image.width, image.height) if turn >= 5 else (image.height, image.width)
    return Picture(height, width, image.mode, image.format or "", pixels)


def picture_header(file: File, path: Named, max_pixels: int) -> Image.Image:
    expected = "a picture (JPEG, PNG, TIFF, WebP, BMP, GIF, PGM ... or a NPY array)"
    with decoding(path, expected):
        try:
            image = Image.open(file)
        except UnidentifiedImageError as error:
            raise BadSample(
                f"{path}: expected {expected}, found content that is none of these, or damaged."
            ) from error
        except Image.DecompressionBombError as error:
            raise BadSample(
                f"{path}: expected at most {max_pixels:,} pixels, found a header that claims more "
                "than Pillow opens (twice PIL.Image.MAX_IMAGE_PIXELS)."
            ) from error
    check_size(path, image.height, image.width, len(image.getbands()), max_pixels)
    return image


def _plain(image: Image.Image, channels: int | None) -> Image.Image | np.ndarray:
    """The picture in mode L, LA, RGB or RGBA, or an array of deeper numbers."""
    if image.mode.startswith(DEEP):
        array = np.asarray(image)
        scaled = image.mode == "I" and image.format in SCALED_BY_PILLOW
        return array.astype(np.uint16 if scaled else array.dtype.newbyteorder("="))
    grey = image.mode in ("1", "L", "LA", "La")
    if not image.has_transparency_data:
        return image.convert("L" if grey else "RGB")
    transparent = "LA" if grey else "RGBA"
    if channels in (None, len(transparent)):
        return image.convert(transparent)
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("L" if grey else "RGB")


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1, upright, where EXIF is missing, broken or says nonsense."""
    exif = Image.Exif()  # not image.getexif(): of a PNG, that decodes the pixels
    try:
        exif.load(image.info.get("exif", b""))
        orientation = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright(
    stored: Shaped[np.ndarray, "c h w"], orientation: int
) -> Shaped[np.ndarray, "c tall wide"]:
    turned = stored.swapaxes(1, 2) if orientation >= 5 else stored
    return np.flip(turned, MIRRORED.get(orientation, ()))
