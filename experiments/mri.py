"""Masked pre-training on MRI and CT volumes: your scans, or generated heads.

python experiments/mri.py --data SCANS --out runs/scans
python experiments/mri.py --data BRATS --layout brats --modalities t1,t1ce,t2,flair --segment seg
python experiments/mri.py --data brains.csv --modalities t1,t1ce,t2,flair   # blank cells are filled
"""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch

from multimask import evaluation, load, plugins
from multimask.checkpoints.folder import write_whole
from multimask.cli.answers import write_answers
from multimask.cli.data import parts_of, tell_skipped
from multimask.cli.experiment import RunFlags, Study, build_recipe, carry_out
from multimask.cli.fill import Fill, fill_table
from multimask.cli.fill_report import LISTING
from multimask.cli.flags import run
from multimask.datasets.cells import csv_names
from multimask.datasets.formats.volumes import VolumeReader
from multimask.datasets.layouts.bids import bids
from multimask.datasets.layouts.brats import brats
from multimask.datasets.layouts.dicom import dicom_series
from multimask.datasets.layouts.ixi import ixi
from multimask.datasets.layouts.msd import msd
from multimask.datasets.synthetic_volume import MIXED, heads
from multimask.datasets.table import Table
from multimask.datasets.volume_transforms import CropForeground, Orient, steps
from multimask.modalities.volume import VolumePatches
from multimask.modalities.volume_finetune import Scored, fit_segmenter, segmentation_dice
from multimask.modalities.volume_segmentation import Segmenter
from multimask.tokens import BadSample

LAYOUTS: dict[str, Callable[[Path], Table]] = {
    "bids": bids,
    "brats": brats,
    "dicom": dicom_series,
    "ixi": ixi,
    "msd": msd,
}
WINDOWS = {  # Hounsfield units
    "soft": (-160.0, 240.0),
    "lung": (-1000.0, 400.0),
    "bone": (-500.0, 1300.0),
    "brain": (0.0, 80.0),
}
WRITTEN = 4  # reconstructions that are left as NIfTI


@dataclass(frozen=True, kw_only=True)
class Config(RunFlags):
    """Pre-train a masked autoencoder on MRI or CT volumes and show what it learned."""

    out: Annotated[Path, "run folder"] = Path("runs/mri")
    epochs: Annotated[int, "passes over the training rows"] = 18
    batch_size: Annotated[int, "samples an optimiser step"] = 8
    method: Annotated[
        str, "pre-training method, by plug-in name; auto: mae, of several scans bm-mae"
    ] = "auto"
    fill: Annotated[bool, "afterwards, fill in the scans that rows lack, as NIfTI"] = True
    layout: Annotated[
        Literal["bids", "brats", "dicom", "ixi", "msd"] | None, "--data is a public set's folder"
    ] = None
    modalities: Annotated[
        tuple[str, ...], "scans of a sample, by column; default: scan, generated heads mixed"
    ] = ()
    channels: Annotated[int, "volumes along a file's fourth axis"] = 1
    volume_size: Annotated[int | tuple[int, ...] | None, "voxels (z, y, x) a model sees"] = None
    patch: Annotated[int | tuple[int, ...] | None, "voxels (z, y, x) of a patch"] = None
    spacing: Annotated[tuple[float, ...], "resample to this voxel size, mm or z,y,x mm"] = ()
    intensity: Annotated[
        str, "zscore, given (packed so), or a CT window: soft, lung, bone, brain, =LOW,HIGH in HU"
    ] = "zscore"
    foreground: Annotated[bool, "cut away the air around first; single scans only"] = False
    ragged: Annotated[
        bool | None, "take scans so small that no token is hidden; default: of one modality"
    ] = None
    flip: Annotated[float, "chance of exchanging left and right"] = 0.5
    held_out: Annotated[float, "share held out for testing where the data name no split"] = 0.25
    subjects: Annotated[int, "heads generated when there are no data"] = 400
    segment: Annotated[str | None, "column with label maps to fine-tune on afterwards"] = None
    classes: Annotated[int | None, "label numbers, 0 among them; default: as found"] = None
    segment_epochs: Annotated[int, "passes of the fine-tuning"] = 40
    segment_width: Annotated[int, "channels of its head at full resolution"] = 16
    segment_lr: Annotated[float, "its learning rate"] = 1e-3


