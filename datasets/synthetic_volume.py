"""Made brains: four registered MRI contrasts of one subject from one map of tissues.

For trying things out without data; no evidence about the real field. A subject has a smooth hull,
folded grey matter, ventricles and thalami, skull and scalp. The ill have lesions with oedema
around and a rim that only the contrast-enhanced T1 shows; the others have as many scars of the same
size, and everybody has small spots, an own gain and an own bias field, so that neither the mean of
a contrast nor a single voxel tells who is ill.

The mixed contrast is another sequence for every subject, as in collections without good records.
The label is the tissue whose signal lies between the two others': which of these is bright is
drawn, so every voxel is as bright on average whatever the label.
"""

import csv
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Num, UInt8

from multimask.datasets.cache import cache_folder
from multimask.datasets.formats.nifti import write_nifti
from multimask.datasets.volumes import new_volume

CONTRASTS = ("t1", "t1ce", "t2", "flair")
MIXED = "mixed"  # a sequence of its own for every subject
MIDDLE = ("csf", "grey", "white")

OUTSIDE, BONE, CSF, GREY, WHITE, SCALP, OEDEMA, LESION, RIM, SCAR = range(10)
SIGNAL: dict[str, tuple[float, ...]] = {
    "t1": (0.0, 0.1, 0.22, 0.62, 0.95, 1.10, 0.70, 0.45, 0.55, 0.70),
    "t1ce": (0.0, 0.1, 0.22, 0.62, 0.95, 1.10, 0.70, 0.45, 1.35, 0.70),
    "t2": (0.0, 0.1, 1.20, 0.62, 0.42, 0.50, 0.85, 0.95, 0.80, 0.85),
    "flair": (0.0, 0.1, 0.12, 0.62, 0.50, 0.50, 1.05, 0.85, 0.90, 1.05),
}
NOISE = (0.035, 0.3)  # of a channel of the scanner: usual, and of the mixed contrast
FIELD = 200.0  # mm across the head's box
SEMI_AXES = (62.0, 84.0, 68.0)  # z, y, x of the hull, mm


@dataclass(frozen=True)
class Brain:
    """contrasts: `(z, y, x)` float32 in arbitrary units. tissue: the map they were made from.
    labels: 0 none, 1 oedema, 2 lesion and rim. ill: whether there are lesions. middle: the tissue
    whose signal in the mixed contrast lies between the two others'. spacing: mm."""

    contrasts: dict[str, Float[np.ndarray, "z y x"]]
    tissue: UInt8[np.ndarray, "z y x"]
    labels: UInt8[np.ndarray, "z y x"]
    ill: bool
    middle: str
    spacing: float


