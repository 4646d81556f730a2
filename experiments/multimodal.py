"""Masked pre-training on aligned maps: several columns of your table, or embedded photographs taken
apart into brightness, colour, edges and a map of materials.

python experiments/multimodal.py --data TABLE.csv --modalities rgb=image,depth=depth-map \\
    --out runs/rooms
"""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch

from multimask import plugins
from multimask.checkpoints.folder import write_whole
from multimask.cli.crossmodal import crossed
from multimask.cli.data import (
    cut_not_resized,
    kind_of,
    parts_of,
    plain_reader,
    reader_of,
    rule_of,
    tokenizer_of,
)
from multimask.cli.experiment import RunFlags, Study, carry_out
from multimask.cli.flags import run
from multimask.datasets.formats.spectral import SpectralReader
from multimask.datasets.photograph_layers import MATERIALS, photograph_layers
from multimask.datasets.table import Table
from multimask.datasets.transforms import RandomResizedCrop
from multimask.masking import Dirichlet, Dropped, Masker, Ratio, Uniform
from multimask.masking.budgets import Budget
from multimask.modalities.depth_maps import DepthMaps
from multimask.modalities.image import ImagePatches
from multimask.modality import Tokenizer
from multimask.tokens import BadSample, Part

STATISTICS_FROM = 256  # rows that means, spreads and classes are measured on


@dataclass(frozen=True, kw_only=True)
class Config(RunFlags):
    """Pre-train on samples of several aligned maps and answer each map from the others."""

    out: Annotated[Path, "run folder"] = Path("runs/multimodal")
    method: Annotated[str, "multimae, phg-mae, mae, ..., by plug-in name"] = "multimae"
    epochs: Annotated[int, "passes over the training rows"] = 36
    batch_size: Annotated[int, "samples an optimiser step"] = 16
    online_knn: Annotated[bool, "kNN accuracy after every epoch; reads all rows for it"] = False
    modalities: Annotated[
        tuple[str, ...], "columns and their kinds: rgb=image,depth=depth-map,labels=label-map"
    ] = ()
    image_size: Annotated[int | tuple[int, ...], "pixels that a model sees of every map"] = 32
    patch: Annotated[int | tuple[int, ...], "pixels of a patch"] = 8
    set: Annotated[
        tuple[str, ...], "fields of a column's tokenizer: rgb.channels=4,labels.classes=9"
    ] = ()
    drop: Annotated[
        float | None, "chance that a map is hidden whole, 0 for never, instead of Dirichlet draws"
    ] = None
    alpha: Annotated[
        float | None, "of the Dirichlet draws that share out what is visible; default 1, MultiMAE's"
    ] = None
    aligned: Annotated[
        tuple[str, ...],
        "columns on one grid, which is checked; others are cropped for themselves. Else all alike",
    ] = ()
    crop: Annotated[
        float | None, "smallest share of a map that a crop shows; default 0.4, embedded all"
    ] = None
    flip: Annotated[float, "chance of mirroring"] = 0.5
    held_out: Annotated[float, "share held out for testing where the data name no split"] = 0.25


# what two cores train in a minute or two
SMALL = {
    "width": 96,
    "depth": 4,
    "heads": 4,
    "decoder_width": 64,
    "decoder_depth": 1,
    "decoder_heads": 4,
    "normalise": False,  # answers in the maps' own scale
    "ratio": 0.5,
    "lr": 1e-3,
}
LAYERS = {"grey": "image", "colour": "image", "edges": "depth-map", "materials": "label-map"}
LAYERS_SET = ("grey.channels=1", "edges.scale=fixed", "edges.hole=null")


def main(config: Config) -> dict[str, Any]:
    config = with_defaults(config)
    kinds = dict(named_kind(text) for text in config.modalities)
    table = opened(config, kinds)
    if config.aligned:
        table = table.with_aligned(config.aligned)
    train, test = parts_of(table, config.held_out, config.limit)
    tokenizers = {name: tokenizer(config, name, kind, train) for name, kind in kinds.items()}
    train = augmented(train, kinds, tokenizers, config)
    test = as_wanted(test, kinds, tokenizers)
    label = config.label if config.label in table.columns else None
    study = Study(tokenizers, train, test, label, method_arguments(config, tokenizers))
    metrics = carry_out(without_masker_flags(config), study)
    metrics |= {"crossmodal": crossed(config, study)}
    write_whole(config.out / "metrics.json", (json.dumps(metrics, indent=1) + "\n").encode())
    return metrics


# --- what is asked for ----------------------------------------------------------------------------