# generated heads: a small model that two cores train in minutes
GENERATED = {
    "volume_size": 32,
    "patch": 8,
    "width": 96,
    "depth": 4,
    "heads": 4,
    "decoder_width": 48,
    "decoder_depth": 1,
    "decoder_heads": 4,
    "normalise": False,
    "lr": 2e-3,
}
# scans: what two cores train; with a GPU say --size base --volume-size 96 --patch 16
SCANS = GENERATED | {"volume_size": 64, "width": 192, "depth": 4, "heads": 6}
SCANS |= {"decoder_width": 96, "lr": 1e-3}


def main(config: Config) -> dict[str, Any]:
    config = with_defaults(config)
    table = opened(config)
    if not config.modalities:
        first = next(name for name in table.readers if name != config.segment)
        config = replace(config, modalities=(first,))
    if missing := sorted(set(config.modalities) - set(table.readers)):
        raise ValueError(
            f"--modalities {missing[0]}: there is no such scan; there are "
            f"{', '.join(table.readers)}."
        )
    if config.foreground and (len(config.modalities) > 1 or config.segment is not None):
        raise ValueError(
            "--foreground: the box depends on the scan, so several scans of a sample or label "
            "maps would not lie on each other; crop them before."
        )
    if config.segment is not None and config.segment not in table.columns:
        raise ValueError(
            f"--segment {config.segment}: there is no such column; columns are "
            f"{', '.join(table.columns)}."
        )
    train, test = parted(table, config)
    study = Study(
        {name: tokenizer(config) for name in config.modalities},
        scans(train, config, augment=True),
        scans(test, config),
        config.label if config.label in table.columns else None,
        method_arguments(config),
    )
    metrics = carry_out(config, study)
    masker = build_recipe(config, study.modalities, study.method_arguments).objective.masker
    written = write_answers(
        load(config.out / "model"),
        study.test.head(WRITTEN),
        replace(masker, ragged=True),
        config.seed,
        config.out / "nifti",
    )
    print(f"as NIfTI          {', '.join(str(file) for file in written)}")
    if config.fill:
        fill_gaps(config, table)
    if config.segment is None:
        return metrics
    metrics |= segmented(config, study, train, test)
    write_whole(config.out / "metrics.json", (json.dumps(metrics, indent=1) + "\n").encode())
    return metrics


# --- the table ------------------------------------------------------------------------------------


def with_defaults(config: Config) -> Config:
    """Flags that were not given take the value that suits the data."""
    if config.method == "auto":
        config = replace(config, method="bm-mae" if len(config.modalities) > 1 else "mae")
    defaults = GENERATED if config.data is None else SCANS
    if config.size != "tiny":  # a published size was asked for
        defaults = {n: v for n, v in defaults.items() if n not in ("width", "depth", "heads")}
    if not takes(config.method, "normalise"):
        defaults = {n: v for n, v in defaults.items() if n != "normalise"}
    unset = {name: value for name, value in defaults.items() if getattr(config, name) is None}
    if config.data is None and not config.modalities:
        unset["modalities"] = (MIXED,)
    return replace(config, **unset)


def opened(config: Config) -> Table:
    """The samples, by column; no file is read yet."""
    if config.data is None:
        size = max(sides(config.volume_size, "--volume-size"))
        listing = heads(config.subjects, config.modalities, size=size, test=0.5)
        return Table.from_csv(listing, (*config.modalities, "seg"), VolumeReader())
    if config.layout is not None:
        return LAYOUTS[config.layout](config.data)
    if config.data.suffix.lower() not in (".csv", ".parquet"):
        try:
            return Table.open(config.data, "scan", VolumeReader())
        except ValueError as error:
            if ".dcm" not in str(error):
                raise
            raise ValueError(f"{error} --layout dicom reads folders of DICOM series.") from error
    read = Table.from_csv if config.data.suffix.lower() == ".csv" else Table.from_parquet
    names = {name: name for name in config.modalities} or {scan_column(config.data): "scan"}
    if config.segment is not None:
        names[config.segment] = config.segment
    table = read(config.data, names, VolumeReader())
    subjects = list(table.columns["subject"]) if "subject" in table.columns else []
    listed = csv_names(config.data) if config.data.suffix.lower() == ".csv" else ["id"]
    if "id" in listed or None in subjects or len(set(subjects)) != len(table):
        return table
    return table.with_columns(id=list(map(str, subjects)))  # not the path of one of its scans


