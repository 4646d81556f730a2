"""The points reader: one file (or a cloud in memory) to one tensor of points and features."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Generator, Tensor

from multimask.datasets.formats import cloud_arrays, lidar, meshes, pcd, ply
from multimask.datasets.formats.clouds import Cloud, Header, from_array
from multimask.datasets.formats.files import AnyPath, File, opened
from multimask.datasets.point_transforms import (
    NORMAL,
    Augment,
    Normalise,
    normalised,
    numbers_of,
    surface_points,
)
from multimask.tokens import BadSample

Source = AnyPath | Shaped[np.ndarray, "..."] | Shaped[Tensor, "..."]

SUFFIXES = (
    *(".npy", ".npz", ".txt", ".xyz", ".pts", ".ply", ".off", ".obj", ".pcd", ".las", ".laz"),
    *(".h5", ".hdf5"),
)
TEXT = (".txt", ".xyz", ".pts", ".csv", ".asc")
ITEM = re.compile(r"(.+)#(\d+)")
WHAT = "a point cloud"


@dataclass(frozen=True)
class PointReader:
    """Reads a cloud as `(points, 3 + features)` float32: x, y, z, then features.

    NPY, NPZ, text (TXT, XYZ, PTS), PLY, OFF, OBJ, PCD; with the extra `points` LAS, LAZ, HDF5. The
    file's content decides how it is read, its name only where content cannot (text, OBJ). One of
    several clouds in a file is named by its number: `train0.h5#17`. Colours stored as 8 or 16 bit
    become 0..1, everything else stays as stored. Meshes are sampled evenly over their surface.

    Args:
        num_points: drawn without replacement, anew at each drawing; without a generator always
            the same. None keeps all (and a mesh's own corners).
        features: the names wanted, in the order wanted ("nx", "red", "intensity" ...; "c3" and so
            on in formats that name none), or how many of the file's own, from the first. The
            normals of a sampled mesh are those of its faces.
        surface: sample meshes over their faces; False takes their corners.
        normalise: "sphere" (mean at the origin, radius 1), "centre" (mean at the origin, the
            file's unit) or "none".
        augment: random changes when a generator is given; None for none.
        nonfinite: what to do with points whose coordinates or wanted features are NaN or
            infinite: "error" refuses the cloud, "drop" leaves them out.
        max_points: of a file, checked before anything is allocated.
    Raises: BadSample, one sentence, for whatever is wrong with a file; ImportError for a format
        whose package is not installed.

    >>> PointReader(num_points=4).read(np.random.rand(100, 3)).shape
    torch.Size([4, 3])
    """

    num_points: int | None = 1024
    features: int | tuple[str, ...] = 0
    surface: bool = True
    normalise: Normalise = "sphere"
    augment: Augment | None = None
    nonfinite: Literal["error", "drop"] = "error"
    max_points: int = 50_000_000

    rereads = True
    suffixes = SUFFIXES
    """What a folder's files must end in (any case) to be taken for clouds."""
    array_dims = 2
    """Axes of one cloud as an array: a NPY with three holds many."""

    def __post_init__(self) -> None:
        if self.num_points is not None and self.num_points < 1:
            raise ValueError(f"PointReader: num_points={self.num_points} must be at least 1.")
        if isinstance(self.features, int) and self.features < 0:
            raise ValueError(f"PointReader: features={self.features} must be at least 0.")
        if self.normalise not in ("sphere", "centre", "none"):
            raise ValueError(
                f"PointReader: normalise={self.normalise!r} must be 'sphere', 'centre' or 'none'."
            )
        if self.nonfinite not in ("error", "drop"):
            raise ValueError(
                f"PointReader: nonfinite={self.nonfinite!r} must be 'error' or 'drop'."
            )

    @classmethod
    def fitted(cls, tokenizer: Any, augment: bool = False) -> "PointReader":
        """What a tokenizer of point groups needs: 16 points a group (Point-MAE's), its features."""
        count = max(16 * tokenizer.num_groups, tokenizer.group_size)
        return cls(count, tokenizer.features, augment=Augment() if augment else None)

    def probe(self, source: Source) -> dict[str, Any]:
        """What the header says: format, points, features, faces. OBJ and text, which have no
        header, are counted."""
        if isinstance(source, np.ndarray | Tensor):
            cloud = from_array("array", np.asarray(source))
            return Header("array", len(cloud.xyz), tuple(cloud.features)).report()
        with self._open(source) as (file, path, item, kind):
            if kind == "npy":
                shape, _, _ = cloud_arrays.npy_shape(file, path)
                return cloud_arrays.array_header(shape, "NPY", path, item).report()
            if kind == "npz":
                with cloud_arrays.npz_member(file, path) as (member, _):
                    shape, _, _ = cloud_arrays.npy_shape(member, path, "NPZ")
                return cloud_arrays.array_header(shape, "NPZ", path, item).report()
            if kind == "hdf5":
                return cloud_arrays.hdf5_header(file, path, item).report()
            heads = {
                "ply": ply.header,
                "pcd": pcd.header,
                "las": lidar.header,
                "off": meshes.off_header,
                "obj": meshes.obj_header,
                "text": cloud_arrays.text_header,
            }
            return heads[kind](file, path).report()

    def read(self, source: Source, generator: Generator | None = None) -> Float[Tensor, "n c"]:
        """One cloud, from a path or an array; points and augmentation drawn from the generator."""
        if isinstance(source, np.ndarray | Tensor):
            cloud, path = from_array("array", np.asarray(source)), "array"
        else:
            with self._open(source) as (file, path, item, kind):
                cloud = self._load(file, path, item, kind)
        draw = numbers_of(generator)
        xyz, features, names = self._chosen(cloud, path, draw)
        xyz = normalised(xyz, self.normalise)
        if generator is not None and self.augment is not None:
            xyz, features = self.augment(xyz, features, names, draw)
        self._check_precision(xyz, path)
        return torch.from_numpy(np.concatenate((xyz, features), axis=1).astype(np.float32))

    # --- files ------------------------------------------------------------------------------------

    @contextmanager
    def _open(self, source: AnyPath) -> Iterator[tuple[File, AnyPath, int | None, str]]:
        path, item = os.fspath(source), None
        named = ITEM.fullmatch(path)
        if named and not os.path.exists(path):
            path, item = named[1], int(named[2])
        with opened(path, WHAT) as file:
            start = file.read(512)
            file.seek(0)
            kind = kind_of(start, os.path.splitext(path)[1].lower())
            if kind is None:
                raise BadSample(
                    f"{path}: expected a point cloud ({', '.join(SUFFIXES)}), found a file that "
                    "begins like none of them."
                )
            if item is not None and kind not in ("npy", "npz", "hdf5"):
                raise BadSample(f"{source}: only NPY, NPZ and HDF5 files hold several clouds.")
            yield file, path, item, kind

    def _load(self, file: File, path: AnyPath, item: int | None, kind: str) -> Cloud:
        most = self.max_points
        if kind in ("npy", "npz", "hdf5"):
            load = {
                "npy": cloud_arrays.load_npy,
                "npz": cloud_arrays.load_npz,
                "hdf5": cloud_arrays.load_hdf5,
            }[kind]
            return load(file, path, item, most)
        if kind == "las":
            return lidar.load(file, path, most, self.features)
        loads = {
            "ply": ply.load,
            "pcd": pcd.load,
            "off": meshes.load_off,
            "obj": meshes.load_obj,
            "text": cloud_arrays.load_text,
        }
        return loads[kind](file, path, most)

    # --- points -----------------------------------------------------------------------------------

    def _chosen(
        self, cloud: Cloud, path: AnyPath, draw: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        """Coordinates and wanted features of the points that are drawn."""
        meshed = cloud.faces is not None and len(cloud.faces) > 0
        if self.surface and meshed and self.num_points is not None:
            return self._on_surface(cloud, path, draw)
        names = self._names(cloud, tuple(cloud.features), path)
        features = columns(cloud, names)
        usable = np.isfinite(np.concatenate((cloud.xyz, features), axis=1)).all(axis=1)
        keep = np.flatnonzero(usable)
        self._check_finite(usable.size - len(keep), usable.size, path)
        if self.num_points is not None:
            if len(keep) < self.num_points:
                raise BadSample(
                    f"{path}: has {len(keep):,} points, but num_points={self.num_points:,} were "
                    "asked for; ask for fewer."
                )
            keep = keep[draw.permutation(len(keep))[: self.num_points]]
        elif not len(keep):
            raise BadSample(f"{path}: the file holds no points.")
        return cloud.xyz[keep], features[keep], names

    def _on_surface(
        self, cloud: Cloud, path: AnyPath, draw: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
        have = tuple(cloud.features)
        names = self._names(cloud, have + tuple(n for n in NORMAL if n not in have), path)
        assert cloud.faces is not None
        assert self.num_points is not None
        used = np.unique(cloud.faces)
        broken = ~np.isfinite(cloud.xyz[used]).all(axis=1)
        if broken.any():
            raise BadSample(f"{path}: {int(broken.sum())} corners of faces are NaN or infinite.")
        try:
            chosen, weights, normals = surface_points(cloud.xyz, cloud.faces, self.num_points, draw)
        except ValueError as error:
            raise BadSample(f"{path}: cannot be sampled over its surface: {error}.") from error
        corners = cloud.faces[chosen]
        xyz = np.einsum("nk,nkd->nd", weights, cloud.xyz[corners])
        made = {
            name: (cloud.features[name][corners] * weights).sum(axis=1)
            for name in names
            if name in cloud.features
        }
        of_faces = {name: normals[:, axis] for axis, name in enumerate(NORMAL)}
        features = columns(Cloud(xyz, {**of_faces, **made}), names)
        self._check_finite(int((~np.isfinite(features)).any(axis=1).sum()), len(xyz), path)
        return xyz, features, names

    def _names(self, cloud: Cloud, have: tuple[str, ...], path: AnyPath) -> tuple[str, ...]:
        if isinstance(self.features, int):
            if len(have) < self.features:
                raise BadSample(
                    f"{path}: expected {self.features} features a point, found {len(have)}"
                    f"{': ' + ' '.join(have) if have else ''}."
                )
            return have[: self.features]
        lacking = [name for name in self.features if name not in have]
        if lacking:
            raise BadSample(
                f"{path}: has no {', '.join(lacking)}; its features are {' '.join(have) or 'none'}."
            )
        return tuple(self.features)

    def _check_finite(self, bad: int, count: int, path: AnyPath) -> None:
        if bad and self.nonfinite == "error":
            raise BadSample(
                f"{path}: {bad:,} of {count:,} points are NaN or infinite; nonfinite='drop' would "
                "leave them out."
            )

    def _check_precision(self, xyz: np.ndarray, path: AnyPath) -> None:
        largest, extent = np.abs(xyz).max(), np.ptp(xyz, axis=0).max()
        if (
            largest > np.finfo(np.float32).max
            or np.spacing(np.float32(largest)) * 1000 > extent > 0
        ):
            raise BadSample(
                f"{path}: coordinates up to {largest:.6g} over an extent of {extent:.3g} lose "
                "their digits in single precision; say normalise='centre'."
            )


def columns(cloud: Cloud, names: tuple[str, ...]) -> np.ndarray:
    made = [cloud.features[name] for name in names]
    return np.stack(made, axis=1) if made else np.zeros((len(cloud.xyz), 0))


def kind_of(start: bytes, suffix: str) -> str | None:
    """By content; by name where content does not tell."""
    magics = {
        "npy": cloud_arrays.NPY,
        "npz": cloud_arrays.ZIP,
        "hdf5": cloud_arrays.HDF5,
        "las": lidar.MAGIC,
        "ply": ply.MAGIC,
    }
    for kind, magic in magics.items():
        if start.startswith(magic):
            return kind
    if pcd.is_pcd(start):
        return "pcd"
    if meshes.is_off(start):
        return "off"
    if suffix == ".obj":
        return "obj"
    return "text" if suffix in TEXT else None
