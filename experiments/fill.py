"""How well gaps are filled in your own table: hold entries back, train, fill, compare.

python experiments/fill.py --data rooms.csv --modalities rgb=image,depth=depth-map,seg=label-map
python experiments/fill.py --data TILES --modalities s2=spectral,s1=spectral,dem=depth-map
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from multimask import evaluation, fit, load, pictures, plugins
from multimask.checkpoints.folder import write_whole
from multimask.cli.data import parts_of, plain_reader, reader_of, tell_skipped, tokenizer_of
from multimask.cli.experiment import build_recipe
from multimask.cli.fill import Fill, fill_table
from multimask.cli.fill_report import Filled
from multimask.cli.fill_scores import (
    Entry,
    Planes,
    Score,
    hold_back,
    mean_answers,
    nearest_rows,
    plane,
    score,
    without,
)
from multimask.cli.flags import run, to_yaml
from multimask.cli.study import RunFlags, with_defaults
from multimask.datasets.formats.spectral import SpectralReader
from multimask.datasets.layouts.sensor_tiles import sensor_tiles
from multimask.datasets.remembered import Remembered
from multimask.datasets.table import Table
from multimask.datasets.transforms import RandomResizedCrop
from multimask.modalities.label_maps import LabelMaps
from multimask.modality import Tokenizer
from multimask.sizes import pair
from multimask.tokens import BadSample, Part
from multimask.training.memory import keep_freed_memory

LOOK_AT = 256  # training rows that means, spreads and classes are taken from
DRAWN = 4  # entries of each modality in filled.png


@dataclass(frozen=True, kw_only=True)
class Config(RunFlags):
    """Hold entries of a table back, train on the rest, fill them in and compare with the truth."""

    data: Annotated[
        Path | None, "CSV with a column a modality, or a folder of scenes, a raster a sensor"
    ] = None
    out: Annotated[Path, "run folder"] = Path("runs/fill")
    modalities: Annotated[
        tuple[str, ...], "columns (of scenes: how a raster's name begins) and kinds: rgb=image"
    ] = ()
    set: Annotated[
        tuple[str, ...], "fields of a column's tokenizer: depth.unit=0.001,seg.numbers=1/2-255"
    ] = ()
    hold_back: Annotated[float, "share of all entries that is held back"] = 0.3
    method: Annotated[str, "phg-mae, multimae, bm-mae, mae ..., by plug-in name"] = "phg-mae"
    epochs: Annotated[int, "passes over the training rows"] = 100
    batch_size: Annotated[int, "samples an optimiser step"] = 32
    image_size: Annotated[int | tuple[int, ...], "pixels that a model sees; windows of scenes"] = 16
    patch: Annotated[int | tuple[int, ...], "pixels of a patch"] = 4
    crop: Annotated[
        float, "least share of a picture's area that a training crop shows, 1 for none"
    ] = 0.8
    block: Annotated[int, "of scenes: pixels a side of what is held out for testing"] = 32
    held_out: Annotated[float, "share of rows held out where the data name no split"] = 0.4
    draws: Annotated[int, "random parts that the spread is taken over"] = 8


# what two cores train in minutes
SMALL = {
    "width": 96,
    "depth": 4,
    "heads": 4,
    "decoder_width": 64,
    "decoder_depth": 2,
    "decoder_heads": 4,
    "lr": 2e-3,
}


def main(config: Config) -> dict[str, Any]:
    data = config.data
    if data is None:
        raise ValueError("--data: name your table or folder of scenes.")
    config = with_defaults(config, SMALL)
    if config.keep_memory:
        keep_freed_memory()
    torch.manual_seed(config.seed)
    kinds = dict(text.split("=", 1) for text in config.modalities if "=" in text)
    if len(kinds) < 2 or len(kinds) != len(config.modalities):
        raise ValueError("--modalities: write two or more, each column=kind, such as rgb=image.")
    table = opened(config, data, kinds)
    entries = hold_back(table.missing(), config.hold_back, config.seed)
    holes = without(table, entries)
    train, _ = parts_of(holes, config.held_out, config.limit)
    tokenizers = {name: fitted(config, name, kind, train) for name, kind in kinds.items()}
    plain, turning = (
        fitted_readers(config, kinds, tokenizers, table, augment) for augment in (False, True)
    )
    config.out.mkdir(parents=True, exist_ok=True)
    write_whole(config.out / "config.yaml", to_yaml(config).encode())
    recipe = build_recipe(config, tokenizers)
    print(recipe.model.describe(recipe.objective.masker), flush=True)
    training = dict(recipe.training) | {"lr": config.lr, "lr_per": None}
    fit(
        recipe.model,
        recipe.objective,
        train.with_readers(**turning),
        epochs=config.epochs,
        batch_size=config.batch_size,
        out=config.out,
        seed=config.seed,
        workers=config.workers,
        device=config.device,
        pictures=False,
        **training,
    )
    recipe.model.save(config.out / "model")
    asked = Fill(
        model=config.out / "model",
        data=data,
        out=config.out / "filled",
        draws=config.draws,
        seed=config.seed,
        device=config.device,
    )
    holes, table = holes.with_readers(**plain), table.with_readers(**plain)
    filled = fill_table(load(asked.model), holes, asked)
    tell_skipped(filled.skipped)
    training_rows = np.isin(list(table.columns["id"]), list(train.columns["id"]))
    report = compared(config, tokenizers, table, holes, training_rows, entries, filled)
    write_whole(config.out / "metrics.json", (json.dumps(report, indent=1) + "\n").encode())
    return report


# --- the table ------------------------------------------------------------------------------------


def opened(config: Config, path: Path, kinds: dict[str, str]) -> Table:
    if path.is_dir():
        size = pair(config.image_size)
        given = {name: plain_reader(kind) for name, kind in kinds.items() if kind != "spectral"}
        if "image" in kinds.values() or size[0] != size[1]:
            raise ValueError("--data FOLDER: scenes are rasters, cut into square windows.")
        return sensor_tiles(
            path,
            list(kinds),
            size[0],
            config.block,
            config.held_out,
            config.seed,
            readers=given,
        )
    read = Table.from_parquet if path.suffix.lower() == ".parquet" else Table.from_csv
    return read(path, list(kinds), {name: plain_reader(kind) for name, kind in kinds.items()})


def fitted_readers(
    config: Config,
    kinds: dict[str, str],
    tokenizers: dict[str, Tokenizer],
    table: Table,
    augment: bool,
) -> dict[str, Any]:
    """Windows are mirrored and turned to train on; pictures cropped and mirrored, but little, for
    whole ones are filled: all maps of a row alike."""
    made: dict[str, Any] = {}
    for name, kind in kinds.items():
        reader: Any = table.readers[name]
        if config.data is None or not config.data.is_dir():
            made[name] = reader_of(kind, tokenizers[name], augment)
            if isinstance(crop := getattr(made[name], "transform", None), RandomResizedCrop):
                height, width = pair(config.image_size)
                box = {"scale": (config.crop, 1.0), "ratio": (width / height, width / height)}
                made[name] = replace(made[name], transform=replace(crop, **box))
            continue
        if isinstance(reader, SpectralReader):
            plain: Any = replace(reader, flips=False)
        else:
            fitting: Any = reader_of(kind, tokenizers[name], False)
            plain = replace(fitting, transform=None)
        made[name] = Remembered(plain) if augment else plain
    return made


# --- tokenizers -----------------------------------------------------------------------------------


def fitted(config: Config, name: str, kind: str, train: Table) -> Tokenizer:
    """A column's tokenizer: what the flags say of it, and what some training rows tell."""
    said = [t.partition(".")[2] for t in config.set if t.partition(".")[0] == name]
    groups = next((t.partition("=")[2] for t in said if t.startswith("numbers=")), "")
    said = [t for t in said if not t.startswith("numbers=")]
    asked = {t.partition("=")[0] for t in said}
    takes = {f.name for f in fields(plugins.load("modalities", kind))}
    for given, value in (("size", config.image_size), ("patch", config.patch)):
        if given in takes and given not in asked:
            said.append(f"{given}={'x'.join(map(str, pair(value)))}")
    if kind == "label-map":
        numbers = tuple(map(listed, groups.split("/"))) if groups else ()
        if "classes" not in asked:
            said.append(f"classes={len(numbers) or most(train, name) + 1}")
        made: Any = tokenizer_of(kind, said)
        return replace(made, numbers=numbers)
    if kind == "depth-map":
        made = tokenizer_of(kind, [*said, *([] if "scale" in asked else ["scale=fixed"])])
        values = [plane(made, v) for v in some(train, name, reader_of(kind, made, False))]
        channels = statistics(values)
        return replace(made, mean=float(channels[0][0]), std=float(channels[1][0]))
    if kind == "spectral":
        reader: Any = train.readers[name]
        cubes = some(train, name, reader)
        values = [cube["pixels"].double().numpy() for cube in cubes]
        mean, std = statistics(values)
        nm = tuple(float(x) for x in cubes[0].get("wavelengths", ()))
        names = () if nm else tuple(cubes[0].get("names", ()))
        made = tokenizer_of(kind, said)
        bands = len(mean)
        told = {"mean": tuple(mean), "std": tuple(std), "bands": bands, "scale": reader.scale}
        if "group" not in asked:
            told["group"] = bands
        return replace(made, wavelengths=nm, names=names, **told)
    made = replace(tokenizer_of(kind, said), mean=0.0, std=1.0)  # type: ignore[type-var]
    mean, std = statistics(
        [plane(made, v) for v in some(train, name, reader_of(kind, made, False))]
    )
    return replace(made, mean=tuple(mean), std=tuple(std))


