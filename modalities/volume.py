"""The volume kind: MRI and CT, any number of channels, cut into 3-D patches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Num, UInt8
from numpy import ndarray
from torch import Tensor
from torch.nn import functional as F

from multimask.modalities.volume_slices import orthogonal_slices
from multimask.tokens import BadSample, Part, Tokens

Partial = Literal["drop", "repeat"]
Size3 = tuple[int, int, int]


@runtime_checkable
class HasGeometry(Protocol):
    """What the volume reader gives: voxels, and voxel index (x, y, z, 1) to mm."""

    @property
    def data(self) -> Any: ...
    @property
    def affine(self) -> Any: ...


@dataclass(frozen=True)
class VolumePatches:
    """Cut volumes into non-overlapping patches, which need not be cubes.

    Raw contract: a record with `data (channels, z, y, x)`, float or integer, and `affine (4, 4)`
    from voxel index (x, y, z, 1) to millimetres (R+ A+ S+, as in NIfTI), as `VolumeReader` gives
    it; or a bare array, then 1 mm and axes R, A, S are taken. A batch is a mapping of `data
    (r, channels, z, y, x)`, `affine (r, 4, 4)` and, where any volume was smaller than `size`,
    `extent (r, 3)`, the voxels (z, y, x) that are not padding.

    Values are `(voxel - mean) / std`, laid out (z, y, x, channel), channels innermost. Coords are
    millimetres (R, A, S) of a patch's centre. A volume smaller than `size` is padded behind its
    last slice, row or column, and tokens that hold padding do not exist: they are never attended
    to, never answered for. What becomes of a patch that is only *partly* inside the volume:

    - `partial="drop"`: it does not exist. No token holds a made-up number; up to `patch - 1` voxels
      at the far border are not seen (`untokenize` gives zeros there).
    - `partial="repeat"`: it exists, its voxels beyond the border repeat the last one inside.

    Args:
        size: voxels (z, y, x) that the model is built for, the largest volume it takes.
        patch: voxels (z, y, x) of a patch; `size` is a multiple of it.
        mean, std: of the voxels' numbers; one number or one a channel. The default leaves the
            numbers as they are, for readers that z-score or window them.
        spacing: voxel size in mm (z, y, x) that the weights are made for: volumes that differ by
            more than 1 % are refused. None takes any.
        intensity: what readers do to numbers first, kept with the weights so that other files are
            read alike (`VolumeReader.fitted`): "zscore" over non-zero voxels; (low, high), a CT
            window brought to 0..1; "given", nothing.
    Raises: ValueError for sizes that do not fit; BadSample for wrong channels, size, spacing, NaN.

    >>> patches = VolumePatches(size=(4, 8, 8), patch=(2, 4, 4))
    >>> tokens = patches(Part(patches.collate([torch.rand(1, 4, 8, 8)]), torch.arange(1)))
    >>> tokens.values.shape, tokens.grid, tokens.coords[0, 0].tolist()
    (torch.Size([1, 8, 32]), (2, 2, 2), [1.5, 1.5, 0.5])
    """

    size: int | tuple[int, int, int] = 96
    patch: int | tuple[int, int, int] = 16
    channels: int = 1
    mean: float | int | tuple[float | int, ...] = 0.0
    std: float | int | tuple[float | int, ...] = 1.0
    spacing: float | int | tuple[float | int, float | int, float | int] | None = None
    partial: Partial = "drop"
    intensity: str | tuple[float | int, float | int] = "zscore"

    coord_dim = 3
    """Places are millimetres (R, A, S)."""

    def __post_init__(self) -> None:
        size, patch = three(self.size), three(self.patch)
        if min(*size, *patch, self.channels) < 1:
            raise ValueError(
                f"VolumePatches: size={self.size}, patch={self.patch} and "
                f"channels={self.channels} must be at least 1."
            )
        if any(n % side for n, side in zip(size, patch, strict=True)):
            raise ValueError(
                f"VolumePatches: size={size} voxels (z, y, x) must be a multiple of "
                f"patch={patch} along every axis."
            )
        if self.partial not in ("drop", "repeat"):
            raise ValueError(f"VolumePatches: partial={self.partial!r} must be 'drop' or 'repeat'.")
        words = isinstance(self.intensity, str)
        if self.intensity not in ("zscore", "given") if words else len(self.intensity) != 2:
            raise ValueError(
                f"VolumePatches: intensity={self.intensity!r} must be 'zscore', 'given' or a CT "
                "window (low, high) in Hounsfield units."
            )
        for name in ("mean", "std"):
            value = getattr(self, name)
            if not isinstance(value, int | float) and len(value) != self.channels:
                raise ValueError(
                    f"VolumePatches: {name}={value} must be one number or {self.channels}, "
                    "one a channel."
                )
        if (self.std if isinstance(self.std, int | float) else min(self.std)) <= 0:
            raise ValueError(f"VolumePatches: std={self.std} must be positive.")

    @property
    def box(self) -> Size3:
        """Voxels (z, y, x) of one patch."""
        return three(self.patch)

    @property
    def token_dim(self) -> int:
        z, y, x = three(self.patch)
        return z * y * x * self.channels

    @property
    def grid(self) -> Size3:
        z, y, x = (n // p for n, p in zip(three(self.size), three(self.patch), strict=True))
        return z, y, x

    @property
    def num_tokens(self) -> int:
        z, y, x = self.grid
        return z * y * x

    # --- samples to a batch ---------------------------------------------------------------------

    def collate(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """Check each volume against the contract, pad it to `size`, put them side by side."""
        volumes = [self.checked(item) for item in items]
        size = three(self.size)
        extents = [data.shape[1:] for data, _ in volumes]
        batch = {
            "data": torch.stack([self.padded(data) for data, _ in volumes]),
            "affine": torch.stack([affine for _, affine in volumes]),
        }
        if any(tuple(extent) != size for extent in extents):
            batch["extent"] = torch.tensor(extents)
        return batch

    def blank(self, count: int) -> dict[str, Tensor]:
        """Volumes of nothing, at the tokenizer's own size; voxels of 1 mm unless it says more."""
        given = self.spacing or 1.0
        z, y, x = (given,) * 3 if isinstance(given, int | float) else given
        affine = torch.diag(torch.tensor([x, y, z, 1.0], dtype=torch.float64))
        data = torch.zeros(count, self.channels, *three(self.size))
        return {"data": data, "affine": affine.expand(count, 4, 4)}

    def checked(self, item: Any) -> tuple[Num[Tensor, "c z y x"], Float[Tensor, "4 4"]]:
        """Voxels and affine of a sample. Raises BadSample where it breaks the contract."""
        placed = isinstance(item, HasGeometry) and not isinstance(item, Tensor | ndarray)
        data = torch.as_tensor(item.data if placed else item)
        affine = torch.as_tensor(item.affine) if placed else torch.eye(4)
        affine = affine.to(torch.float64)
        if data.ndim != 4 or data.shape[0] != self.channels:
            raise BadSample(
                f"VolumePatches: expected voxels of shape ({self.channels}, z, y, x), found "
                f"{tuple(data.shape)}."
            )
        size = three(self.size)
        if any(n > most for n, most in zip(data.shape[1:], size, strict=True)):
            raise BadSample(
                f"VolumePatches: expected at most {size} voxels (z, y, x), found "
                f"{tuple(data.shape[1:])}; crop when reading, use a larger size, or go over it "
                "window by window."
            )
        if data.is_floating_point() and not data.isfinite().all():
            count = int((~data.isfinite()).sum())
            raise BadSample(f"VolumePatches: {count} voxels are NaN or infinite.")
        if affine.shape != (4, 4) or not affine.isfinite().all():
            raise BadSample("VolumePatches: expected a finite affine of shape (4, 4).")
        self.check_spacing(affine)
        return data, affine

    def check_spacing(self, affine: Float[Tensor, "4 4"]) -> None:
        if self.spacing is None:
            return
        given = self.spacing
        wanted = (given,) * 3 if isinstance(given, int | float) else given
        found = affine[:3, :3].norm(dim=0).flip(0).tolist()
        if any(abs(mm / want - 1) > 0.01 for mm, want in zip(found, wanted, strict=True)):
            raise BadSample(
                f"VolumePatches: expected voxels of {tuple(wanted)} mm (z, y, x), found "
                f"{tuple(round(mm, 4) for mm in found)}; resample when reading."
            )

    def padded(self, data: Num[Tensor, "c z y x"]) -> Num[Tensor, "c tall deep wide"]:
        size = three(self.size)
        missing = [most - n for n, most in zip(data.shape[1:], size, strict=True)]
        if not any(missing):
            return data
        if self.partial == "repeat":
            for axis, (n, most) in enumerate(zip(data.shape[1:], size, strict=True), start=1):
                inside = torch.arange(most).clamp(max=n - 1)
                data = data.index_select(axis, inside)
            return data
        z, y, x = missing
        return F.pad(data, (0, x, 0, y, 0, z))

    # --- a batch to tokens and back -------------------------------------------------------------

    def valid(self, part: Part) -> Bool[Tensor, "r n"] | None:
        """Which tokens exist; None when no volume was padded."""
        extent = part.data.get("extent") if isinstance(part.data, Mapping) else None
        return None if extent is None else self.inside(extent)

    def inside(self, extent: Int[Tensor, "r 3"]) -> Bool[Tensor, "r n"]:
        device = extent.device
        patch = torch.tensor(three(self.patch), device=device)
        whole = (extent + patch - 1) // patch if self.partial == "repeat" else extent // patch
        z, y, x = (
            torch.arange(n, device=device) < whole[:, axis, None]
            for axis, n in enumerate(self.grid)
        )
        lattice = z[:, :, None, None] & y[:, None, :, None] & x[:, None, None, :]
        return lattice.flatten(1)

    def __call__(self, part: Part) -> Tokens:
        batch = part.data if isinstance(part.data, Mapping) else {"data": part.data}
        data = batch["data"]
        if data.shape[1:] != (self.channels, *three(self.size)):
            raise BadSample(
                f"VolumePatches: expected a batch (samples, {self.channels}, "
                f"{', '.join(map(str, three(self.size)))}), found {tuple(data.shape)}; `collate` "
                "makes one."
            )
        tall, deep, wide = three(self.patch)
        values = rearrange(
            self.standardised(data),
            "r c (z tall) (y deep) (x wide) -> r (z y x) (tall deep wide c)",
            tall=tall,
            deep=deep,
            wide=wide,
        )
        valid = self.valid(part)
        if valid is not None:
            values = torch.where(valid[..., None], values, 0.0)
        coords = self.centres(batch.get("affine"), data.device)
        return Tokens(values, coords, part.rows, valid, self.grid)

    def centres(
        self, affine: Float[Tensor, "r 4 4"] | None, device: torch.device
    ) -> Float[Tensor, "r_or_1 n 3"]:
        """Millimetres (R, A, S) of the patches' centres."""
        sides = [
            torch.arange(n, device=device, dtype=torch.float64) * p + (p - 1) / 2
            for n, p in zip(self.grid, three(self.patch), strict=True)
        ]
        z, y, x = torch.meshgrid(*sides, indexing="ij")
        index = torch.stack((x, y, z), dim=-1).flatten(0, 2)
        if affine is None:
            return index[None].float()
        turned = torch.einsum("rij,nj->rni", affine[:, :3, :3], index)
        return (turned + affine[:, None, :3, 3]).float()

    def standardised(self, data: Num[Tensor, "r c z y x"]) -> Float[Tensor, "r c z y x"]:
        data = data if data.is_floating_point() else data.float()
        if self.mean == 0 and self.std == 1:
            return data
        mean, std = self.statistics(data)
        return (data - mean) / std

    def statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (
            torch.tensor(x, dtype=like.dtype, device=like.device).reshape(-1, 1, 1, 1)
            for x in (self.mean, self.std)
        )
        return mean, std

    def untokenize(self, tokens: Tokens) -> Float[Tensor, "r c z y x"]:
        """Voxels in the numbers that came in; zeros where no token exists."""
        values = tokens.values
        if tokens.grid != self.grid:
            raise ValueError(f"VolumePatches: expected the lattice {self.grid}, not {tokens.grid}.")
        tall, deep, wide = three(self.patch)
        z, y, x = self.grid
        data = self.lattice_to_voxels(values)
        mean, std = self.statistics(data)
        data = data * std + mean
        if tokens.valid is None:
            return data
        alive = tokens.valid.reshape(-1, 1, z, y, x)
        for axis, side in enumerate((tall, deep, wide), start=2):
            alive = alive.repeat_interleave(side, axis)
        return torch.where(alive, data, 0.0)

    def lattice_to_voxels(self, values: Tensor) -> Tensor:
        tall, deep, wide = three(self.patch)
        z, y, x = self.grid
        return rearrange(
            values,
            "r (z y x) (tall deep wide c) -> r c (z tall) (y deep) (x wide)",
            z=z,
            y=y,
            x=x,
            tall=tall,
            deep=deep,
            wide=wide,
        )

    def filled(self, tokens: Tokens, like: Mapping[str, Tensor]) -> list[Float[Tensor, "c z y x"]]:
        """Each row at its own size without padding: voxels of its tokens, and where no token
        exists those of the batch `like` that it was cut from. What is written to files."""
        voxels = self.untokenize(tokens)
        original = like["data"].to(voxels)
        if tokens.valid is not None:
            ones = torch.ones_like(tokens.values) * tokens.valid[..., None]
            voxels = torch.where(self.lattice_to_voxels(ones) > 0, voxels, original)
        if "extent" not in like:
            return list(voxels)
        return [
            row[:, :z, :y, :x]
            for row, (z, y, x) in zip(voxels, like["extent"].tolist(), strict=True)
        ]

    def picture(
        self, tokens: Tokens, shown: Bool[Tensor, " n"] | None = None
    ) -> UInt8[ndarray, "h w 3"]:
        """Three orthogonal slices of one volume through the middle of what exists: axial, coronal,
        sagittal, at their true proportions, top and front of the body upwards.

        Tokens not shown are blue, tokens that do not exist black. Grey levels run from the 1st to
        the 99th percentile of the volume; several channels as by the image kind.
        """
        return orthogonal_slices(
            self.lattice_to_voxels(tokens.values)[0].float().cpu(),
            tokens.coords[0].cpu(),
            self.grid,
            None if shown is None else shown.cpu(),
            None if tokens.valid is None else tokens.valid[0].cpu(),
        )


def three(size: int | tuple[int, ...]) -> Size3:
    """(z, y, x) of a size that may be one number."""
    if isinstance(size, int):
        return size, size, size
    if len(size) != 3:
        raise ValueError(f"VolumePatches: expected one number or three, (z, y, x), found {size}.")
    return size[0], size[1], size[2]
