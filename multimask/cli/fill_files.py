"""Answers for whole modalities as files: each kind in the format that the column has already."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from multimask.cli.data import kind_of, reader_of
from multimask.cli.fill_levels import Level, depth_level, volume_level
from multimask.cli.fill_numbers import Cubes, Depths, Labels, Numbers, Pictures
from multimask.datasets.formats.depth_maps import DepthMapReader
from multimask.datasets.formats.geokeys import Geo
from multimask.datasets.formats.images import ImageReader
from multimask.datasets.formats.label_maps import LabelMapReader
from multimask.datasets.formats.nifti import write_nifti
from multimask.datasets.formats.raster_write import RasterFormat, format_of, holds, write_raster
from multimask.datasets.formats.spectral import SpectralReader
from multimask.datasets.formats.volumes import VolumeReader
from multimask.datasets.places import Place, own_place, place_of
from multimask.datasets.table import Table
from multimask.datasets.volumes import Volume, new_volume
from multimask.modalities.depth_maps import DepthMaps
from multimask.modalities.image import ImagePatches
from multimask.modalities.label_maps import LabelMaps
from multimask.modalities.spectral import SpectralPatches
from multimask.modalities.volume import VolumePatches, three
from multimask.modality import Tokenizer
from multimask.tokens import BadSample, Tokens

GROUND = RasterFormat(".tif")


@dataclass(frozen=True)
class Written:
    """Files of one answer, and what is to be known of them."""

    file: Path
    spread: Path
    facts: dict[str, Any]


@runtime_checkable
class Writer(Protocol):
    """Writes the answers for one modality, a row at a time. unit: of the spread's numbers. unknown:
    what stands for it in files of whole numbers."""

    @property
    def unit(self) -> str: ...
    @property
    def unknown(self) -> float: ...
    def write(self, stem: Path, tokens: Tokens, spread: Tensor, row: "Row") -> Written: ...


@dataclass(frozen=True)
class Row:
    """What else a row has, which tells where an answer lies."""

    table: Table
    index: int

    def place(self, like: str) -> tuple[Place, str] | None:
        """Where its maps lie and which of them says so: one on the ground before others."""
        found = []
        for name in self.table.readers:
            source = self.table.source(name, self.index)
            if source is not None and name != like:
                place = place_of(self.table.readers[name], source)
                if place is not None:
                    found.append((place, name))
        return next((one for one in found if one[0].geo is not None), found[0] if found else None)

    def volume(self, like: str) -> tuple[Volume, str] | None:
        """The first other scan, with its grid."""
        for name, reader in self.table.readers.items():
            source = self.table.source(name, self.index)
            if source is not None and name != like and isinstance(reader, VolumeReader):
                return reader.read(source), name
        return None


def writer_for(name: str, tokenizer: Tokenizer, table: Table) -> Writer:
    """Who writes the answers for a modality: by what its reader and tokenizer are."""
    reader = table.readers.get(name) or reader_of(kind_of(tokenizer), tokenizer, augment=False)
    if isinstance(tokenizer, VolumePatches) and isinstance(reader, VolumeReader):
        return VolumeWriter(name, tokenizer, reader, volume_level(name, table))
    like = next((f for f in formats(name, table) if f is not None), None)
    if isinstance(tokenizer, ImagePatches) and isinstance(reader, ImageReader):
        if like is not None and not holds(like, tokenizer.channels):
            like = replace(like, suffix=".tif")
        plain = RasterFormat(".png" if tokenizer.channels in (1, 3) else ".tif", "u1")
        return MapWriter(name, Pictures(tokenizer, reader), like, plain)
    if isinstance(tokenizer, LabelMaps) and isinstance(reader, LabelMapReader):
        return MapWriter(name, Labels(tokenizer, reader), like, RasterFormat(".png", "u1"))
    if isinstance(tokenizer, DepthMaps) and isinstance(reader, DepthMapReader):
        depths = Depths(tokenizer, reader, depth_level(name, tokenizer, table))
        return MapWriter(name, depths, like)
    if isinstance(tokenizer, SpectralPatches) and isinstance(reader, SpectralReader):
        return MapWriter(name, Cubes(tokenizer, reader), like)
    return ArrayWriter(tokenizer)


def formats(name: str, table: Table) -> Iterator[RasterFormat | None]:
    """Those of the modality's files that are there, one by one."""
    for index in range(len(table)):
        source = table.source(name, index) if name in table.readers else None
        if source is not None:
            try:
                yield format_of(source)
            except BadSample:
                continue  # a damaged file says nothing of the others; reading its row lists it


