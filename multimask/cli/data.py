"""From names on the command line to tokenizers, maskers, tables and batches."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import yaml

from multimask import plugins
from multimask.cli.flags import size
from multimask.datasets.cells import csv_cells, parquet_cells, stored_arrays
from multimask.datasets.columns import Column
from multimask.datasets.formats.depth_maps import DepthMapReader
from multimask.datasets.formats.images import ImageReader
from multimask.datasets.formats.label_maps import LabelMapReader
from multimask.datasets.formats.spectral import SpectralReader
from multimask.datasets.listing import listed_columns
from multimask.datasets.rows import with_cells
from multimask.datasets.store import is_store, open_store, packings
from multimask.datasets.table import Table
from multimask.datasets.transforms import WindowCrop
from multimask.masking import Masker, masker_for
from multimask.masking.budgets import Counting
from multimask.masking.rules import Rule
from multimask.modalities.spectral import SpectralPatches
from multimask.modalities.tabular import Tabular
from multimask.modality import Tokenizer, collate
from multimask.model import MaskedModel
from multimask.plugins import name_of
from multimask.tokens import BadSample, Batch, Samples

TABLES = (".csv", ".parquet", ".npy", ".npz")


def tokenizer_of(kind: str, settings: Sequence[str], data: Path | None = None) -> Tokenizer:
    """A kind's tokenizer with fields given as `name=value`; sizes are written 96x160, and what
    follows a value without a name is one more: `names=VV,VH`. What is not given the files may tell,
    where the kind's reader knows how (`suggests`)."""
    given: dict[str, list[Any]] = {}
    name = ""
    for setting in settings:
        before, equals, text = setting.rpartition("=")
        name = before.strip() if equals else name
        if not name:
            raise ValueError(f"--set {setting}: write name=value.")
        given.setdefault(name, []).append(value_of(text))
    cls = plugins.load("modalities", kind)
    takes = inspect.signature(cls).parameters
    made: dict[str, Any] = {
        name: declared(values, takes[name].annotation if name in takes else None)
        for name, values in given.items()
    }
    if data is not None and kind in plugins.available("readers"):
        reader = plugins.load("readers", kind)
        made = (reader.suggests(data) if hasattr(reader, "suggests") else {}) | made
    if hasattr(cls, "spelled"):  # it has fields that are no plain words and numbers
        made = cls.spelled(made)
    plugins.check_arguments(f"kind {kind!r}", cls, made)
    return cls(**made)


def declared(values: Sequence[Any], annotation: Any) -> Any:
    """What a field holds: one value, or a tuple of them where there are several or the field is a
    tuple of any length; whole numbers as floats where it holds only these."""
    if mentions(annotation, float) and not mentions(annotation, int):
        values = [float(value) if type(value) is int else value for value in values]
    several = len(values) > 1 or get_args(annotation)[1:] == (Ellipsis,)
    return tuple(values) if several else values[0]


def mentions(annotation: Any, kind: type) -> bool:
    return annotation is kind or any(mentions(inner, kind) for inner in get_args(annotation))


def value_of(text: str) -> Any:
    """A number, word or truth as YAML reads it; `96x160` is a size.

    >>> value_of("96x160"), value_of("0.5"), value_of("pad")
    ((96, 160), 0.5, 'pad')
    """
    sides = text.lower().split("x")
    if len(sides) > 1 and all(side.isdigit() for side in sides):
        return size(text)
    return yaml.safe_load(text)


def rule_of(name: str, tokenizers: Mapping[str, Tokenizer]) -> Rule:
    """A masker's rule by name. One that must know what is masked (body parts: the skeleton) is
    `fitted` to the first tokenizer; a rule for several kinds is built in Python."""
    cls = plugins.load("parts", name)
    return cls.fitted(next(iter(tokenizers.values()))) if hasattr(cls, "fitted") else cls()


def masker_of(
    name: str, ratio: float, tokenizers: Mapping[str, Tokenizer], counting: Counting = "visible"
) -> Masker:
    return masker_for(rule_of(name, tokenizers), ratio, counting)


def reader_of(kind: str, tokenizer: Tokenizer, augment: bool) -> Any:
    """The reader plug-in of the same name, fitted to what the tokenizer wants; None without one
    (arrays in memory are then used as they are)."""
    if kind not in plugins.available("readers"):
        return None
    cls = plugins.load("readers", kind)
    return cls.fitted(tokenizer, augment) if hasattr(cls, "fitted") else cls()


def plain_reader(kind: str) -> Any:
    """The reader plug-in of the same name as it comes: native sizes."""
    return plugins.load("readers", kind)() if kind in plugins.available("readers") else None


