"""Masked pre-training on spectral imagery and pictures of many channels.

Your GeoTIFFs, ENVI cubes, microscopy stacks or spectra, or made scenes of eight materials:

    python experiments/spectral.py --data SCENES --bands 485,560,660,835 --out runs/scenes
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from multimask import evaluation, pictures
from multimask.checkpoints import load
from multimask.checkpoints.folder import write_whole
from multimask.cli.data import as_batch, parts_of
from multimask.cli.experiment import RunFlags, Study, build_recipe, carry_out
from multimask.cli.flags import run
from multimask.cli.study import sides, with_defaults
from multimask.datasets.formats.spectral import SpectralReader
from multimask.datasets.layouts.bigearthnet import bigearthnet
from multimask.datasets.layouts.chammi import chammi
from multimask.datasets.layouts.eurosat_ms import eurosat_ms
from multimask.datasets.layouts.hyperspectral_scenes import SCENES, hyperspectral_scene
from multimask.datasets.layouts.land_cover import land_cover_windows
from multimask.datasets.layouts.sensor_tiles import sensor_tiles
from multimask.datasets.layouts.so2sat import so2sat
from multimask.datasets.sensors import ORDERS, stated_bands
from multimask.datasets.synthetic_spectral import SENSORS, mixture_scenes
from multimask.datasets.table import Table
from multimask.modalities.spectral import FALSE_COLOUR, SpectralPatches
from multimask.modality import Tokenizer
from multimask.model import MaskedModel
from multimask.tokens import BadSample, Step

LOOK_AT = 256  # samples that bands, sizes, mean and spread are taken from
TRAIN, TEST = 1600, 400  # made scenes
LARGEST, PATCH = 64, 8  # pixels a side of a sample and a patch, where flags do not say
LAYOUTS: dict[str, Callable[[Path], Table]] = {
    "eurosat-ms": eurosat_ms,
    "bigearthnet": bigearthnet,
    "so2sat": so2sat,
    "chammi": chammi,
    "land-cover": land_cover_windows,
    **{name.replace("_", "-"): partial(hyperspectral_scene, scene=name) for name in SCENES},
}
Projections = Literal["shared", "bands"]


@dataclass(frozen=True, kw_only=True)
class Config(RunFlags):
    """Masked pre-training on spectral imagery and pictures of many channels."""

    out: Annotated[Path, "run folder"] = Path("runs/spectral")
    epochs: Annotated[int, "passes over the training rows; 0: 40, made scenes 12"] = 0
    batch_size: Annotated[int, "samples an optimiser step; 0: 32, made scenes 16"] = 0
    online_knn: Annotated[bool, "kNN accuracy after every epoch; reads all rows for it"] = False
    layout: Annotated[str | None, f"public set that --data holds: {', '.join(LAYOUTS)}"] = None
    bands: Annotated[
        tuple[str, ...],
        "what the bands are, in order, where files do not say: nm, channel names, or a sensor "
        f"({', '.join(ORDERS)}); of made scenes: nm, or {', '.join(SENSORS)}; default each its own",
    ] = ()
    only: Annotated[tuple[str, ...], "read only these bands of the files, by name or index"] = ()
    nodata: Annotated[float | None, "number that means missing, where files do not say"] = None
    image_size: Annotated[
        int | tuple[int, ...] | None, "pixels; default the smallest sample's, at most 64"
    ] = None
    patch: Annotated[int | tuple[int, ...] | None, "pixels of a patch; default 8"] = None
    group: Annotated[int, "neighbouring bands that share a token"] = 1
    projections: Annotated[
        Projections, "one linear layer for all bands, or one a band, mixed for those between"
    ] = "shared"
    sensors: Annotated[
        tuple[str, ...],
        "several in one model: --data holds a folder a scene, a raster a sensor, on one grid, and "
        "names begin so: s2,s1,dem or height=DEM.tif; cut into windows, split by blocks",
    ] = ()
    window: Annotated[int, "pixels a side of their windows"] = 16
    block: Annotated[int, "pixels a side of what is held out as a whole"] = 32
    classes: Annotated[str | None, "their raster of classes: the most frequent is the label"] = None
    also: Annotated[
        tuple[str, ...],
        "then encode the labelled samples through these other bands, beside random weights: "
        f"{', '.join(SENSORS)} for made scenes, B04+B03+B02 for a subset of a file's",
    ] = ()
    held_out: Annotated[float, "share held out for testing where the data name no split"] = 0.25
    split_by: Annotated[str | None, "column (scene, block) whose values stay on one side"] = None


# a small model that two cores train in minutes; with a GPU say --size small --decoder-width 256 ...
SMALL: dict[str, Any] = {
    "width": 96,
    "depth": 3,
    "heads": 3,
    "decoder_width": 64,
    "decoder_depth": 1,
    "decoder_heads": 4,
    "lr": 2e-3,
}
# made scenes are many, and their spectra stand in the patches' levels
MADE: dict[str, Any] = {"epochs": 12, "batch_size": 16, "normalise": False, "image_size": 16}
FILES: dict[str, Any] = {"epochs": 40, "batch_size": 32}


def main(config: Config) -> dict[str, Any]:
    config = completed(config)
    table = opened(config)
    train, test = parts_of(table, config.held_out, config.limit, config.split_by)
    modalities: dict[str, Tokenizer] = {}
    for name in table.readers:
        reader: Any = table.readers[name]  # all of them crop and flip
        tokenizer = fitted(looked_at(train, name), config, getattr(reader, "scale", 1.0))
        modalities[name] = tokenizer
        plain = replace(reader, size=tokenizer.size, flips=False)
        test = test.with_readers(**{name: plain})
        train = train.with_readers(**{name: replace(plain, flips=True)})
    label = config.label if config.label in table.columns else None
    study = Study(modalities, train, test, label)
    metrics = carry_out(config, study)
    draw_false_colour(config, study)
    if config.also:
        metrics["other_bands"] = other_bands(config, study)
        text = json.dumps(metrics, indent=1) + "\n"
        write_whole(config.out / "metrics.json", text.encode())
    return metrics


def completed(config: Config) -> Config:
    """Flags that were not given take the value that suits the data."""
    return with_defaults(config, SMALL | (MADE if config.data is None else FILES))


# --- data -----------------------------------------------------------------------------------------


def opened(config: Config) -> Table:
    """The table that the flags name."""
    if config.sensors and (config.data is None or config.layout or config.bands or config.only):
        raise ValueError("--sensors: reads folders of scenes, --data FOLDER, all bands of each.")
    if config.data is not None and config.sensors:
        return sensor_tiles(
            config.data,
            config.sensors,
            config.window,
            config.block,
            config.held_out,
            classes=config.classes,
        )
    if config.data is None:
        size = sides(config.image_size, "--image-size")
        if size[0] != size[1]:
            raise ValueError("--image-size: made scenes are square.")
        return scenes(size[0], config.bands, config.limit)
    if config.layout is not None:
        if config.layout not in LAYOUTS:
            raise ValueError(f"--layout {config.layout!r} must be one of {', '.join(LAYOUTS)}.")
        table = LAYOUTS[config.layout](config.data)
    else:
        names, nm = stated_bands(config.bands) if config.bands else ((), ())
        table = Table.open(config.data, "cube", SpectralReader(nm, names, nodata=config.nodata))
    if not config.only:
        return table
    kept = tuple(int(band) if band.isdigit() else band for band in config.only)
    readers: dict[str, Any] = dict(table.readers)
    return table.with_readers(**{n: replace(r, bands=kept) for n, r in readers.items()})


def scenes(size: int, bands: tuple[str, ...], limit: int | None) -> Table:
    train, test = (count if limit is None else min(count, limit) for count in (TRAIN, TEST))
    return mixture_scenes(train, test, size, made_wavelengths(bands))


def made_wavelengths(words: tuple[str, ...]) -> tuple[float, ...] | None:
    """The bands that see the made scenes: a sensor's name, or wavelengths; of none given, each
    scene's own."""
    if not words:
        return None
    if len(words) == 1 and words[0] in SENSORS:
        return SENSORS[words[0]]
    _, nm = stated_bands(words)
    if any(x != x for x in nm):
        raise ValueError(
            f"--bands {','.join(words)}: made scenes are seen by wavelengths in nm, or by a sensor "
            f"of {', '.join(SENSORS)}."
        )
    return nm


