"""Made clips: a virtual camera over real and made textures, encoded to MP4 and read like any file.

The label is how the camera moves. Picture and starting place are drawn at random, so that no single
frame tells the label; half of the clips have a second layer that moves its own way, and all have
noise. Train and test parts have different pictures.
"""

import functools
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor
from torch.nn import functional as F

from multimask.datasets.formats.video_write import write_clip
from multimask.datasets.formats.videos import VideoReader
from multimask.datasets.frame_sampling import Strided
from multimask.datasets.table import Table
from multimask.tokens import sample_generator

MOTIONS = {  # of the camera per frame: right, down (pixels), zoom (log), turn (radians)
    "left": (-1.0, 0.0, 0.0, 0.0),
    "right": (1.0, 0.0, 0.0, 0.0),
    "up": (0.0, -1.0, 0.0, 0.0),
    "down": (0.0, 1.0, 0.0, 0.0),
    "zoom in": (0.0, 0.0, 1.0, 0.0),
    "zoom out": (0.0, 0.0, -1.0, 0.0),
    "turn left": (0.0, 0.0, 0.0, -1.0),
    "turn right": (0.0, 0.0, 0.0, 1.0),
}
SPEED = (1.6, 1.6, 0.016, 0.02)  # of the medium clip; drawn from half to one and a half of it
CANVAS = 320  # side of a texture, in pixels
TEXTURES = 6  # made ones a part, beside a half of each photograph
RATE = 12  # frames a second
VERSION = 1  # of what is drawn: part of the cache's name


def moving_cameras(
    seed: int = 0,
    train: int = 400,
    test: int = 200,
    frames: int = 16,
    size: int = 96,
    folder: str | Path | None = None,
) -> Table:
    """Clips as files: `video`, `label` (one of eight motions), `texture`, `split`.

    The files are made once, about ten clips a second on one core, and kept below the user's cache
    folder (`XDG_CACHE_HOME`) or in `folder`. The reader takes every frame.
    """
    rows = [("train", number) for number in range(train)]
    rows += [("test", number) for number in range(test)]
    plans = [clip_plan(seed, split, number) for split, number in rows]
    textures = functools.cache(lambda split: textures_of(split, seed))

    def film(row: int) -> UInt8[np.ndarray, "t h w 3"]:
        (split, number), (motion, texture) = rows[row], plans[row]
        generator = sample_generator(seed, 0, f"{split}/{number}", "moving camera")
        return filmed(textures(split), texture, motion, frames, size, generator)

    told = (VERSION, seed, train, test, frames, size)
    columns = {
        "label": [motion for motion, _ in plans],
        "texture": [
            f"{split}/{texture}" for (split, _), (_, texture) in zip(rows, plans, strict=True)
        ],
    }
    return clip_table(folder or cached("moving-cameras", told), rows, columns, film, frames, size)


def clip_table(
    root: str | Path,
    rows: Sequence[tuple[str, int]],
    columns: Mapping[str, Sequence[str]],
    film: Callable[[int], UInt8[np.ndarray, "t h w 3"]],
    frames: int,
    size: int,
) -> Table:
    """A table of clips as files below `root`, made by `film(row)` unless all are there already.

    rows: split and number of each clip, after which its file is named. columns: what else is known.
    """
    names = [f"{split}/{number:05d}.mp4" for split, number in rows]
    if not all((Path(root) / name).is_file() for name in names):
        for row, name in enumerate(names):
            write_whole(Path(root) / name, film(row))
    told = {
        "id": [name.removesuffix(".mp4") for name in names],
        "video": names,
        **columns,
        "split": [split for split, _ in rows],
    }
    known = {  # what a probe would say: all are written alike, and it need not be asked
        "codec": "h264",
        "pixel_format": "yuv420p",
        "width": size,
        "height": size,
        "rotation": 0,
        "fps": float(RATE),
        "frames": frames,
        "seconds": (frames - 1) / RATE,
        "access": "seek",
        "damage": None,
    }
    told |= {f"video.{name}": [value] * len(rows) for name, value in known.items()}
    return Table.of(told, {"video": VideoReader(Strided(frames, 1))}, Path(root))


