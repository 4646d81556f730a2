"""Made scenes of mixed materials at any wavelengths, for runs without data.

Eight analytic reflectance spectra (400-2,400 nm) are mixed over abundance maps cut from the colour
clusters of scikit-learn's two photographs, then lit, hazed and measured. Every scene holds every
material in the same total amount, but only one of them as an object, the others thinly mixed over
the ground; which one is the label. So the mean of a band, and any sum over pixels, is blind to it.
"""

from collections.abc import Callable

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
    "between": (520.0, 610.0, 740.0, 1000.0, 1250.0, 2100.0),  # of landsat7's bands
    "sentinel2": (
        443.0, 490.0, 560.0, 665.0, 705.0, 740.0, 783.0, 842.0, 865.0, 945.0, 1610.0, 2190.0,
    ),
    "hyper": WAVELENGTHS,
}  # fmt: skip
NUM_CLUSTERS = 5  # kinds of ground
OBJECT = 0.11  # its share of a scene: less than the eighth that its material has in all
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
        0.10 + 0.28 * rise(nm, 700, 220) - 0.05 * bump(nm, 900, 90) - 0.10 * bump(nm, 2205, 35)
        - 0.04 * bump(nm, 1415, 40)
    ),
    "sand": lambda nm: 0.20 + 0.26 * rise(nm, 620, 180) - 0.04 * bump(nm, 1930, 50),
    "water": lambda nm: 0.09 * (1 - rise(nm, 690, 45)) + 0.012 * bump(nm, 560, 60),
    # bright, falls past 1.0 um
    "snow": lambda nm: (
        0.86 - 0.12 * bump(nm, 1030, 50) - 0.78 * rise(nm, 1380, 60) + 0.10 * bump(nm, 1800, 110)
    ),
    "concrete": lambda nm: 0.24 + 0.04 * rise(nm, 600, 150) - 0.03 * bump(nm, 2330, 40),
    "metal": lambda nm: 0.42 + 0.05 * rise(nm, 1000, 500),
}  # fmt: skip


def spectra(wavelengths: tuple[float, ...]) -> Float[Tensor, "materials c"]:
    """Reflectance of every material at these wavelengths (nm), in the order of `MATERIALS`."""
    nm = torch.tensor(wavelengths, dtype=torch.float32)
    return torch.stack([curve(nm) for curve in MATERIALS.values()]).clamp(0.005, 0.95)


def mixture_scenes(
    train: int = 480,
    test: int = 240,
    size: int = 32,
    wavelengths: tuple[float, ...] = WAVELENGTHS,
    seed: int = 0,
) -> Table:
    """Scenes: `cube` (bands, size, size), `label` (the object's material), `split`, `id`.

    The map of a sample comes from the left 60 % of a photograph for training and from the right
    40 % for testing. A sample's scene follows from seed and id alone, so other `wavelengths` show
    the same scenes to another sensor (`SENSORS`). The reader attaches the wavelengths.
    """
    maps = {split: cluster_maps(split) for split in ("train", "test")}
    pure = spectra(wavelengths)
    nm = torch.tensor(wavelengths, dtype=torch.float32)
    names = list(MATERIALS)
    cubes, labels, splits, ids = [], [], [], []
    for split, count in (("train", train), ("test", test)):
        for number in range(count):
            ids.append(f"{split}/{number:05d}")
            generator = sample_generator(seed, 0, ids[-1], "scene")
            main = number % len(names)
            abundance = abundances(maps[split], size, main, generator)
            cubes.append(measured(abundance, pure, nm, generator))
            labels.append(names[main])
            splits.append(split)
    return Table.from_arrays(
        reader=SpectralReader(wavelengths=wavelengths),
        cube=torch.stack(cubes),
        label=labels,
        split=splits,
        id=ids,
    )


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
    """Shares of the materials: one in every pixel, and as much of each material as of any other.

    The ground's regions, cut from a photograph, favour different materials. The object, a ninth of
    the scene where a smooth random field is highest, is nearly all `main`.
    """
    source = maps[int(torch.randint(len(maps), (), generator=generator))]
    top, left = (
        int(torch.randint(extent - size + 1, (), generator=generator)) for extent in source.shape
    )
    regions = source[top : top + size, left : left + size]
    favour = torch.exp(0.8 * torch.randn(NUM_CLUSTERS, len(MATERIALS), generator=generator))
    shares = smooth(favour[regions].permute(2, 0, 1), 3)
    field = smooth(smooth(torch.randn(1, size, size, generator=generator), size // 4 * 2 + 1), 5)[0]
    inside = field > field.quantile(1 - OBJECT)
    pure = torch.full((len(MATERIALS),), 0.1)
    pure[main] = 40.0
    shares = torch.where(inside, pure[:, None, None], shares)
    shares[main] = torch.where(inside, shares[main], 0.3 * shares[main])
    return balanced(shares)


def balanced(shares: Float[Tensor, "m h w"], rounds: int = 40) -> Float[Tensor, "m h w"]:
    """Scale materials and pixels in turn until all totals agree (Sinkhorn and Knopp, 1967)."""
    for _ in range(rounds):
        shares = shares / shares.mean(dim=(1, 2), keepdim=True) / len(shares)
        shares = shares / shares.sum(dim=0)
    return shares


def measured(
    shares: Float[Tensor, "materials h w"],
    pure: Float[Tensor, "materials c"],
    nm: BANDS,
    generator: Generator,
) -> Float[Tensor, "c h w"]:
    """What a sensor sees: mixing with a bilinear term, light, haze, damped water bands, noise."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    varied = pure * (1 + 0.15 * torch.randn(len(pure), 1, generator=generator)).clamp(min=0.4)
    linear = torch.einsum("mhw,mc->chw", shares, varied)
    cube = linear + uniform(0.0, 0.3) * linear * (1 - shares.square().sum(dim=0)) * linear
    field = smooth(torch.randn(1, *cube.shape[1:], generator=generator), 9)
    light = torch.exp(0.5 * (field / field.std().clamp(min=1e-6)).clamp(-2.0, 2.0))
    light = uniform(0.5, 1.2) * light
    cube = cube * light
    octave = torch.log2(nm / 900)
    slope, bend = uniform(-0.35, 0.35), uniform(-0.25, 0.25)
    cube = cube * torch.exp(slope * octave + bend * octave.square())[:, None, None]
    cube = cube + uniform(0.0, 0.12) * ((nm / 400) ** -3)[:, None, None]  # haze, blue
    damped = 1 - 0.7 * bump(nm, 1400, 50) - 0.7 * bump(nm, 1900, 60)
    cube = cube * damped[:, None, None]
    noise = uniform(0.002, 0.012, len(nm))[:, None, None]
    return (cube + noise * torch.randn(cube.shape, generator=generator)).float()


def smooth(maps: Float[Tensor, "m h w"], width: int) -> Float[Tensor, "m h w"]:
    padded = F.pad(maps[None], (width // 2,) * 4, mode="replicate")
    return F.avg_pool2d(padded, width, stride=1)[0]
