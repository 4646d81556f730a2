"""Made scenes of mixed materials, each seen by a sensor of its own, for runs without data.

Eight analytic reflectance spectra (400-2,400 nm) are mixed over maps cut from the colour clusters
of scikit-learn's two photographs, then lit, hazed and measured. One material prevails in a scene;
which one is the label. Every scene has its own few bands, drawn from many, in any order, and over
the whole range all materials are equally bright: a number tells of the label only together with its
wavelength, so numbers at fixed places, and their means, are blind to it.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import functional as F

from multimask.datasets.formats.spectral import SpectralReader
from multimask.datasets.table import Table
from multimask.tokens import sample_generator

WAVELENGTHS = tuple(np.linspace(400.0, 2400.0, 60).round(1).tolist())
SENSORS = {  # nm: what the same scenes look like to others
    "rgb-nir": (490.0, 560.0, 665.0, 842.0),
    "landsat7": (485.0, 560.0, 660.0, 835.0, 1650.0, 2220.0),
    "between": (502.0, 637.0, 773.0, 976.0, 1248.0, 2095.0),  # of GRID
    "sentinel2": (
        443.0, 490.0, 560.0, 665.0, 705.0, 740.0, 783.0, 842.0, 865.0, 945.0, 1610.0, 2190.0,
    ),
    "hyper": WAVELENGTHS,
}  # fmt: skip
GRID = tuple(  # of which every scene has some; sensors avoid the bands that vapour damps
    nm for nm in WAVELENGTHS[::2] if not (1340 < nm < 1460 or 1820 < nm < 1980)
)
NUM_CLUSTERS = 5  # kinds of ground
BRIGHTNESS = 0.3  # mean reflectance of every material
PREVAILS = 9.0  # how much more of the labelled material there is than of another
BANDS = Float[Tensor, " c"]


def bump(nm: BANDS, centre: int, width: int) -> BANDS:
    return torch.exp(-(((nm - centre) / width) ** 2))


def rise(nm: BANDS, centre: int, width: int) -> BANDS:
    return torch.sigmoid((nm - centre) / width)


MATERIALS: dict[str, Callable[[BANDS], BANDS]] = {
    # green peak, red edge, water of the leaf
    "leaf": lambda nm: (
        0.05 + 0.07 * bump(nm, 550, 35) + 0.42 * rise(nm, 720, 14) * (1 - 0.25 * rise(nm, 1300, 60))
        - 0.22 * bump(nm, 1450, 60) - 0.26 * bump(nm, 1950, 80) - 0.10 * rise(nm, 2250, 60)
    ),
    # no red edge; cellulose
    "straw": lambda nm: (
        0.08 + 0.30 * rise(nm, 760, 150) - 0.09 * bump(nm, 2100, 55) - 0.05 * bump(nm, 1450, 50)
        - 0.06 * bump(nm, 1930, 60)
    ),
    # slope, iron, clay mineral
    "clay": lambda nm: (
        0.10 + 0.28 * rise(nm, 700, 220) - 0.05 * bump(nm, 900, 90) - 0.16 * bump(nm, 2205, 60)
        - 0.04 * bump(nm, 1415, 40)
    ),
    "sand": lambda nm: 0.20 + 0.26 * rise(nm, 620, 180) - 0.04 * bump(nm, 1930, 50),
    "water": lambda nm: 0.09 * (1 - rise(nm, 690, 45)) + 0.012 * bump(nm, 560, 60),
    # bright, falls past 1.0 um
    "snow": lambda nm: (
        0.86 - 0.12 * bump(nm, 1030, 50) - 0.78 * rise(nm, 1380, 60) + 0.10 * bump(nm, 1800, 110)
    ),
    "concrete": lambda nm: 0.24 + 0.04 * rise(nm, 600, 150) - 0.03 * bump(nm, 2330, 40),
    "copper": lambda nm: 0.25 + 0.55 * rise(nm, 580, 20),
}  # fmt: skip


def spectra(wavelengths: Sequence[float]) -> Float[Tensor, "materials c"]:
    """Reflectance of every material at these wavelengths (nm), in the order of `MATERIALS`; over
    `GRID` all have the same mean."""

    def at(places: Sequence[float]) -> Tensor:
        nm = torch.tensor(places, dtype=torch.float32)
        return torch.stack([curve(nm) for curve in MATERIALS.values()]).clamp(0.005, 0.95)

    return BRIGHTNESS * at(wavelengths) / at(GRID).mean(dim=1, keepdim=True)


def mixture_scenes(
    train: int = 480,
    test: int = 240,
    size: int = 32,
    wavelengths: Sequence[float] | None = None,
    seed: int = 0,
    bands: int = 12,
) -> Table:
    """Scenes: `cube` (pixels and wavelengths), `label` (the prevailing material), `split`, `id`.

    Args:
        wavelengths: nm, of every scene; None draws `bands` of `GRID` for each, in any order.
        seed: the only source of randomness. A sample's scene follows from seed and id alone, so
            other wavelengths show the same scenes to another sensor (`SENSORS`).

    The map of a sample comes from the left 60 % of a photograph for training and from the right
    40 % for testing.
    """
    maps = {split: cluster_maps(split) for split in ("train", "test")}
    names = list(MATERIALS)
    cubes, labels, splits, ids = [], [], [], []
    for split, count in (("train", train), ("test", test)):
        for number in range(count):
            ids.append(f"{split}/{number:05d}")
            main = number % len(names)
            draw = partial(sample_generator, seed, 0, ids[-1])
            nm = drawn_bands(bands, draw("bands")) if wavelengths is None else tuple(wavelengths)
            shares = abundances(maps[split], size, main, draw("scene"))
            cubes.append({"pixels": measured(shares, nm, draw("sensor")), "wavelengths": nm})
            labels.append(names[main])
            splits.append(split)
    columns = {"cube": cubes, "label": labels, "split": splits, "id": ids}
    return Table.of(columns, {"cube": SpectralReader()})


def drawn_bands(count: int, generator: Generator) -> tuple[float, ...]:
    return tuple(GRID[place] for place in torch.randperm(len(GRID), generator=generator)[:count])


def cluster_maps(split: str) -> list[Int[Tensor, "h w"]]:
    """Colour clusters of the photographs' left (train) or right (test) side, as whole numbers."""
    from sklearn.datasets import load_sample_images  # slow to import

    maps = []
    for picture in load_sample_images().images:
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1).float()
        small = F.avg_pool2d(pixels, 2)
        edge = round(0.6 * small.shape[2])
        side = small[..., :edge] if split == "train" else small[..., edge:]
        colours = side.flatten(1).T
        nearest = torch.cdist(colours, centres_of(colours[::31])).argmin(dim=1)
        maps.append(nearest.view(side.shape[1:]))
    return maps