def scan_column(listing: Path) -> str:
    """The column of a listing that holds scans if nothing is said."""
    found = csv_names(listing) if listing.suffix.lower() == ".csv" else []
    return next((name for name in ("scan", "image", "file", "path") if name in found), "scan")


def parted(table: Table, config: Config) -> tuple[Table, Table]:
    """Training and test rows; a subject's scans are on one side."""
    if "split" in table.columns or "subject" not in table.columns:
        train, test = parts_of(table, config.held_out, None)
    else:
        train, test = table.split_off(config.held_out, by="subject")
    if config.segment is not None and test.columns[config.segment].missing.all():
        train, test = train.split_off(config.held_out)  # the test part of a challenge has no maps
    limit = config.limit
    return (train, test) if limit is None else (train.head(limit), test.head(limit))


def scans(table: Table, config: Config, augment: bool = False) -> Table:
    """The chosen scans as boxes, and what is not a file; rows that have none of them left out."""
    names = config.modalities
    columns = {n: c for n, c in table.columns.items() if n in names or n not in table.readers}
    made = Table.of(columns, dict.fromkeys(names, reader(config, augment=augment)), table.root)
    return made.select(~np.all(list(made.missing().values()), axis=0))


def reader(
    config: Config, augment: bool = False, labels: bool = False, whole: bool = False
) -> VolumeReader:
    size = None if whole else sides(config.volume_size, "--volume-size")
    made = steps(
        size,
        spacing(config),
        intensity(config),
        labels=labels,
        augment=augment,
        flip=config.flip,
    )
    if config.foreground:
        above = 0.0 if isinstance(intensity(config), str) else -300.0  # HU: air is below
        made = (Orient("RAS"), CropForeground(above), *made[1:])
    return VolumeReader(made, channels=1 if labels else config.channels, labels=labels)


def tokenizer(config: Config) -> VolumePatches:
    return VolumePatches(
        sides(config.volume_size, "--volume-size"),
        sides(config.patch, "--patch"),
        config.channels,
        spacing=spacing(config),
        intensity=intensity(config),
    )


def sides(size: int | tuple[int, ...] | None, flag: str) -> tuple[int, int, int]:
    """(z, y, x) of a flag that may give one side of a cube."""
    given = (size,) * 3 if isinstance(size, int) else size or ()
    if len(given) != 3:
        raise ValueError(f"{flag}: write one side, 64, or z, y and x, 32x64x64.")
    return given[0], given[1], given[2]


def spacing(config: Config) -> float | tuple[float, float, float] | None:
    given = config.spacing
    if len(given) not in (0, 1, 3):
        raise ValueError(f"--spacing {given}: write one number of mm, or three: z,y,x.")
    if len(given) == 3:
        return given[0], given[1], given[2]
    return given[0] if given else None


def intensity(config: Config) -> str | tuple[float, float]:
    """What is done to numbers: see `VolumePatches`."""
    if config.intensity in ("zscore", "given"):
        return config.intensity
    if config.intensity in WINDOWS:
        return WINDOWS[config.intensity]
    try:
        low, high = map(float, config.intensity.split(","))
    except ValueError as error:
        raise ValueError(
            f"--intensity {config.intensity}: write zscore, given, {', '.join(WINDOWS)}, or "
            "=LOW,HIGH in HU."
        ) from error
    return low, high


def method_arguments(config: Config) -> dict[str, Any]:
    """Scans smaller than the box have fewer tokens than others. Where modalities are missing as
    well, `fit` lowers what stays visible instead, so that every row has something to answer for."""
    if config.ragged is None:
        one = len(config.modalities) == 1
        return {"ragged": True} if one and takes(config.method, "ragged") else {}
    return {"ragged": config.ragged}


def takes(method: str, argument: str) -> bool:
    return argument in inspect.signature(plugins.load("methods", method)).parameters


