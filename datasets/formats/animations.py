"""Clips that are pictures: animated GIF, WebP and PNG files, and folders with a file a frame."""

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, UnidentifiedImageError

from multimask.datasets.formats.files import AnyPath, decoding, opened
from multimask.tokens import BadSample

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
DELAY = 100  # milliseconds that viewers show a frame for which a file says none, or zero

Clip = tuple[UInt8[np.ndarray, "m h w 3"], np.ndarray | None]


def animation_facts(path: AnyPath, max_pixels: int) -> dict[str, Any]:
    """What a table keeps of an animated picture: codec, width, height, frames, fps, seconds."""
    times, (height, width), codec = _timeline(path, max_pixels)
    length = float(times[-1] - times[0])
    return {
        "codec": codec,
        "width": width,
        "height": height,
        "fps": (len(times) - 1) / length if length else 0.0,
        "frames": len(times),
        "seconds": length,
    }


def animation_frames(
    path: AnyPath, wanted: Sequence[int] | Int[np.ndarray, " m"], max_pixels: int
) -> Clip:
    """These frames over white, and when each is shown. BadSample names what cannot be read."""
    times, _, _ = _timeline(path, max_pixels)
    _check_numbers(path, wanted, len(times))
    found = {}
    with opened(path, "an animated picture") as file, decoding(path, "a whole animated picture"):
        picture = Image.open(file)
        for number in sorted({int(n) for n in wanted}):
            picture.seek(number)
            found[number] = _rgb(picture)
    return np.stack([found[int(n)] for n in wanted]), times[np.asarray(wanted, dtype=np.int64)]


def _timeline(path: AnyPath, max_pixels: int) -> tuple[np.ndarray, tuple[int, int], str]:
    """When each frame is shown (seconds), the size, the format."""
    with opened(path, "an animated picture") as file:
        try:
            picture = Image.open(file)
        except UnidentifiedImageError as error:
            raise BadSample(
                f"{path}: expected an animated picture, found a file that is none."
            ) from error
        except Image.DecompressionBombError as error:
            raise BadSample(
                f"{path}: expected an animated picture, found a header of too many pixels."
            ) from error
        except Exception as error:
            raise BadSample(
                f"{path}: expected an animated picture, found a header that makes no sense."
            ) from error
        _check_pixels(path, picture.size, max_pixels)
        with decoding(path, "a whole animated picture"):
            delays = []
            for number in range(getattr(picture, "n_frames", 1)):
                picture.seek(number)
                delays.append(picture.info.get("duration", 0) or DELAY)
            picture.load()
    times = np.concatenate(([0.0], np.cumsum(delays[:-1]))) / 1000
    return times, (picture.height, picture.width), (picture.format or "picture").lower()


def folder_facts(path: AnyPath, rate: float | None, max_pixels: int) -> dict[str, Any]:
    """What a table keeps of a folder of frames."""
    names = frame_names(path)
    with opened(names[0], "a picture") as file, decoding(names[0], "a picture"):
        picture = Image.open(file)
    _check_pixels(names[0], picture.size, max_pixels)
    facts: dict[str, Any] = {
        "codec": "pictures",
        "width": picture.width,
        "height": picture.height,
        "frames": len(names),
    }
    return facts | ({"fps": rate, "seconds": (len(names) - 1) / rate} if rate else {})


def folder_frames(
    path: AnyPath,
    wanted: Sequence[int] | Int[np.ndarray, " m"],
    rate: float | None,
    max_pixels: int,
) -> Clip:
    """These files as frames; their seconds where a rate is known."""
    names = frame_names(path)
    _check_numbers(path, wanted, len(names))
    found: dict[int, np.ndarray] = {}
    for number in sorted({int(n) for n in wanted}):
        name = names[number]
        with opened(name, "a picture") as file, decoding(name, "a whole picture"):
            picture = Image.open(file)
            _check_pixels(name, picture.size, max_pixels)
            found[number] = _rgb(picture)
    frames = [found[int(n)] for n in wanted]
    if len({frame.shape for frame in frames}) != 1:
        sizes = sorted({(frame.shape[1], frame.shape[0]) for frame in frames})
        raise BadSample(f"{path}: expected frames of one size, found {sizes[:3]} (width, height).")
    seconds = np.asarray(wanted, dtype=np.float64) / rate if rate else None
    return np.stack(frames), seconds


def frame_names(folder: AnyPath) -> list[str]:
    """Paths of a folder's pictures in the order of their numbers: 2.jpg before 10.jpg."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_file()]
    except OSError as error:
        raise BadSample(
            f"{folder}: expected a folder of frames, found one that cannot be listed "
            f"({error.strerror})."
        ) from error
    chosen = [n for n in names if n.lower().endswith(PICTURES) and not n.startswith(".")]
    if not chosen:
        raise BadSample(
            f"{folder}: expected a video file or a folder of frames ({', '.join(PICTURES)}), "
            f"found a folder of {len(names)} other files."
        )
    return [os.path.join(folder, name) for name in sorted(chosen, key=_by_number)]


def _by_number(name: str) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", name)
    return [(1, int(part)) if part.isdigit() else (0, part) for part in parts]


def _rgb(picture: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        over = picture.convert("RGBA")
        white = Image.new("RGBA", over.size, "white")
        return np.array(Image.alpha_composite(white, over).convert("RGB"))
    return np.array(picture.convert("RGB"))


def _check_numbers(
    path: AnyPath, wanted: Sequence[int] | Int[np.ndarray, " m"], count: int
) -> None:
    last = max(int(n) for n in wanted)
    if last >= count or min(int(n) for n in wanted) < 0:
        raise BadSample(f"{path}: expected frames up to {last}, found {count}.")


def _check_pixels(path: AnyPath, size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise BadSample(
            f"{path}: expected frames of at most {max_pixels:,} pixels, found {size[1]:,} x "
            f"{size[0]:,} in the header; raise max_pixels if that is true."
        )