@dataclass(frozen=True)
class MapWriter:
    """On the grid, and where it is a GeoTIFF on the ground, of the row's other pictures and maps;
    where none has a grid, at the model's own size. `like`: the column's files, else `plain`, which
    becomes a GeoTIFF on the ground."""

    name: str
    numbers: Numbers
    like: RasterFormat | None
    plain: RasterFormat = GROUND

    @property
    def unit(self) -> str:
        return self.numbers.unit

    @property
    def unknown(self) -> float:
        return self.numbers.unknown

    def write(self, stem: Path, tokens: Tokens, spread: Tensor, row: Row) -> Written:
        shown = self.numbers.shown(tokens)
        size = (int(shown.shape[1]), int(shown.shape[2]))
        found = row.place(self.name)
        place, of = (own_place(size), None) if found is None else found
        like = self.like or (
            self.plain if place.geo is None else replace(self.plain, suffix=".tif")
        )
        whole = place.put(shown, self.numbers.outside, self.numbers.mixed).numpy()
        typed = like.typed(self.numbers.stored(whole, like), self.numbers.unknown)
        file = stem.with_name(stem.name + like.suffix)
        write_raster(file, typed, like, place.geo)
        spread_like = RasterFormat(".npy" if like.suffix == ".npy" else ".tif")
        spread_file = stem.with_name(f"{stem.name}.spread{spread_like.suffix}")
        pixels = place.put(self.spread_pixels(spread, size), torch.nan, mixed=False).numpy()
        write_raster(spread_file, pixels.astype("f4"), spread_like, place.geo)
        facts = {"grid_of": of, "covered": round(place.covered, 4)} | ground(place.geo)
        return Written(file, spread_file, facts)

    def spread_pixels(self, spread: Tensor, size: tuple[int, int]) -> Float[Tensor, "g h w"]:
        """A token's number at all of its pixels."""
        tall, wide = self.numbers.patch()
        cells = (spread * self.numbers.per_unit).reshape(self.numbers.grid())
        return cells.repeat_interleave(tall, 1).repeat_interleave(wide, 2)[:, : size[0], : size[1]]


def ground(geo: Geo | None) -> dict[str, Any]:
    return {} if geo is None else {"epsg": geo.epsg, "transform": list(geo.transform)}


@dataclass(frozen=True)
class VolumeWriter:
    """NIfTI on the file grid of another scan of the row, with its affine."""

    name: str
    tokenizer: VolumePatches
    reader: VolumeReader
    level: Level | None

    unknown = 0.0

    @property
    def unit(self) -> str:
        return "standardised" if self.level is None else "the files' numbers"

    def write(self, stem: Path, tokens: Tokens, spread: Tensor, row: Row) -> Written:
        voxels = self.tokenizer.untokenize(tokens)[0].float()
        cells = spread.reshape(self.tokenizer.grid)
        for axis, side in enumerate(three(self.tokenizer.patch)):
            cells = cells.repeat_interleave(side, axis)
        level = self.level or Level((1.0,) * len(voxels), (0.0,) * len(voxels), 0)
        found = row.volume(self.name)
        file, spread_file = (
            stem.with_name(f"{stem.name}{middle}.nii.gz") for middle in ("", ".spread")
        )
        scale = float(np.mean(level.scale))
        for path, data, scales, shifts in (
            (file, voxels, level.scale, level.shift),
            (spread_file, cells[None], (scale,), (0.0,)),
        ):
            grid = new_volume(data.numpy()).tensors() if found is None else found[0]
            z, y, x = (min(a, b) for a, b in zip(grid.size, data.shape[1:], strict=True))
            inside = data[:, :z, :y, :x]
            value = replace(grid, data=inside, scale=scales, shift=shifts, discrete=False)
            write_nifti(path, value, on_source=found is not None)
        facts = {"grid_of": None if found is None else found[1], "level_of_files": level.files}
        if found is not None:
            facts["covered"] = round(covered(found[0]), 4)
        return Written(file, spread_file, facts)


def covered(box: Volume) -> float:
    """The share of a scan that its box shows."""
    grids = (box.size, box.affine), (box.source_shape, box.source_affine)
    shown, whole = (
        float(np.prod(size)) * abs(float(np.linalg.det(np.asarray(affine)[:3, :3])))
        for size, affine in grids
    )
    return min(1.0, shown / whole)


@dataclass(frozen=True)
class ArrayWriter:
    """NPY, or NPZ of several arrays, in the tokenizer's raw contract."""

    tokenizer: Tokenizer

    unit = "standardised"
    unknown = 0.0

    def write(self, stem: Path, tokens: Tokens, spread: Tensor, row: Row) -> Written:
        values: Any = self.tokenizer.untokenize(tokens)  # type: ignore[attr-defined]
        spread_file = stem.with_name(f"{stem.name}.spread.npy")
        np.save(spread_file, spread.numpy())
        if isinstance(values, Mapping):
            file = stem.with_name(f"{stem.name}.npz")
            arrays: dict[str, Any] = {key: np.asarray(one[0]) for key, one in values.items()}
            np.savez(file, **arrays)
        else:
            file = stem.with_name(f"{stem.name}.npy")
            np.save(file, np.asarray(values[0]))
        return Written(file, spread_file, {})