def fill_gaps(config: Config, table: Table) -> None:
    """What rows lack, written from what they have on the grid of their other scans."""
    whole = scans(table, config)
    if not np.any(list(whole.missing().values())):
        return
    asked = Fill(
        model=config.out / "model",
        data=config.data or Path("generated"),
        out=config.out / "filled",
        batch_size=config.batch_size,
        device=config.device,
        seed=config.seed,
    )
    try:
        filled = fill_table(load(asked.model), whole, asked)
    except ValueError as error:  # a method that cannot answer for whole scans has still trained
        print(f"not filled        {error}")
        return
    tell_skipped(filled.skipped)
    print(f"filled            {len(filled.files)} scans: {asked.out / LISTING}")


# --- segmentation ---------------------------------------------------------------------------------


def segmented(config: Config, study: Study, train: Table, test: Table) -> dict[str, Any]:
    """Fine-tune every seed's model and its initial weights alike; Dice over whole test volumes."""
    name = str(config.segment)
    train, test = (part.select(~part.columns[name].missing) for part in (train, test))
    learned_on = with_maps(train, config, augment=True)
    scored_on = with_maps(test, config, whole=True)
    classes = config.classes or found_classes(with_maps(train, config, whole=True), name)
    print(
        f"\nfine-tuning on {len(train)} label maps of {classes} classes, {len(test)} to test",
        flush=True,
    )
    pretrained, random_init = [], []
    for seed in range(config.seed, config.seed + config.seeds):
        folder = config.out if seed == config.seed else config.out / f"seed-{seed}"
        torch.manual_seed(seed)
        initial = build_recipe(config, study.modalities, study.method_arguments).model
        for model, scores in ((load(folder / "model"), pretrained), (initial, random_init)):
            torch.manual_seed(seed)
            segmenter = Segmenter(model, classes, config.segment_width)
            fit_segmenter(
                segmenter,
                learned_on,
                name,
                epochs=config.segment_epochs,
                lr=config.segment_lr,
                seed=seed,
                workers=config.workers,
                device=config.device,
                progress=False,
            )
            scores.append(segmentation_dice(segmenter, scored_on, name))
            print(f"seed {seed}: Dice {scores[-1].by_volume.mean():.3f}", flush=True)
    return compared(pretrained, random_init)


def with_maps(table: Table, config: Config, augment: bool = False, whole: bool = False) -> Table:
    """The chosen scans and their label maps, cut alike."""
    name = str(config.segment)
    readers = dict.fromkeys(config.modalities, reader(config, augment, whole=whole))
    readers[name] = reader(config, augment, labels=True, whole=whole)
    columns = {n: c for n, c in table.columns.items() if n in readers or n == "id"}
    return Table.of(columns, readers, table.root)


def found_classes(table: Table, name: str) -> int:
    """One more than the largest number in the label maps that can be read."""
    largest = 0
    for index in range(len(table)):
        try:
            largest = max(largest, int(table[index][name].data.max()))
        except (BadSample, OSError):
            continue  # fine-tuning meets it again, and counts and lists it
    if not largest:
        raise ValueError(f"--segment {name}: the label maps hold nothing but background.")
    return largest + 1


def compared(pretrained: list[Scored], random_init: list[Scored]) -> dict[str, Any]:
    after, before = ([s.by_volume for s in scores] for scores in (pretrained, random_init))
    found = evaluation.shows_learning(after, before)
    low, high = found.interval.low, found.interval.high
    print(
        f"Dice (by MONAI)   pretrained {np.mean(found.pretrained):.3f}, random init "
        f"{np.mean(found.random_init):.3f}; gain {found.interval.mean:+.3f}, 95 % interval "
        f"[{low:+.3f}, {high:+.3f}] over {found.items} volumes"
    )
    for skipped in pretrained[0].skipped:
        print(f"  could not be scored: {': '.join(skipped)}")
    return {
        "dice": float(np.mean(found.pretrained)),
        "dice_random_init": float(np.mean(found.random_init)),
        "dice_by_seed": list(found.pretrained),
        "dice_random_init_by_seed": list(found.random_init),
        "dice_by_class": np.mean([s.by_class for s in pretrained], axis=0).tolist(),
        "dice_by_class_random_init": np.mean([s.by_class for s in random_init], axis=0).tolist(),
        "dice_gain_interval": [low, high],
        "dice_test_volumes": found.items,
    }


if __name__ == "__main__":
    raise SystemExit(run(main, Config))