def open_table(path: Path, modality: str, kind: str, tokenizer: Tokenizer) -> Table:
    reader = reader_of(kind, tokenizer, augment=False)
    if is_store(path):
        return open_packed(path, modality, reader)
    return Table.open(path, modality=modality, reader=reader)


def open_packed(path: Path, modality: str, reader: Any) -> Table:
    """One modality of a store, with the other columns; what is packed as arrays is read again only
    by a reader that can."""
    found = packings(path)
    if modality not in found:
        raise ValueError(f"{path}: expected the modality {modality!r}, found {sorted(found)}.")
    rereads = found[modality].stored != "arrays" or getattr(reader, "rereads", False)
    table = open_store(path, {modality: reader} if rereads else None)
    others = set(table.readers) - {modality}
    columns = {name: column for name, column in table.columns.items() if name not in others}
    return replace(table, columns=columns, readers={modality: table.readers[modality]})


def file_table(path: Path, modality: str, kind: str, tokenizer: Tokenizer) -> Table:
    """A table, or a single file as a table of one row. An array file holds many samples unless the
    kind's reader says that it is one: always (`whole_arrays`), or a NPY of as many axes as one
    sample has (`array_dims`)."""
    reader = reader_of(kind, tokenizer, augment=False)
    suffix, dims = path.suffix.lower(), getattr(reader, "array_dims", None)
    arrays = suffix in (".npy", ".npz") and getattr(reader, "whole_arrays", False)
    if suffix == ".npy" and dims is not None and path.is_file():
        arrays = stored_arrays(path, modality)[modality].ndim == dims
    listed = suffix in TABLES and not arrays
    if is_store(path) or path.is_dir() or listed or not path.exists():
        return open_table(path, modality, kind, tokenizer)
    return Table.of({modality: [path.name]}, {modality: reader}, root=path.parent)


def model_table(model: MaskedModel, path: Path) -> Table:
    """A table read the way a model's modality wants it."""
    name = only_modality(model)
    tokenizer = model.tokenizers[name]
    return file_table(path, name, kind_of(tokenizer), tokenizer)


def many_table(path: Path, tokenizers: Mapping[str, Tokenizer]) -> Table:
    """A CSV or Parquet with a column of files for each modality, and the columns of cells that a
    tokenizer of cells names. Modalities of which nothing is listed are left out.

    Raises: ValueError where nothing of any modality is listed, and for ids that occur twice.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise ValueError(f"{path}: expected a CSV or Parquet table with a column a modality.")
    cells = csv_cells(path) if suffix == ".csv" else parquet_cells(path)
    listed = {name for name, column in cells.items() if any(x not in (None, "") for x in column)}
    of_cells = {name: t for name, t in tokenizers.items() if isinstance(t, Tabular)}
    files = [name for name in tokenizers if name in listed and name not in of_cells]
    readers = {
        name: reader_of(kind_of(tokenizers[name]), tokenizers[name], False) for name in files
    }
    if any(isinstance(reader, SpectralReader) for reader in readers.values()):
        readers = {n: cut_not_resized(reader, tokenizers[n]) for n, reader in readers.items()}
    columns, names = dict[str, Any](), list[str]()
    other = Column.from_text if suffix == ".csv" else Column.of
    if files:
        columns, names = listed_columns(path, cells, other, files, path.parent)
    else:
        columns = {n: Column.of(c) if n == "id" else other(c) for n, c in cells.items()}
    if not files and not any(set(t.columns) & listed for t in of_cells.values()):
        raise ValueError(
            f"{path}: lists nothing of {', '.join(tokenizers)}; columns are {', '.join(cells)}."
        )
    if not files and "id" not in columns:
        raise ValueError(f"{path}: lists no files, so it must name its rows in a column id.")
    table = Table.of(columns, {name: readers[name] for name in names}, path.parent)
    for name in names:
        files = (table.source(name, row) for row in range(len(table)))
        there = (source for source in files if source is not None)
        told = told_bands(readers[name], tokenizers[name], there)
        table = table.with_readers(**{name: told})
    for name, tokenizer in of_cells.items():
        if there := [column for column in tokenizer.columns if column in cells]:
            table = with_cells(table, name, there)
    return table


def cut_not_resized(reader: Any, tokenizer: Any) -> Any:
    """Bands are cut, never resized, and so must be what lies on them; the same window of both."""
    if isinstance(reader, ImageReader | LabelMapReader | DepthMapReader):
        return replace(reader, transform=WindowCrop(tokenizer.size))
    return reader


def told_bands(reader: Any, tokenizer: Tokenizer, sources: Iterable[Any]) -> Any:
    """The reader, told what bands are where the first file that opens does not say it, or by words
    that the model does not know, and has as many as the model lists."""
    if not isinstance(reader, SpectralReader) or not isinstance(tokenizer, SpectralPatches):
        return reader
    for source in sources:
        try:
            file = reader.open(source)
        except (BadSample, OSError):
            continue  # reading its row lists it
        nm, names = tokenizer.wavelengths, tokenizer.names
        known = file.names is not None and set(file.names) <= set(names)
        if file.wavelengths is not None or known or file.shape[0] != len(nm) + len(names):
            return reader
        places = (*nm, *(float("nan") for _ in names))
        return replace(reader, wavelengths=places, names=(*(f"{x:g}" for x in nm), *names))
    return reader


def kind_of(tokenizer: Tokenizer) -> str:
    """The plug-in name of a tokenizer's kind."""
    return name_of(type(tokenizer), {}).rpartition("/")[2]