def made_brain(
    seed: int, subject: int, size: int = 80, contrasts: Sequence[str] = CONTRASTS
) -> Brain:
    """One subject: the same for the same seed, number and size, whichever contrasts are asked for.
    Every second one is ill, every third pair has the same middle tissue.

    >>> made_brain(0, subject=1, size=16).ill
    True
    """
    random = np.random.default_rng((seed, subject))
    ill, spacing = subject % 2 == 1, FIELD / size
    middle = MIDDLE[subject // 2 % len(MIDDLE)]
    places = np.stack(
        np.meshgrid(*[(np.arange(size) - (size - 1) / 2) * spacing] * 3, indexing="ij")
    ).astype(np.float32)
    tissue = healthy_tissue(random, places, spacing)
    spots(random, places, tissue)
    add_foci(random, places, tissue, ill)
    labels = np.zeros_like(tissue)
    labels[tissue == OEDEMA] = 1
    labels[(tissue == LESION) | (tissue == RIM)] = 2
    scans = {}
    for number, name in enumerate((*CONTRASTS, MIXED)):
        if name in contrasts:
            own = np.random.default_rng((seed, subject, 2, number))
            mixed = name == MIXED
            signal = mixed_signal(own, middle) if mixed else SIGNAL[name]
            scans[name] = scanned(own, tissue, signal, size, NOISE[mixed])
    return Brain(scans, tissue, labels, ill, middle, spacing)


def mixed_signal(random: np.random.Generator, middle: str) -> tuple[float, ...]:
    """Signals of a sequence that nobody noted: which of the two other tissues is bright and which
    dark is drawn, so every tissue is as bright on average whatever the middle one is."""
    low, mid, high = np.array([0.25, 0.6, 0.95]) + random.normal(0, 0.05, 3)
    others = [name for name in MIDDLE if name != middle]
    dark = int(random.integers(2))
    level = {middle: mid, others[dark]: low, others[1 - dark]: high}
    scalp, oedema, lesion, rim, scar = random.uniform(0.2, 1.1, 5)
    csf, grey, white = (level[name] for name in MIDDLE)
    return (0.0, 0.1, csf, grey, white, scalp, oedema, lesion, rim, scar)


def healthy_tissue(
    random: np.random.Generator, places: Float[np.ndarray, "3 z y x"], spacing: float
) -> UInt8[np.ndarray, "z y x"]:
    size = places.shape[1]
    semi = np.array(SEMI_AXES) * random.normal(1, 0.05, 3)
    mean = semi.mean()
    warp = 2.5 * noise(random, size, size / 8)
    reach = np.sqrt(sum((p / s) ** 2 for p, s in zip(places, semi, strict=True)))
    inside = (1 - reach) * mean + warp  # mm below the hull
    coarse, fine = noise(random, size, 6 / spacing), noise(random, size, 3.2 / spacing)
    folded = 2 + 0.45 * inside + 4.2 * coarse + 1.2 * fine  # sulci reach about 15 mm deep
    side = np.abs(places[2])
    depth = np.where(inside > 2, np.minimum(folded, 1.6 * side), inside)
    thickness = 6.6 * random.normal(1, 0.1)
    tissue = np.full(inside.shape, OUTSIDE, np.uint8)
    tissue[(inside <= -6) & (inside > -11)] = SCALP
    tissue[(inside <= -1) & (inside > -6)] = BONE
    tissue[inside > -1] = CSF
    tissue[(inside > 0) & (depth > 1)] = GREY
    tissue[(inside > 0) & (depth > thickness)] = WHITE
    open_by = random.normal(1, 0.15)
    for sign in (-1, 1):
        for centre, radii, what in (
            ((8, -4, 12), (7, 26, 6), CSF),  # ventricle
            ((-6, -6, 11), (8, 14, 8), GREY),  # thalamus
        ):
            radii = np.array(radii) * (open_by if what == CSF else 1)
            away = [
                p - c for p, c in zip(places, (centre[0], centre[1], sign * centre[2]), strict=True)
            ]
            ball = sum((a / r) ** 2 for a, r in zip(away, radii, strict=True)) < 1
            tissue[ball & (tissue != OUTSIDE)] = what
    return tissue


def spots(
    random: np.random.Generator,
    places: Float[np.ndarray, "3 z y x"],
    tissue: UInt8[np.ndarray, "z y x"],
) -> None:
    """Old small scars in anybody's white matter: as bright as oedema, nothing to do with it."""
    for _ in range(int(random.integers(3, 16))):
        put(random, places, tissue, WHITE, float(random.uniform(3, 9)), SCAR)


def add_foci(
    random: np.random.Generator,
    places: Float[np.ndarray, "3 z y x"],
    tissue: UInt8[np.ndarray, "z y x"],
    ill: bool,
) -> None:
    """As many and as large ones in everybody: lesions with rim and oedema in the ill, all scar in
    the others. So neither place nor size tells who is ill, and only the rim tells it clearly."""
    for _ in range(int(random.integers(3, 7))):
        centre = centre_in(random, places, tissue, WHITE)
        radius, oedema = random.uniform(7, 12), random.uniform(5, 9)
        stretch = random.uniform(0.8, 1.25, 3)
        away = np.sqrt(
            sum(((p - c) / s) ** 2 for p, c, s in zip(places, centre, stretch, strict=True))
        )
        brain = np.isin(tissue, (GREY, WHITE, OEDEMA, SCAR))
        white = np.isin(tissue, (WHITE, SCAR))
        tissue[(away < radius + oedema) & white] = OEDEMA if ill else SCAR
        tissue[(away < radius) & brain] = RIM if ill else SCAR
        if ill:
            tissue[(away < radius - 3.5) & brain] = LESION


def put(
    random: np.random.Generator,
    places: Float[np.ndarray, "3 z y x"],
    tissue: UInt8[np.ndarray, "z y x"],
    within: int,
    radius: float,
    what: int,
) -> None:
    centre = centre_in(random, places, tissue, within)
    away = np.sqrt(sum((p - c) ** 2 for p, c in zip(places, centre, strict=True)))
    tissue[(away < radius) & (tissue == within)] = what


def centre_in(
    random: np.random.Generator,
    places: Float[np.ndarray, "3 z y x"],
    tissue: UInt8[np.ndarray, "z y x"],
    within: int,
) -> Float[np.ndarray, " 3"]:
    there = np.flatnonzero(tissue == within)
    chosen = there[int(random.integers(len(there)))] if len(there) else tissue.size // 2
    return places.reshape(3, -1)[:, chosen]


def scanned(
    random: np.random.Generator,
    tissue: UInt8[np.ndarray, "z y x"],
    signal: tuple[float, ...],
    size: int,
    spread: float,
) -> Float[np.ndarray, "z y x"]:
    """Partial volume, bias field, an own gain, and Rician noise."""
    from scipy.ndimage import gaussian_filter

    clean = gaussian_filter(np.array(signal, np.float32)[tissue], 0.55)
    clean = clean * np.exp(0.15 * noise(random, size, size / 4))
    real, imaginary = random.normal(0, spread, (2, *tissue.shape))
    gain = 400 * np.exp(random.normal(0, 0.2))
    return (gain * np.sqrt((clean + real) ** 2 + imaginary**2)).astype(np.float32)


def noise(random: np.random.Generator, size: int, sigma: float) -> Float[np.ndarray, "z y x"]:
    """Gaussian-smoothed noise of unit variance."""
    from scipy.ndimage import gaussian_filter

    white = random.standard_normal((size,) * 3).astype(np.float32)
    smooth = gaussian_filter(white, sigma, mode="wrap")
    return smooth / smooth.std()


def heads(
    subjects: int,
    contrasts: Sequence[str] = CONTRASTS,
    seed: int = 0,
    size: int = 48,
    missing: float = 0.0,
    test: float = 0.4,
) -> Path:
    """`write_brains` into the user's cache, made once: the path of its CSV."""
    made_from = {"seed": seed, "size": size, "missing": missing, "contrasts": sorted(contrasts)}
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    folder = cache_folder("heads", subjects=subjects, test=test, code=code, **made_from)
    listing = folder / "subjects.csv"
    if listing.is_file():
        return listing
    return write_brains(folder, subjects, seed, size, missing, test, contrasts)


def write_brains(
    folder: str | Path,
    subjects: int,
    seed: int = 0,
    size: int = 80,
    missing: float = 0.2,
    test: float = 0.4,
    contrasts: Sequence[str] = CONTRASTS,
) -> Path:
    """Write subjects as NIfTI files, and `subjects.csv`: id, a column a contrast (blank = missing),
    seg, label (the middle tissue of the mixed contrast), lesions ("yes" or "no"), split. Files that
    are there already are kept.

    missing: chance that a contrast of a subject was not taken; one always was. test: share of the
    last subjects. contrasts: which to write. Returns the CSV, which is written last.
    """
    folder = Path(folder)
    known = (*CONTRASTS, MIXED)
    if strange := sorted(set(contrasts) - set(known)):
        raise ValueError(f"made brains have the contrasts {', '.join(known)}, not {strange}.")
    rows = list(_written(folder, subjects, seed, size, missing, test, tuple(contrasts)))
    listing = folder / "subjects.csv"
    temporary = listing.with_name(f".{os.getpid()}.csv")
    with open(temporary, "w", newline="") as file:
        table = csv.DictWriter(file, ["id", *contrasts, "seg", "label", "lesions", "split"])
        table.writeheader()
        table.writerows(rows)
    temporary.replace(listing)
    return listing


def _written(
    folder: Path,
    subjects: int,
    seed: int,
    size: int,
    missing: float,
    test: float,
    contrasts: tuple[str, ...],
) -> Iterator[dict[str, str]]:
    for subject in range(subjects):
        name = f"made{seed}_{size}_{subject:04d}"
        random = np.random.default_rng((seed, subject, 1))
        has = random.random(len(contrasts)) >= missing
        has[int(random.integers(len(contrasts)))] = True
        files = {c: f"{name}/{c}.nii.gz" for c, there in zip(contrasts, has, strict=True) if there}
        seg = f"{name}/seg.nii.gz"
        if not all((folder / file).is_file() for file in (*files.values(), seg)):
            brain = made_brain(seed, subject, size, tuple(files))
            (folder / name).mkdir(parents=True, exist_ok=True)
            affine = centred_affine(size, brain.spacing)
            for contrast, file in files.items():
                _write(folder / file, brain.contrasts[contrast], affine, discrete=False)
            _write(folder / seg, brain.labels, affine, discrete=True)
        yield {
            "id": name,
            **{contrast: files.get(contrast, "") for contrast in contrasts},
            "seg": seg,
            "label": MIDDLE[subject // 2 % len(MIDDLE)],
            "lesions": "yes" if subject % 2 else "no",
            "split": "train" if subject < subjects * (1 - test) else "test",
        }


def _write(
    file: Path,
    array: Num[np.ndarray, "z y x"],
    affine: np.ndarray,
    discrete: bool,
) -> None:
    # named like a NIfTI file, hidden until whole
    temporary = file.with_name(f".{os.getpid()}.{file.name}")
    write_nifti(temporary, new_volume(np.rint(array)[None], affine, discrete), dtype="int16")
    temporary.replace(file)


def centred_affine(size: int, spacing: float) -> Float[np.ndarray, "4 4"]:
    """Axes R, A, S, the middle of the head at 0."""
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = -(size - 1) / 2 * spacing
    return affine