@dataclass
class Found:
    """What some samples hold: bands by wavelength or name with their sums, and sizes."""

    bands: int = 0
    height: int = 2**31
    width: int = 2**31
    sums: dict[float | str, Float[Tensor, " three"]] = field(default_factory=dict)

    def add(self, cube: Mapping[str, Any]) -> None:
        pixels = cube["pixels"].double()
        count, height, width = pixels.shape
        self.bands = max(self.bands, count)
        self.height, self.width = min(self.height, height), min(self.width, width)
        known = (~pixels.isnan()).sum(dim=(1, 2))
        sums = torch.stack(
            (known, pixels.nansum(dim=(1, 2)), pixels.square().nansum(dim=(1, 2))), dim=1
        )
        nm = cube.get("wavelengths", [float("nan")] * count)
        names = cube.get("names", [""] * count)
        for place, name, of_band in zip(map(float, nm), names, sums, strict=True):
            key = round(place, 3) if place == place else name
            if key == "":
                raise ValueError("the files do not say what their bands are; name them: --bands.")
            self.sums[key] = self.sums.get(key, torch.zeros(3).double()) + of_band

    def statistics(self, key: float | str) -> tuple[float, float]:
        """Mean and spread of a band; those of nothing are 0 and 1."""
        count, total, squares = self.sums[key].tolist()
        if not count:
            return 0.0, 1.0
        mean = total / count
        return mean, max(squares / count - mean**2, 1e-12) ** 0.5