def with_defaults(config: Config) -> Config:
    """Flags that were not given take the value that suits the data."""
    defaults: dict[str, Any] = dict(SMALL)
    if config.size != "tiny":  # a published size was asked for
        defaults = {name: SMALL[name] for name in ("ratio", "normalise")}
    takes = inspect.signature(plugins.load("methods", config.method)).parameters
    defaults = {name: value for name, value in defaults.items() if name in takes or name == "lr"}
    if "masker" in takes:
        defaults["ratio"] = SMALL["ratio"]
    if config.drop is not None and not 0 <= config.drop < 1:
        raise ValueError(f"--drop {config.drop}: a chance to be hidden, at least 0 and below 1.")
    for flag, known in (("drop", {"masker", "keep"}), ("alpha", {"masker"})):
        if getattr(config, flag) is not None and not known & set(takes):
            raise ValueError(
                f"--{flag}: method {config.method!r} decides by itself what is hidden."
            )
    if config.drop is not None and config.alpha is not None:
        raise ValueError(f"--drop {config.drop} and --alpha {config.alpha}: give one of them.")
    unset = {name: value for name, value in defaults.items() if getattr(config, name) is None}
    if config.data is None:
        if config.modalities:
            chosen = dict(named_kind(text, LAYERS) for text in config.modalities)
        else:
            chosen = LAYERS
        unset["modalities"] = tuple(f"{name}={kind}" for name, kind in chosen.items())
        materials = f"materials.classes={MATERIALS}"
        unset["set"] = (*LAYERS_SET, materials, *config.set)
    elif not config.modalities:
        raise ValueError(
            "--modalities: say which columns are maps of which kind, such as "
            "rgb=image,depth=depth-map,labels=label-map."
        )
    return replace(config, **unset)


def named_kind(text: str, known: Mapping[str, str] | None = None) -> tuple[str, str]:
    """`rgb=image` as a pair; of the embedded maps the name is enough."""
    name, _, kind = text.partition("=")
    if known is not None and name not in known:
        raise ValueError(f"--modalities {name}: embedded maps are {', '.join(known)}.")
    kind = kind or ("" if known is None else known[name])
    if not name or not kind:
        raise ValueError(f"--modalities {text}: write column=kind, such as depth=depth-map.")
    return name, kind


def opened(config: Config, kinds: Mapping[str, str]) -> Table:
    """The samples, by column; no file is read yet."""
    height, width = sides(config.image_size)
    if config.data is None and height != width:
        raise ValueError(f"--image-size {height}x{width}: crops of the photographs are squares.")
    path = config.data or photograph_layers(height)
    if path.suffix.lower() in (".csv", ".parquet"):
        listed = Table.from_csv if path.suffix.lower() == ".csv" else Table.from_parquet
        table = listed(path, list(kinds))
    else:
        table = Table.open(path)
    if missing := sorted(set(kinds) - set(table.readers)):
        raise ValueError(
            f"--modalities {missing[0]}: {path} has no such column of maps; it has "
            f"{', '.join(table.readers)}."
        )
    columns = {n: c for n, c in table.columns.items() if n in kinds or n not in table.readers}
    return Table.of(columns, {name: plain_reader(kind) for name, kind in kinds.items()}, table.root)


def as_wanted(
    table: Table,
    kinds: Mapping[str, str],
    tokenizers: Mapping[str, Tokenizer],
    augment: bool = False,
) -> Table:
    """Read the way that the tokenizers want. Maps beside bands are cut as these are, the same
    window of all, and not mirrored."""
    plain = {name: reader_of(kind, tokenizers[name], False) for name, kind in kinds.items()}
    if len({isinstance(reader, SpectralReader) for reader in plain.values()}) > 1:
        cut = {name: cut_not_resized(reader, tokenizers[name]) for name, reader in plain.items()}
        return table.with_readers(**cut)
    return table.with_readers(
        **{name: reader_of(kind, tokenizers[name], augment) for name, kind in kinds.items()}
    )


def augmented(
    table: Table, kinds: Mapping[str, str], tokenizers: Mapping[str, Tokenizer], config: Config
) -> Table:
    """Random crops and flips, the same for all maps, or for those that are declared aligned."""
    made, readers = as_wanted(table, kinds, tokenizers, augment=True), {}
    share = config.crop or (1.0 if config.data is None else 0.4)
    ratio = (1.0, 1.0) if share == 1 else (3 / 4, 4 / 3)
    for name, reader in made.readers.items():
        if isinstance(getattr(reader, "transform", None), RandomResizedCrop):
            crop = RandomResizedCrop(
                sides(config.image_size), scale=(share, 1.0), ratio=ratio, flip=config.flip
            )
            reader = replace(reader, transform=crop)  # pyright: ignore[reportArgumentType]
        readers[name] = reader
    return made.with_readers(**readers)