def centres_of(colours: Float[Tensor, "n 3"], rounds: int = 10) -> Float[Tensor, "k 3"]:
    """k-means, begun at the quantiles of brightness so that nothing is drawn."""
    order = colours.sum(dim=1).argsort()
    places = (torch.arange(NUM_CLUSTERS) + 0.5) / NUM_CLUSTERS * len(colours)
    centres = colours[order[places.long()]]
    for _ in range(rounds):
        members = F.one_hot(torch.cdist(colours, centres).argmin(dim=1), NUM_CLUSTERS).float()
        centres = members.T @ colours / members.sum(dim=0).clamp(min=1)[:, None]
    return centres


def abundances(
    maps: list[Int[Tensor, "h w"]], size: int, main: int, generator: Generator
) -> Float[Tensor, "materials size size"]:
    """Shares of the materials, one in every pixel. Regions, cut from a photograph, favour different
    ones, and all of them favour `main`."""
    source = maps[int(torch.randint(len(maps), (), generator=generator))]
    top, left = (
        int(torch.randint(extent - size + 1, (), generator=generator)) for extent in source.shape
    )
    regions = source[top : top + size, left : left + size]
    favour = torch.exp(0.6 * torch.randn(NUM_CLUSTERS, len(MATERIALS), generator=generator))
    favour[:, main] *= PREVAILS
    shares = smooth(favour[regions].permute(2, 0, 1), 3)
    return shares / shares.sum(dim=0)


def measured(
    shares: Float[Tensor, "materials h w"],
    wavelengths: Sequence[float],
    generator: Generator,
) -> Float[Tensor, "c h w"]:
    """What a sensor sees: mixing with a bilinear term, light, haze, damped water bands, noise."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    nm, pure = torch.tensor(wavelengths, dtype=torch.float32), spectra(wavelengths)
    varied = pure * (1 + 0.15 * torch.randn(len(pure), 1, generator=generator)).clamp(min=0.4)
    linear = torch.einsum("mhw,mc->chw", shares, varied)
    cube = linear + uniform(0.0, 0.3) * linear * (1 - shares.square().sum(dim=0)) * linear
    field = smooth(torch.randn(1, *cube.shape[1:], generator=generator), 9)
    light = uniform(-0.6, 0.2) + 0.5 * (field / field.std().clamp(min=1e-6)).clamp(-2.0, 2.0)
    cube = cube * torch.exp(light)
    octave = torch.log2(nm / 900)
    slope, bend = uniform(-0.2, 0.2), uniform(-0.1, 0.1)
    cube = cube * torch.exp(slope * octave + bend * octave.square())[:, None, None]
    cube = cube + uniform(0.0, 0.12) * ((nm / 400) ** -3)[:, None, None]  # haze, blue
    damped = 1 - 0.7 * bump(nm, 1400, 50) - 0.7 * bump(nm, 1900, 60)
    cube = cube * damped[:, None, None]
    noise = uniform(0.002, 0.012, len(nm))[:, None, None]
    return (cube + noise * torch.randn(cube.shape, generator=generator)).float()


def smooth(maps: Float[Tensor, "m h w"], width: int) -> Float[Tensor, "m h w"]:
    padded = F.pad(maps[None], (width // 2,) * 4, mode="replicate")
    return F.avg_pool2d(padded, width, stride=1)[0]