def listed(text: str) -> tuple[int, ...]:
    """`1+4-6` as 1, 4, 5, 6."""
    ends = [part.partition("-") for part in text.split("+")]
    return tuple(n for low, _, high in ends for n in range(int(low), int(high or low) + 1))


def some(train: Table, name: str, reader: Any) -> list[Any]:
    """Some training rows' maps, as they are read."""
    found = []
    for row in range(0, len(train), max(1, len(train) // LOOK_AT)):
        source = train.source(name, row)
        try:
            found += [] if source is None else [reader.read(source)]
        except (BadSample, OSError):
            continue  # training meets it again, and counts and lists it
    if not found:
        raise ValueError(f"column {name!r}: none of {len(train)} training rows could be read.")
    return found


def most(train: Table, name: str) -> int:
    """The largest class; 255 is unknown."""
    maps = some(train, name, plain_reader("label-map"))
    return max(int(labels[labels != 255].max()) for labels in maps if (labels != 255).any())


def statistics(values: Sequence[np.ndarray]) -> tuple[list[float], list[float]]:
    """Mean and spread of every channel over known pixels."""
    flat = np.concatenate([value.reshape(len(value), -1) for value in values], axis=1)
    return np.nanmean(flat, axis=1).tolist(), np.maximum(np.nanstd(flat, axis=1), 1e-6).tolist()


# --- what came of it ------------------------------------------------------------------------------


def compared(
    config: Config,
    tokenizers: dict[str, Tokenizer],
    table: Table,
    holes: Table,
    training_rows: np.ndarray,
    entries: list[Entry],
    filled: Filled,
) -> dict[str, Any]:
    """Every modality's answers, as read back from the files, beside those of simple predictors."""
    seen, truth = Planes.read(holes, tokenizers), Planes.read(table, tokenizers)
    usable = [e for e in entries if e in filled.files and known(truth, e)]
    means = mean_answers(seen, training_rows)
    nearest = nearest_rows(seen, training_rows, usable)
    answers: dict[str, dict[Entry, np.ndarray]] = {"model": {}, "nearest": {}, "mean": {}}
    for row, name in usable:
        reader: Any = table.readers[name]
        file = filled.files[row, name][0]
        answers["model"][row, name] = plane(tokenizers[name], reader.read(str(file)))
        answers["nearest"][row, name] = complete(seen.of[name][nearest[row, name]], means[name])
        answers["mean"][row, name] = means[name]
    report: dict[str, Any] = {
        "held_back": len(entries),
        "of_entries": int(sum((~gone).sum() for gone in table.missing().values())),
        "not_scored": len(entries) - len(usable),
    }
    for title, inside in (("held-out rows", ~training_rows), ("training rows", training_rows)):
        part = [entry for entry in usable if inside[entry[0]]]
        report[title] = {}
        print(f"\n{title}: {len(part)} entries")
        for name, tokenizer in tokenizers.items():
            of_name = [entry for entry in part if entry[1] == name]
            if of_name:
                report[title][name] = told(name, tokenizer, of_name, answers, truth)
    draw(config, tokenizers, usable, filled, table, nearest)
    return report


def known(truth: Planes, entry: Entry) -> bool:
    row, name = entry
    return bool((~np.isnan(truth.of[name][row])).any())


def complete(plane: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """A neighbour's map, its holes filled with means, lest it is spared what it does not know."""
    return np.where(np.isnan(plane), mean, plane)


def told(
    name: str,
    tokenizer: Tokenizer,
    entries: list[Entry],
    answers: dict[str, dict[Entry, np.ndarray]],
    truth: Planes,
) -> dict[str, Any]:
    true = [truth.of[name][row] for row, _ in entries]
    span = float(np.nanmax(truth.of[name]) - np.nanmin(truth.of[name]))
    classes = tokenizer.classes if isinstance(tokenizer, LabelMaps) else None
    scores: dict[str, Score] = {
        who: score([found[entry] for entry in entries], true, span, classes)
        for who, found in answers.items()
    }
    made: dict[str, Any] = {"entries": len(entries)}
    for who, found in scores.items():
        made[who] = found.numbers
        print(
            f"  {name if who == 'model' else '':<10}{who:<9}"
            + "  ".join(f"{what} {number:.4g}" for what, number in found.numbers.items())
        )
    for who in ("nearest", "mean"):
        gain = evaluation.paired_bootstrap([scores[who].errors], [scores["model"].errors])
        made[f"error_less_than_{who}"] = [gain.mean, gain.low, gain.high]
        print(
            f"  {'':<10}error less than {who}'s by {gain.mean:.4g}, 95 % interval "
            f"[{gain.low:.4g}, {gain.high:.4g}] over {len(entries)} entries"
        )
    return made


def draw(
    config: Config,
    tokenizers: dict[str, Any],
    entries: list[Entry],
    filled: Filled,
    table: Table,
    nearest: dict[Entry, int],
) -> None:
    """Truth, answer and the nearest row's map of some entries, as one picture a modality."""
    for name, tokenizer in tokenizers.items():
        reader: Any = table.readers[name]
        chosen = [row for row, of in entries if of == name]
        rows, names = [], []
        for row in chosen[:: max(1, len(chosen) // DRAWN)][:DRAWN]:
            own = str(filled.files[row, name][0])
            sources = (table.source(name, row), own, table.source(name, nearest[row, name]))
            shown = [tokenizer.collate([reader.read(source)]) for source in sources]
            tokens = [tokenizer(Part(one, torch.arange(1))) for one in shown]
            rows.append([tokenizer.picture(one) for one in tokens])
            names.append(str(table.columns["id"][row]))
        if rows:
            heads = ("held back", "filled", "nearest row's")
            pictures.save(pictures.grid(rows, heads, (), names), config.out / f"filled_{name}.png")


if __name__ == "__main__":
    raise SystemExit(run(main, Config))