def looked_at(train: Table, name: str) -> Found:
    """What is to be known of the samples before a tokenizer is made."""
    found = Found()
    reader: Any = train.readers[name]
    for index in range(0, len(train), max(1, len(train) // LOOK_AT)):
        source = train.select([index]).with_readers(**{name: replace(reader, size=None)})
        try:
            sample = source[0]
        except (BadSample, OSError):
            continue  # training meets it again, and counts and lists it
        if name in sample:
            found.add(sample[name])
    if not found.sums:
        raise ValueError(f"none of {len(train)} samples of {name!r} could be read.")
    return found


def fitted(found: Found, config: Config, scale: float) -> SpectralPatches:
    """The tokenizer that the flags and the data ask for."""
    patch = sides(PATCH if config.patch is None else config.patch, "--patch")
    if config.image_size is None:
        # whole patches of what all samples have; a sample smaller than a patch is one patch
        least = [min(side, LARGEST) for side in (found.height, found.width)]
        patch = (min(patch[0], least[0]), min(patch[1], least[1]))
        size = (least[0] // patch[0] * patch[0], least[1] // patch[1] * patch[1])
    else:
        size = sides(config.image_size, "--image-size")
    nm = tuple(key for key in found.sums if isinstance(key, float))
    names = tuple(key for key in found.sums if isinstance(key, str))
    statistics = [found.statistics(key) for key in (*nm, *names)]
    return SpectralPatches(
        size,
        patch,
        found.bands,
        min(config.group, found.bands),  # sensors of one model differ
        nm,
        names,
        mean=tuple(mean for mean, _ in statistics),
        std=tuple(std for _, std in statistics),
        projections=config.projections,
        scale=scale,
        nodata=config.nodata,
    )


# --- beyond what all experiments do ---------------------------------------------------------------


def draw_false_colour(config: Config, study: Study) -> None:
    """Held-out samples, what is visible, and the answers, as near infrared, red and green; nothing
    where no band lies in the near infrared."""
    model = load(config.out / "model")
    infrared = {
        name: replace(tokenizer, colours=FALSE_COLOUR)
        for name, tokenizer in spectral(model).items()
        if any(750 < nm < 1000 for nm in tokenizer.wavelengths)
    }
    if not infrared:
        return
    model.tokenizers.update(infrared)
    batch, _ = as_batch(study.test.head(6), model.tokenizers)
    masker = build_recipe(config, study.modalities, study.method_arguments).objective.masker
    drawn = pictures.reconstruction_rows(model, batch, masker, Step(config.seed))
    if drawn is not None:
        pictures.save(drawn, config.out / "false_colour.png")


def spectral(model: MaskedModel) -> dict[str, SpectralPatches]:
    return {n: t for n, t in model.tokenizers.items() if isinstance(t, SpectralPatches)}


def other_bands(config: Config, study: Study) -> dict[str, Any]:
    """What the features of samples seen through other bands are worth, beside random weights."""
    if study.label is None:
        raise ValueError(f"--also: needs labels to tell features apart, a column {config.label!r}.")
    report: dict[str, Any] = {}
    print("accuracy through other bands, linear probe (pretrained / random init, by seed)")
    for word in config.also:
        train, test = through(config, study, word)
        right: dict[str, list[Any]] = {"pretrained": [], "random_init": []}
        for seed in range(config.seed, config.seed + config.seeds):
            folder = config.out if seed == config.seed else config.out / f"seed-{seed}"
            torch.manual_seed(seed)
            fresh = build_recipe(config, study.modalities, study.method_arguments).model
            for name, model in (("pretrained", load(folder / "model")), ("random_init", fresh)):
                learned, scored = (
                    evaluation.embed(model, part, workers=config.workers, device=config.device)
                    for part in (train, test)
                )
                pairs = [x for e in (learned, scored) for x in (e.features, e.labels[study.label])]
                right[name].append(evaluation.linear_probe(*pairs, seed=seed).correct)
        outcome = evaluation.shows_learning(right["pretrained"], right["random_init"])
        between = outcome.interval
        report[word] = {
            "probe_accuracy": list(outcome.pretrained),
            "probe_accuracy_random_init": list(outcome.random_init),
            "gain_interval": [between.low, between.high],
            "shows_learning": outcome.learned,
        }
        by_seed = ", ".join(
            f"{a:.3f}/{b:.3f}" for a, b in zip(outcome.pretrained, outcome.random_init, strict=True)
        )
        print(f"  {word:<18}{by_seed}   gain in [{between.low:+.3f}, {between.high:+.3f}]")
    return report


def through(config: Config, study: Study, word: str) -> tuple[Table, Table]:
    """The same samples through other bands: training and test rows, neither augmented."""
    if config.data is None:
        size = sides(config.image_size, "--image-size")[0]
        seen = scenes(size, tuple(word.split("+")), config.limit)
        train, test = parts_of(seen, config.held_out, config.limit, config.split_by)
        return train, test
    kept = tuple(int(band) if band.isdigit() else band for band in word.split("+"))
    parts = []
    for part in (study.train, study.test):
        readers: dict[str, Any] = dict(part.readers)
        of_bands = {n: replace(r, bands=kept, flips=False) for n, r in readers.items()}
        parts.append(part.with_readers(**of_bands))
    return parts[0], parts[1]


if __name__ == "__main__":
    raise SystemExit(run(main, Config))