def cached(name: str, told: tuple[object, ...]) -> Path:
    """The folder below the user's cache folder that stands for what was asked for."""
    return cache_folder() / f"{name}-{hashlib.sha256(repr(told).encode()).hexdigest()[:16]}"


def clip_plan(seed: int, split: str, number: int) -> tuple[str, int]:
    """Motion (in turn, so that they are balanced) and texture of a clip."""
    generator = sample_generator(seed, 0, f"{split}/{number}", "plan")
    motion = list(MOTIONS)[number % len(MOTIONS)]
    return motion, int(torch.randint(TEXTURES + 2, (1,), generator=generator))


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "multimask"


def write_whole(path: Path, clip: UInt8[np.ndarray, "t h w 3"]) -> None:
    """Under a temporary name first: a run that is killed leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = tempfile.mkdtemp(dir=path.parent, prefix=".")
    try:
        write_clip(Path(temporary) / path.name, clip, RATE, options={"crf": "16", "g": "8"})
        os.replace(Path(temporary) / path.name, path)
    finally:
        shutil.rmtree(temporary)


# --- the camera -----------------------------------------------------------------------------------


def filmed(
    textures: list[Float[Tensor, "3 _ _"]],
    texture: int,
    motion: str,
    frames: int,
    size: int,
    generator: Generator,
) -> UInt8[np.ndarray, "t h w 3"]:
    """A clip of one texture; the middle frame's place, zoom and turn are random, so is its time."""
    draw = torch.rand(16, generator=generator).tolist()
    path = camera_path(motion, frames, draw[:7])
    clip = seen(textures[texture], path, size)
    if draw[7] < 0.5:  # a patch of another texture that goes its own way, whatever the label
        other = textures[int(draw[8] * len(textures))]
        own = list(MOTIONS)[int(draw[9] * len(MOTIONS))]
        layer = seen(other, camera_path(own, frames, draw[10:] + draw[:1]), size)
        inside = blob(own, frames, size, draw[10], draw[11])
        clip = clip * (1 - inside) + layer * inside
    light = 0.8 + 0.4 * draw[15]
    noise = torch.randn(clip.shape, generator=generator) * 0.02
    pixels = ((clip * light + noise).clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).numpy()


def camera_path(motion: str, frames: int, draw: list[float]) -> Float[Tensor, "t 4"]:
    """(right, down, log zoom, turn) of each frame, on average centred on a random place."""
    pace = 0.5 + draw[0]
    step = torch.tensor(MOTIONS[motion]) * torch.tensor(SPEED) * pace
    time = torch.arange(frames) - (frames - 1) / 2
    middle = torch.tensor(
        [
            (draw[1] - 0.5) * CANVAS / 3,
            (draw[2] - 0.5) * CANVAS / 3,
            (draw[3] - 0.5) * 0.6,
            (draw[4] - 0.5) * math.tau,
        ]
    )
    path = middle + time[:, None] * step
    # right and down are the viewer's, so the path is turned with the camera
    turn = middle[3]
    right, down = time * step[0], time * step[1]
    path[:, 0] = middle[0] + right * turn.cos() - down * turn.sin()
    path[:, 1] = middle[1] + right * turn.sin() + down * turn.cos()
    return path


def seen(
    texture: Float[Tensor, "3 h w"], path: Float[Tensor, "t 4"], size: int
) -> Float[Tensor, "t 3 size size"]:
    """What the camera sees; the texture is mirrored at its borders."""
    axis = torch.arange(size) - (size - 1) / 2
    down, right = torch.meshgrid(axis, axis, indexing="ij")
    scale = torch.exp(-path[:, 2])[:, None, None]
    cos, sin = path[:, 3].cos()[:, None, None], path[:, 3].sin()[:, None, None]
    x = path[:, 0, None, None] + scale * (right * cos - down * sin)
    y = path[:, 1, None, None] + scale * (right * sin + down * cos)
    half = torch.tensor([texture.shape[2], texture.shape[1]]) / 2
    grid = torch.stack((x, y), dim=-1) / half
    many = texture[None].expand(len(path), -1, -1, -1)
    return F.grid_sample(many, grid, padding_mode="reflection", align_corners=False)


