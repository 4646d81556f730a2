"""One airborne scene with a label a pixel: Indian Pines, Salinas, Pavia.

`Indian_pines_corrected.mat` beside `Indian_pines_gt.mat`, and so on; MATLAB v5 files of (rows,
columns, bands). A sample is a window around a labelled pixel. Neighbouring windows share pixels, so
train and test come from different blocks of the scene and no window leaves its block.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from multimask.datasets.formats.matlab import open_matlab
from multimask.datasets.formats.spectral import SpectralReader
from multimask.datasets.holdout import held_out
from multimask.datasets.table import Table
from multimask.tokens import BadSample


@dataclass(frozen=True)
class Scene:
    """Files, number of bands, and the sensor's first and last wavelength (nm), evenly spaced.

    The scenes come without wavelengths; these are good to some nm. Indian Pines (220 channels) and
    Salinas (224): AVIRIS, 400-2,500 nm, of which the 20 of water vapour and noise were taken out
    by the authors (`dropped`, counted from 1). Pavia: ROSIS, 430-860 nm.
    """

    cube: str
    labels: str
    bands: int
    first: float
    last: float
    dropped: tuple[int, ...] = ()

    @property
    def wavelengths(self) -> tuple[float, ...]:
        channels = np.linspace(self.first, self.last, self.bands + len(self.dropped))
        kept = np.delete(channels, [channel - 1 for channel in self.dropped])
        return tuple(kept.round(2).tolist())


WATER = (*range(108, 113), *range(154, 168), 224)
SCENES = {
    "indian_pines": Scene(
        "Indian_pines_corrected.mat", "Indian_pines_gt.mat", 200, 400.0, 2500.0,
        (*range(104, 109), *range(150, 164), 220),
    ),
    "salinas": Scene("Salinas_corrected.mat", "Salinas_gt.mat", 204, 400.0, 2500.0, WATER),
    "pavia_university": Scene("PaviaU.mat", "PaviaU_gt.mat", 103, 430.0, 860.0),
    "pavia_centre": Scene("Pavia.mat", "Pavia_gt.mat", 102, 430.0, 860.0),
}  # fmt: skip


def hyperspectral_scene(
    folder: str | Path,
    scene: str | Scene,
    window: int = 9,
    block: int = 24,
    test: float = 0.4,
    seed: int = 0,
    scale: float = 1e-4,
) -> Table:
    """Columns `cube` (file and window), `label` (class number), `row`, `column`, `block`, `split`,
    `id`.

    Args: window, pixels a side; block, pixels a side of the squares that are train or test as a
    whole; test, share of the samples held out, as nearly as whole blocks allow; scale, of the
    stored numbers.
    Raises: ValueError for an unknown scene or sizes that leave nothing; BadSample for files of
    other sizes.
    """
    if isinstance(scene, str):
        if scene not in SCENES:
            raise ValueError(
                f"hyperspectral_scene: no scene {scene!r}; there are {', '.join(SCENES)}."
            )
        scene = SCENES[scene]
    root = Path(folder)
    cube, truth = open_matlab(root / scene.cube), open_matlab(root / scene.labels)
    if cube.shape[0] != scene.bands or truth.shape[1:] != cube.shape[1:]:
        raise BadSample(
            f"{root / scene.cube}: expected {scene.bands} bands and labels of the same size, found "
            f"shape {cube.shape} and labels {truth.shape}."
        )
    classes = truth.read(truth.whole, [0])[0]
    half = window // 2
    rows, columns = np.nonzero(classes)
    top, left = rows - half, columns - half
    inside = (top % block + window <= block) & (left % block + window <= block)
    inside &= (top >= 0) & (left >= 0)
    inside &= (top + window <= classes.shape[0]) & (left + window <= classes.shape[1])
    rows, columns, top, left = (where[inside] for where in (rows, columns, top, left))
    blocks = [f"{y // block},{x // block}" for y, x in zip(top, left, strict=True)]
    if len(set(blocks)) < 2:
        raise ValueError(
            f"hyperspectral_scene: {len(set(blocks))} blocks of {block} pixels hold a window of "
            f"{window}; choose a smaller window or block."
        )
    ids = [f"{y:04d},{x:04d}" for y, x in zip(rows, columns, strict=True)]
    held = held_out(ids, test, seed, None, blocks)
    made = {
        "cube": [
            f"{scene.cube}#window={y},{x},{window},{window}" for y, x in zip(top, left, strict=True)
        ],
        "label": classes[rows, columns].astype(int),
        "row": rows,
        "column": columns,
        "block": blocks,
        "split": np.where(held, "test", "train").tolist(),
        "id": ids,
    }
    reader = SpectralReader(wavelengths=scene.wavelengths, scale=scale)
    return Table.of(made, {"cube": reader}, root)


def write_fake(folder: str | Path, scene: str = "indian_pines", size: int = 60) -> None:
    """A made scene in files of the same names: stripes of four classes, one spectrum each."""
    from scipy.io import savemat

    chosen, rng = SCENES[scene], np.random.default_rng(0)
    classes = (np.arange(size)[:, None] // 8 + np.arange(size)[None] // 12) % 5
    spectra = rng.integers(500, 5000, (5, chosen.bands))
    cube = spectra[classes] + rng.integers(0, 200, (size, size, chosen.bands))
    Path(folder).mkdir(parents=True, exist_ok=True)
    name = chosen.cube.removesuffix(".mat").lower()
    savemat(Path(folder) / chosen.cube, {name: cube.astype(np.uint16)}, do_compression=True)
    truth = chosen.labels.removesuffix(".mat").lower()
    savemat(Path(folder) / chosen.labels, {truth: classes.astype(np.uint8)})