def models_table(model: MaskedModel, path: Path) -> Table:
    """As `many_table`, and of NPZ files and stores too: all of a model's modalities that are there,
    read the way that the model wants them; other columns are labels."""
    if path.suffix.lower() in (".csv", ".parquet"):
        return many_table(path, model.tokenizers)
    table = Table.open(path)
    there = [name for name in model.tokenizers if name in table.readers]
    if not there:
        raise ValueError(
            f"{path}: expected some of the model's modalities {', '.join(model.tokenizers)}, found "
            f"{', '.join(table.readers)}."
        )
    columns = {n: c for n, c in table.columns.items() if n in there or n not in table.readers}
    tokenizers = {name: model.tokenizers[name] for name in there}
    readers = {name: reader_of(kind_of(t), t, False) for name, t in tokenizers.items()}
    return Table.of(columns, readers, table.root)


def augmented(train: Table, tokenizers: Mapping[str, Tokenizer]) -> Table:
    """The table read with each kind's random augmentation, the same for all modalities of a row.
    Where bands lie beside other maps: random windows alone."""
    there = {n: r for n, r in train.readers.items() if not isinstance(tokenizers[n], Tabular)}
    bands = {n: r for n, r in there.items() if isinstance(r, SpectralReader)}
    if 0 < len(bands) < len(there):
        return train  # as `many_table` reads it: windows that all share when they are drawn
    if bands:
        return train.with_readers(**{n: replace(r, flips=True) for n, r in bands.items()})
    made = {n: reader_of(kind_of(tokenizers[n]), tokenizers[n], augment=True) for n in there}
    return train.with_readers(**{n: reader for n, reader in made.items() if reader is not None})


def check_label(table: Table, label: str, data: Path, what_for: str) -> None:
    """Raises: ValueError where --label names no column of the table."""
    if label not in table.columns:
        raise ValueError(
            f"{data}: has no column {label!r} {what_for}; columns are "
            f"{', '.join(table.columns)}. Name it with --label."
        )


def only_modality(model: MaskedModel) -> str:
    names = list(model.tokenizers)
    if len(names) > 1:
        raise ValueError(
            f"the model has {len(names)} modalities ({', '.join(names)}); this command reads one. "
            "In Python, multimask.embed takes a table with a column each."
        )
    return names[0]


def parts_of(
    table: Table, held_out: float, limit: int | None, by: str | None = None
) -> tuple[Table, Table]:
    """Training and test rows: the data's own split, else a share held out by id, or by whole groups
    of rows that agree in the column `by`."""
    train = test = None
    if "split" in table.columns:
        named = set(table.columns["split"])
        other = next((name for name in ("test", "val") if name in named), None)
        if "train" in named and other is not None:
            train, test = table.where(split="train"), table.where(split=other)
    if train is None or test is None:
        train, test = table.split_off(held_out, seed=0, by=by)
    return (train, test) if limit is None else (train.head(limit), test.head(limit))


def as_batch(
    samples: Samples, tokenizers: Mapping[str, Tokenizer], most: int | None = None
) -> tuple[Batch, list[tuple[str, str]]]:
    """All that can be read, or the first `most` of it, as one batch, and (id, reason) of what
    cannot."""
    good, skipped = [], []
    for index in range(len(samples)):
        if len(good) == most:
            break
        try:
            sample = samples[index]
            collate([sample], tokenizers)
        except (BadSample, OSError) as error:
            skipped.append((str(samples.columns["id"][index]), str(error)))
        else:
            good.append(sample)
    if not good:
        raise ValueError(f"nothing could be read; the first: {skipped[0][0]}: {skipped[0][1]}")
    return collate(good, tokenizers), skipped


def tell_skipped(skipped: Sequence[tuple[str, str]]) -> None:
    if skipped:
        print(f"{len(skipped)} samples could not be read:")
        for name, reason in skipped:
            print(f"  {name}: {reason}")
