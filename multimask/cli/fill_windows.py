"""Scenes that are larger than a model's size: filled window by window, and put together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num

from multimask.datasets.columns import Column
from multimask.datasets.formats.cubes import Box, placed
from multimask.datasets.formats.depth_maps import DepthMapReader
from multimask.datasets.formats.geotiff import open_tiff_cube
from multimask.datasets.formats.label_maps import LabelMapReader
from multimask.datasets.formats.maps import file_map, open_map
from multimask.datasets.formats.raster_write import TIFFS, format_of, write_raster
from multimask.datasets.formats.spectral import SpectralReader
from multimask.datasets.table import Table
from multimask.datasets.transforms import WindowCrop
from multimask.sizes import pair
from multimask.tokens import BadSample

MANY = 2**62


@dataclass(frozen=True)
class Piece:
    """A window of a row's scene: rows and columns from its upper left corner."""

    row: int
    top: int
    left: int


@dataclass(frozen=True)
class Pieces:
    """A table with a row a window, and of which window each is."""

    table: Table
    of: tuple[Piece, ...]


def cut_up(table: Table, rows: Sequence[int]) -> Pieces | None:
    """These rows' scenes as windows of the model's size, by which bands, and label and depth maps
    that are cut like them, can be read; other rows as they are. The last window of a line overlaps
    the one before. None where no scene is larger than the model's size, or there are no bands."""
    if not any(isinstance(reader, SpectralReader) for reader in table.readers.values()):
        return None
    columns: dict[str, list[Any]] = {name: [] for name in (*table.readers, "id")}
    pieces: list[Piece] = []
    wanted = set(rows)
    for row in range(len(table)):
        boxes = windows(table, row) if row in wanted else [None]
        for box in boxes:
            pieces.append(Piece(row, 0, 0) if box is None else Piece(row, box.top, box.left))
            name = table.columns["id"][row]
            columns["id"].append(name if box is None else f"{name}@{box.top},{box.left}")
            for modality in table.readers:
                columns[modality].append(part_of(table.source(modality, row), box))
    if len(pieces) == len(table):
        return None
    made = {name: Column.of(entries) for name, entries in columns.items()}
    return Pieces(replace(table, columns=made, root=""), tuple(pieces))


def windows(table: Table, row: int) -> list[Box | None]:
    """None, the row as it is, where it cannot or need not be cut."""
    sizes, shown = set[tuple[int, int]](), set[tuple[int, int]]()
    for name, reader in table.readers.items():
        source = table.source(name, row)
        if source is None:
            continue
        try:
            if isinstance(reader, SpectralReader) and isinstance(source, str):
                _, _, box = reader.located(source)
                shown.add(pair(reader.size) if reader.size else (box.height, box.width))
            elif (
                isinstance(reader, LabelMapReader | DepthMapReader)
                and isinstance(reader.transform, WindowCrop)
                and isinstance(source, str)
            ):
                _, box = open_map(source, "a map", reader.max_pixels)
                shown.add(pair(reader.transform.size))
            else:
                return [None]
        except BadSample:
            return [None]  # reading the row lists it
        sizes.add((box.height, box.width))
    if len(sizes) != 1 or len(shown) != 1 or sizes == shown:
        return [None]
    (height, width), (tall, wide) = sizes.pop(), shown.pop()
    return [
        Box(top, left, tall, wide) for top in starts(height, tall) for left in starts(width, wide)
    ]


def starts(whole: int, part: int) -> list[int]:
    """Where windows begin, side by side; the last one ends with the whole.

    >>> starts(10, 4), starts(8, 4)
    ([0, 4, 6], [0, 4])
    """
    return sorted({*range(0, whole - part + 1, part), whole - part})


def part_of(source: Any, box: Box | None) -> Any:
    if source is None or box is None:
        return source
    path, inside, _ = placed(source)
    top, left = (0, 0) if inside is None else (inside.top, inside.left)
    return f"{path}#window={top + box.top},{left + box.left},{box.height},{box.width}"


def put_together(
    pieces: Pieces,
    table: Table,
    files: Mapping[tuple[int, str], tuple[Path, Path]],
    stems: Mapping[str, str],
    unknown: Mapping[str, float],
) -> dict[tuple[int, str], tuple[Path, Path]]:
    """The windows' files as one a scene, by the scene's row and modality; windows are deleted.

    Pixels of windows that could not be filled hold the format's nodata, else NaN, and in whole
    numbers what is `unknown` in the modality's files.
    """
    groups: dict[tuple[int, str], list[int]] = {}
    for number, name in files:
        groups.setdefault((pieces.of[number].row, name), []).append(number)
    made = {}
    for (row, name), numbers in groups.items():
        found = [files[number, name] for number in numbers]
        if len(numbers) == 1 and pieces.table.columns["id"][numbers[0]] == table.columns["id"][row]:
            made[row, name] = found[0]  # was never cut
            continue
        at = [pieces.of[number] for number in numbers]
        stem = stems[table.columns["id"][row]]
        ends = [piece for piece in pieces.of if piece.row == row]
        both = [
            joined([pair_of[which] for pair_of in found], at, ends, stem + middle, unknown[name])
            for which, middle in ((0, ""), (1, ".spread"))
        ]
        made[row, name] = (both[0], both[1])
    return made


def joined(
    files: Sequence[Path], at: Sequence[Piece], every: Sequence[Piece], stem: str, unknown: float
) -> Path:
    """One file of these windows, where they lie in the scene that `every` window of it makes up.
    The windows are deleted."""
    like = format_of(str(files[0]))
    assert like is not None  # written by ours
    parts = [stored(file) for file in files]
    channels, tall, wide = parts[0].shape
    height = max(piece.top for piece in every) + tall
    width = max(piece.left for piece in every) + wide
    nowhere = np.nan if like.nodata is None else like.nodata
    fill = like.typed(np.full((1, 1, 1), nowhere), unknown).item()
    whole = np.full((channels, height, width), fill, parts[0].dtype)
    for part, piece in zip(parts, at, strict=True):
        whole[:, piece.top : piece.top + tall, piece.left : piece.left + wide] = part
    geo = open_tiff_cube(files[0]).geo if like.suffix in TIFFS else None
    out = files[0].with_name(stem + like.suffix)
    write_raster(out, whole, like, None if geo is None else geo.at(-at[0].top, -at[0].left))
    for file in files:
        if file != out:
            file.unlink()
    return out


def stored(file: Path) -> Num[np.ndarray, "c h w"]:
    """A file's own numbers."""
    cube = open_tiff_cube(file) if file.suffix in TIFFS else file_map(file, None, "a map", MANY)
    return cube.read(cube.whole, range(cube.shape[0]))