def sides(size: int | tuple[int, ...]) -> tuple[int, int]:
    """(height, width) of a size that may be one side of a square."""
    given = (size, size) if isinstance(size, int) else size
    if len(given) != 2:
        raise ValueError(f"--image-size {given}: write one side, 64, or height x width, 96x160.")
    return given[0], given[1]


def tokenizer(config: Config, name: str, kind: str, train: Table) -> Tokenizer:
    """The column's tokenizer: shared sizes, its own fields, and what the training rows tell."""
    given = [text.partition(".")[2] for text in config.set if text.partition(".")[0] == name]
    takes = {f.name for f in fields(plugins.load("modalities", kind))}
    said = {text.partition("=")[0].strip() for text in given}
    for field, value in (("size", config.image_size), ("patch", config.patch)):
        if field in takes and field not in said:
            sides = (value,) if isinstance(value, int) else value
            given.append(f"{field}={'x'.join(map(str, sides))}")
    if "classes" in takes and "classes" not in said:
        given.append(f"classes={num_classes(train, name)}")
    made = tokenizer_of(kind, given)
    if {"mean", "std"} & said:
        return made
    if isinstance(made, ImagePatches):
        mean, std = statistics(replace(made, mean=0.0, std=1.0), name, train)
        return replace(made, mean=tuple(mean), std=tuple(std))
    if isinstance(made, DepthMaps) and made.scale == "fixed":
        (mean,), (std,) = statistics(replace(made, mean=0.0, std=1.0), name, train)
        return replace(made, mean=mean, std=std)
    return made


def some_rows(train: Table) -> range:
    return range(0, len(train), max(1, len(train) // STATISTICS_FROM))


def num_classes(train: Table, name: str) -> int:
    """One more than the largest class in some training rows that can be read; 255 is unknown."""
    largest = -1
    for index in some_rows(train):
        try:
            values = torch.as_tensor(train[index].get(name, 255))
        except (BadSample, OSError):
            continue  # training meets it again, and counts and lists it
        known = values[values != 255]
        largest = max(largest, int(known.max()) if known.numel() else -1)
    if largest < 0:
        raise ValueError(f"column {name!r}: none of the maps that were read holds a class.")
    return largest + 1


def statistics(
    made: ImagePatches | DepthMaps, name: str, train: Table
) -> tuple[list[float], list[float]]:
    """Mean and spread of every channel's token values, over some training rows."""
    channels = made.channels if isinstance(made, ImagePatches) else 1
    rows = train.with_readers(**{name: reader_of(kind_of(made), made, augment=False)})
    sums, squares, count = torch.zeros(3, channels, dtype=torch.float64)
    for index in some_rows(rows):
        try:
            data = made.collate([rows[index][name]])
        except (BadSample, OSError, KeyError):
            continue  # training meets it again, and counts and lists it; or the row lacks it
        values = made(Part(data, torch.arange(1))).values.double().view(-1, channels)
        sums = sums + values.nan_to_num().sum(dim=0)
        squares = squares + values.nan_to_num().square().sum(dim=0)
        count = count + (~values.isnan()).sum(dim=0)
    if not bool(count.all()):
        raise ValueError(f"column {name!r}: none of {len(train)} rows could be read.")
    mean = sums / count
    std = (squares / count - mean.square()).clamp(min=1e-6).sqrt()
    return mean.tolist(), std.tolist()


def method_arguments(config: Config, tokenizers: Mapping[str, Tokenizer]) -> dict[str, Any]:
    """Who is hidden, in the words of the method; its own budget where nothing was said."""
    takes = inspect.signature(plugins.load("methods", config.method)).parameters
    drop, made = config.drop, {}
    if "normed" in takes:
        made["normed"] = ()  # answers are scored and drawn as they are
    if "masker" in takes:
        of: Budget = Ratio(config.ratio or SMALL["ratio"])
        if drop is None:
            of = Dirichlet(of, config.alpha or 1.0)
        elif drop > 0:
            of = Dropped(of, keep=1 - drop)
        rule = Uniform() if config.masker is None else rule_of(config.masker, tokenizers)
        made["masker"] = Masker(rule, of)
    elif drop is not None and "keep" in takes:
        made["keep"] = 1 - drop
    return made


def without_masker_flags(config: Config) -> Config:
    """Where the method was handed its masker, ratio and rule are said."""
    takes = inspect.signature(plugins.load("methods", config.method)).parameters
    return replace(config, ratio=None, masker=None) if "masker" in takes else config


if __name__ == "__main__":
    raise SystemExit(run(main, Config))
