"""The spectral kind: cubes of any number of bands, each with its wavelength or channel name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from multimask.modalities.spectral_bands import between, checked
from multimask.modalities.spectral_picture import composite
from multimask.nn.adapters import Target
from multimask.sizes import pair
from multimask.tokens import BadSample, Part, Tokens

Cubes = Mapping[str, Any]  # what `collate` makes; see there
TRUE_COLOUR = (665.0, 560.0, 490.0)  # red, green, blue in nm: Sentinel-2's B04, B03, B02
FALSE_COLOUR = (842.0, 665.0, 560.0)  # near infrared, red, green: vegetation is red


@dataclass(frozen=True)
class SpectralPatches:
    """Cut cubes into patches of single bands (`group=1`) or of groups of neighbouring bands.

    Raw contract: a mapping of `pixels (bands, height, width)`, any real numbers, NaN where there
    are no data; `wavelengths (bands,)`, nm, NaN for a band that has none; and, where there are such
    bands, `names`, one channel name a band. A bare array is taken as the bands that `wavelengths`
    (then `names`) list. Bands come in any number and order: each carries its wavelength.

    A token's values are `(row, column, band)` of its patch, bands innermost, standardised with
    `mean` and `std`, NaN where a pixel is missing; its coords are the patch's centre (row, column;
    pixels), the wavelengths of its `group` bands (nm, 0 for none) and their channel numbers (index
    in `names`, -1 for none). A token exists when at least half of the pixels of its bands do;
    padding never does. Tokens stand group by group, row-major within one. `untokenize` gives back
    the pixels of all tokens that exist, up to float rounding.

    Args:
        size: height and width of a sample; smaller ones are padded with NaN, and `encode` takes
            larger ones as well.
        patch: height and width of a patch, in pixels.
        bands: slots for bands; samples may have fewer.
        group: bands that share a token. Above 1 their order matters, so it must be that of
            `wavelengths`, or ascending where none are listed.
        wavelengths: nm; the bands that `mean` and `std` speak of and that bare arrays consist of.
        names: the channels that are told apart by name (radar polarisation, stains).
        mean, std: one number, or one per entry of `wavelengths` and then of `names`. Other
            wavelengths get what lies between their neighbours.
        colours: nm that pictures show as red, green and blue.
        projections: of the adapter: one linear layer for all bands, or one a listed band, mixed for
            those between (`SpectralAdapter`).
        scale, nodata: of the numbers in files, as their reader was told. Not applied here: kept so
            that whoever has the saved model reads files as they were read.
    Raises: ValueError for arguments that do not fit; BadSample for samples that break the contract.

    >>> patches = SpectralPatches(size=8, patch=4, bands=3, wavelengths=(490.0, 560.0, 665.0))
    >>> tokens = patches(Part(patches.collate([torch.rand(3, 8, 8)]), torch.arange(1)))
    >>> tokens.values.shape, tokens.grid, tokens.coords[0, -1].tolist()
    (torch.Size([1, 12, 16]), (3, 2, 2), [6.0, 6.0, 665.0, -1.0])
    """

    size: int | tuple[int, int] = 64
    patch: int | tuple[int, int] = 8
    bands: int = 12
    group: int = 1
    wavelengths: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    colours: tuple[float, float, float] = TRUE_COLOUR
    projections: Literal["shared", "bands"] = "shared"
    scale: float = 1.0
    nodata: float | None = None

    channel_axis = 0  # of the lattice: band groups
    missing_within = True  # tokens may hold NaN, which the adapter leaves out

    def __post_init__(self) -> None:
        if min(*pair(self.size), *pair(self.patch), self.bands, self.group) < 1:
            raise ValueError(
                f"SpectralPatches: size={self.size}, patch={self.patch}, bands={self.bands} and "
                f"group={self.group} must be at least 1."
            )
        if any(not 0 < nm < float("inf") for nm in (*self.wavelengths, *self.colours)):
            raise ValueError(
                f"SpectralPatches: wavelengths={self.wavelengths} and colours={self.colours} must "
                "be positive and finite (nm); list channels without a wavelength in names."
            )
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"SpectralPatches: names={self.names} holds one name twice.")
        known = len(self.wavelengths) + len(self.names)
        for field in ("mean", "std"):
            value = getattr(self, field)
            if not isinstance(value, int | float) and len(value) != known:
                raise ValueError(
                    f"SpectralPatches: {field} holds {len(value)} numbers; it must be one number "
                    f"or {known}, one for each of wavelengths and names."
                )
        if min(np.atleast_1d(self.std)) <= 0:
            raise ValueError(f"SpectralPatches: std={self.std} must be positive.")

    @property
    def token_dim(self) -> int:
        tall, wide = pair(self.patch)
        return tall * wide * self.group

    @property
    def coord_dim(self) -> int:
        return 2 + 2 * self.group

    @property
    def channels(self) -> int:
        return self.group

    @property
    def grid(self) -> tuple[int, int, int]:
        """(band groups, rows, columns) of patches."""
        tall, wide = pair(self.patch)
        height, width = pair(self.size)
        return -(-self.bands // self.group), -(-height // tall), -(-width // wide)

    @property
    def num_tokens(self) -> int:
        groups, rows, columns = self.grid
        return groups * rows * columns

    # --- raw data in ----------------------------------------------------------------------------

    def collate(self, items: Sequence[Any]) -> dict[str, Any]:
        """Samples side by side: `pixels (r, bands, height, width)`, `wavelengths` and `channels`
        `(r, bands)` (one row when all agree), `whole`: nothing is missing anywhere.

        Smaller samples are filled up with NaN, to the tokenizer's own size and band slots at least
        and to full patches and groups. Raises: BadSample.
        """
        cubes = [checked(item, self) for item in items]
        tall, wide = pair(self.patch)
        groups, rows, columns = self.grid
        needed = [(groups * self.group, rows * tall, columns * wide)]
        needed += [tuple(pixels.shape) for pixels, _, _ in cubes]
        shape = [
            -(-max(sizes) // unit) * unit
            for sizes, unit in zip(zip(*needed, strict=True), (self.group, tall, wide), strict=True)
        ]
        pixels = torch.full((len(cubes), *shape), torch.nan)
        wavelengths = torch.full((len(cubes), shape[0]), torch.nan)
        channels = torch.full((len(cubes), shape[0]), -1)
        for row, (cube, nm, ids) in enumerate(cubes):
            bands, height, width = cube.shape
            pixels[row, :bands, :height, :width] = cube
            wavelengths[row, :bands], channels[row, :bands] = nm, ids
        if all(
            torch.equal(nm.nan_to_num(), cubes[0][1].nan_to_num()) and torch.equal(ids, cubes[0][2])
            for _, nm, ids in cubes
        ):
            wavelengths, channels = wavelengths[:1], channels[:1]
        whole = not bool(pixels.isnan().any())
        made = {"pixels": pixels, "wavelengths": wavelengths, "channels": channels, "whole": whole}
        if not whole:
            exists = self.existing(made).any(dim=1)
            if not exists.all():
                raise BadSample(
                    "SpectralPatches: a sample has no patch of which at least half is there; "
                    "its pixels are missing (NaN or nodata) nearly everywhere."
                )
        return made

    def blank(self, count: int) -> dict[str, Any]:
        """Cubes of nothing, at the tokenizer's own size, in the bands it lists."""
        known = len(self.wavelengths) + len(self.names)
        if not known:
            raise ValueError(
                "SpectralPatches: it lists neither wavelengths nor names, so it does not know the "
                "bands of a cube that is not there."
            )
        return self.collate([torch.zeros(known, *pair(self.size))] * count)

    # --- tokens ---------------------------------------------------------------------------------

    def __call__(self, part: Part) -> Tokens:
        cubes = part.data
        pixels = cubes["pixels"]
        mean, std = self.statistics(cubes["wavelengths"], cubes["channels"])
        values = self.cut((pixels - mean) / std)
        tall, wide = pair(self.patch)
        grid = (pixels.shape[1] // self.group, pixels.shape[2] // tall, pixels.shape[3] // wide)
        valid = None if cubes["whole"] else self.existing(cubes)
        if valid is not None:
            values = torch.where(valid[..., None], values, 0.0)
        coords = self.places(cubes["wavelengths"], cubes["channels"], grid)
        return Tokens(values, coords, part.rows, valid, grid)

    def valid(self, part: Part) -> Bool[Tensor, "r n"] | None:
        return None if part.data["whole"] else self.existing(part.data)

    def existing(self, cubes: Cubes) -> Bool[Tensor, "r n"]:
        """Tokens of which at least half is there, counting only bands that the sample has."""
        known = self.cut((~cubes["pixels"].isnan()).to(torch.float32)).sum(dim=-1)
        bands = (cubes["wavelengths"] > 0) | (cubes["channels"] >= 0)
        tall, wide = pair(self.patch)
        held = rearrange(bands, "r (g e) -> r g e", e=self.group).sum(dim=-1) * tall * wide
        held = repeat(held, "r g -> r (g n)", n=known.shape[1] // held.shape[1])
        return (2 * known >= held) & (held > 0)

    def cut(self, pixels: Float[Tensor, "r c h w"]) -> Float[Tensor, "r n k"]:
        tall, wide = pair(self.patch)
        return rearrange(
            pixels,
            "r (g e) (y tall) (x wide) -> r (g y x) (tall wide e)",
            e=self.group,
            tall=tall,
            wide=wide,
        )

    def places(
        self, nm: Float[Tensor, "s c"], channels: Int[Tensor, "s c"], grid: tuple[int, int, int]
    ) -> Float[Tensor, "s n p"]:
        groups, rows, columns = grid
        tall, wide = pair(self.patch)
        axes = (
            torch.arange(rows, device=nm.device) * tall + tall / 2,
            torch.arange(columns, device=nm.device) * wide + wide / 2,
        )
        space = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1)
        of_bands = torch.cat(
            [
                rearrange(per_band, "s (g e) -> s g e", e=self.group)
                for per_band in (nm.nan_to_num(0.0), channels.to(nm.dtype))
            ],
            dim=-1,
        )
        return torch.cat(
            (
                repeat(space, "n two -> s (g n) two", s=len(nm), g=groups),
                repeat(of_bands, "s g p -> s (g n) p", n=rows * columns),
            ),
            dim=-1,
        )

    def statistics(
        self, nm: Float[Tensor, "s c"], channels: Int[Tensor, "s c"]
    ) -> tuple[Float[Tensor, "s c 1 1"], Float[Tensor, "s c 1 1"]]:
        """Mean and std of every band; between listed wavelengths linear, beyond them the last."""
        found = []
        for value, neutral in ((self.mean, 0.0), (self.std, 1.0)):
            if isinstance(value, int | float):
                found.append(torch.full_like(nm, float(value)))
                continue
            listed = torch.tensor(value, dtype=nm.dtype, device=nm.device)
            count = len(self.wavelengths)
            of_bands = torch.full_like(nm, neutral)
            if count:
                of_bands = between(nm.nan_to_num(1.0), self.wavelengths, listed[:count])
            if self.names:
                of_names = listed[count:][channels.clamp(min=0)]
                of_bands = torch.where(channels >= 0, of_names, of_bands)
            found.append(of_bands)
        return found[0][..., None, None], found[1][..., None, None]

    # --- and back -------------------------------------------------------------------------------

    def untokenize(self, tokens: Tokens) -> dict[str, Tensor]:
        """Pixels in the unit of the input, NaN where no token exists, their wavelengths (nm, NaN
        for none) and channel numbers: what `collate` gave, at the size that patches fill."""
        if tokens.grid is None:
            raise ValueError("SpectralPatches: these tokens have no lattice.")
        values = tokens.values
        if tokens.valid is not None:
            values = values.masked_fill(~tokens.valid[..., None], torch.nan)
        groups, rows, _ = tokens.grid
        tall, wide = pair(self.patch)
        pixels = rearrange(
            values,
            "r (g y x) (tall wide e) -> r (g e) (y tall) (x wide)",
            g=groups,
            y=rows,
            tall=tall,
            wide=wide,
        )
        first = rearrange(tokens.coords, "s (g n) p -> s g n p", g=groups)[:, :, 0]
        nm = first[..., 2 : 2 + self.group].flatten(1)
        channels = first[..., 2 + self.group :].flatten(1).round().long()
        nm = torch.where(nm > 0, nm, torch.nan)
        mean, std = self.statistics(nm, channels)
        return {"pixels": pixels * std + mean, "wavelengths": nm, "channels": channels}

    def picture(
        self, tokens: Tokens, shown: Bool[Tensor, " n"] | None = None
    ) -> UInt8[np.ndarray, "h w 3"]:
        """One row as the composite of the bands nearest to `colours`, from two spreads below the
        mean (black) to two above; what is not shown or missing is mid-grey, plane by plane."""
        cube = self.untokenize(tokens)
        mean, std = self.statistics(cube["wavelengths"], cube["channels"])
        pixels = ((cube["pixels"] - mean) / std / 4 + 0.5)[0].float().cpu()
        if shown is not None:
            tall, wide = pair(self.patch)
            seen = shown.cpu().reshape(tokens.grid or ())
            for axis, times in enumerate((self.group, tall, wide)):
                seen = seen.repeat_interleave(times, axis)
            pixels = torch.where(seen, pixels, torch.nan)
        nm, channels = cube["wavelengths"][0].cpu(), cube["channels"][0].cpu()
        held = (nm > 0) | (channels >= 0)
        return composite(pixels[held], nm[held], self.colours)

    # --- weights --------------------------------------------------------------------------------

    def adapter(self, width: int, decoder_width: int | None) -> nn.Module:
        return self.adapter_for(width, decoder_width, Target())

    def adapter_for(self, width: int, decoder_width: int | None, target: Target) -> nn.Module:
        from multimask.modalities.spectral_adapter import SpectralAdapter

        return SpectralAdapter(self, width, decoder_width, target, self.projections)