def blob(motion: str, frames: int, size: int, across: float, down: float) -> Tensor:
    """A soft disc of a quarter of the picture's side, `(t, 1, size, size)` in 0..1."""
    right, below, _, _ = MOTIONS[motion]
    time = torch.arange(frames) - (frames - 1) / 2
    x0 = (0.2 + 0.6 * across) * size + right * time * 1.5
    y0 = (0.2 + 0.6 * down) * size + below * time * 1.5
    axis = torch.arange(size)
    distance = torch.hypot(
        axis[None, None, :] - x0[:, None, None], axis[None, :, None] - y0[:, None, None]
    )
    return torch.sigmoid((0.22 * size - distance) / 1.5)[:, None]


# --- what it looks at -----------------------------------------------------------------------------


def textures_of(split: str, seed: int) -> list[Float[Tensor, "3 h w"]]:
    """Halves of scikit-learn's two photographs (CC BY; left for training, right for testing) and
    made textures."""
    from sklearn.datasets import load_sample_images  # slow to import

    found = []
    for picture in load_sample_images().images:
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255
        middle = pixels.shape[2] // 2
        found.append(pixels[..., :middle] if split == "train" else pixels[..., middle:])
    makers = (clouds, cells, bricks)
    for number in range(TEXTURES):
        generator = sample_generator(seed, 0, f"{split}/{number}", "texture")
        found.append(makers[number % len(makers)](generator))
    return found


def clouds(generator: Generator) -> Float[Tensor, "3 h w"]:
    """Noise with a falling spectrum, coloured between two colours: ground, grass, sky."""
    power = 0.9 + 0.7 * torch.rand(1, generator=generator).item()
    frequency = torch.hypot(
        torch.fft.fftfreq(CANVAS)[:, None], torch.fft.rfftfreq(CANVAS)[None]
    ).clamp(min=1 / CANVAS)
    noise = torch.randn(2, CANVAS, CANVAS, generator=generator)
    shaped = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency**power, s=(CANVAS, CANVAS))
    level = torch.sigmoid(shaped / shaped.std(dim=(1, 2), keepdim=True) * 1.3)
    colours = torch.rand(3, 3, 1, 1, generator=generator)
    far = (colours[0] + 0.35 + 0.3 * colours[1]) % 1  # another colour, never nearly the same
    mixed = colours[0] + (far - colours[0]) * level[:1]
    return (mixed + 0.4 * (colours[2] - 0.5) * level[1:]).clamp(0, 1)


def cells(generator: Generator) -> Float[Tensor, "3 h w"]:
    """Cells around random points, each of its own colour, with darker borders: gravel."""
    count = int(torch.randint(60, 220, (1,), generator=generator))
    points = torch.rand(count, 2, generator=generator) * CANVAS
    colours = 0.25 + 0.65 * torch.rand(count, 3, generator=generator)
    axis = torch.arange(CANVAS).float()
    places = torch.cartesian_prod(axis, axis)
    near, which = torch.cdist(places, points).topk(2, dim=1, largest=False)
    shade = ((near[:, 1] - near[:, 0]) / 5).clamp(0.25, 1)
    pixels = colours[which[:, 0]] * shade[:, None]
    return pixels.view(CANVAS, CANVAS, 3).permute(2, 0, 1)


def bricks(generator: Generator) -> Float[Tensor, "3 h w"]:
    """Rows of bricks of varying colour with mortar between, a little stained."""
    draw = torch.rand(5, generator=generator).tolist()
    tall, wide = 10 + int(14 * draw[0]), 24 + int(30 * draw[1])
    y, x = torch.meshgrid(torch.arange(CANVAS), torch.arange(CANVAS), indexing="ij")
    row = y // tall
    shifted = x + (row % 2) * (wide // 2)
    column = shifted // wide
    base = torch.tensor([0.35 + 0.4 * draw[2], 0.2 + 0.4 * draw[3], 0.15 + 0.4 * draw[4]])
    shades = 0.6 + 0.8 * torch.rand(int(row.max()) + 1, int(column.max()) + 1, generator=generator)
    pixels = base[:, None, None] * shades[row, column]
    mortar = (y % tall < 2) | (shifted % wide < 2)
    pixels = torch.where(mortar, torch.tensor(0.75), pixels)
    return (pixels * (0.8 + 0.4 * clouds(generator)[:1])).clamp(0, 1)
