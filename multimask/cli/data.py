"""From names on the command line to tokenizers, maskers, tables and batches."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from multimask import plugins
from multimask.cli.flags import size
from multimask.datasets.cells import stored_arrays
from multimask.datasets.table import Table
from multimask.masking import Masker, Ratio
from multimask.masking.budgets import Counting
from multimask.modality import Tokenizer, collate
from multimask.model import MaskedModel
from multimask.plugins import name_of
from multimask.tokens import BadSample, Batch, Samples

TABLES = (".csv", ".parquet", ".npy", ".npz")


def tokenizer_of(kind: str, settings: Sequence[str]) -> Tokenizer:
    """A kind's tokenizer with fields given as `name=value`; sizes are written 96x160."""
    made: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting}: write name=value.")
        made[name.strip()] = value_of(text)
    cls = plugins.load("modalities", kind)
    plugins.check_arguments(f"kind {kind!r}", cls, made)
    return cls(**made)


def value_of(text: str) -> Any:
    """A number, word or truth as YAML reads it; `96x160` is a size.

    >>> value_of("96x160"), value_of("0.5"), value_of("pad")
    ((96, 160), 0.5, 'pad')
    """
    sides = text.lower().split("x")
    if len(sides) > 1 and all(side.isdigit() for side in sides):
        return size(text)
    return yaml.safe_load(text)


def masker_of(name: str, ratio: float, counting: Counting = "visible") -> Masker:
    return Masker(plugins.load("parts", name)(), Ratio(ratio, counting=counting))


def reader_of(kind: str, tokenizer: Tokenizer, augment: bool) -> Any:
    """The reader plug-in of the same name, fitted to what the tokenizer wants; None without one
    (arrays in memory are then used as they are)."""
    if kind not in plugins.available("readers"):
        return None
    cls = plugins.load("readers", kind)
    return cls.fitted(tokenizer, augment) if hasattr(cls, "fitted") else cls()


def open_table(path: Path, modality: str, kind: str, tokenizer: Tokenizer) -> Table:
    return Table.open(path, modality=modality, reader=reader_of(kind, tokenizer, augment=False))


def file_table(path: Path, modality: str, kind: str, tokenizer: Tokenizer) -> Table:
    """A table, or a single file as a table of one row. A NPY of as many axes as the reader's
    `array_dims` says one sample has is a file, one with more of them a table."""
    reader = reader_of(kind, tokenizer, augment=False)
    dims = getattr(reader, "array_dims", None)
    single = path.suffix.lower() == ".npy" and dims is not None and path.is_file()
    if not (single and stored_arrays(path, modality)[modality].ndim == dims) and (
        path.is_dir() or path.suffix.lower() in TABLES or not path.exists()
    ):
        return Table.open(path, modality=modality, reader=reader)
    return Table.of({modality: [path.name]}, {modality: reader}, root=path.parent)


def model_table(model: MaskedModel, path: Path) -> Table:
    """A table read the way a model's modality wants it."""
    name = only_modality(model)
    tokenizer = model.tokenizers[name]
    _, _, kind = name_of(type(tokenizer), {}).rpartition("/")
    return file_table(path, name, kind, tokenizer)


def only_modality(model: MaskedModel) -> str:
    names = list(model.tokenizers)
    if len(names) > 1:
        raise ValueError(
            f"the model has {len(names)} modalities ({', '.join(names)}); this command reads one. "
            "In Python, multimask.embed takes a table with a column each."
        )
    return names[0]


def parts_of(table: Table, held_out: float, limit: int | None) -> tuple[Table, Table]:
    """Training and test rows: the data's own split, else a share held out by id."""
    train = test = None
    if "split" in table.columns:
        named = set(table.columns["split"])
        other = next((name for name in ("test", "val") if name in named), None)
        if "train" in named and other is not None:
            train, test = table.where(split="train"), table.where(split=other)
    if train is None or test is None:
        train, test = table.split_off(held_out, seed=0)
    return (train, test) if limit is None else (train.head(limit), test.head(limit))


def as_batch(
    samples: Samples, tokenizers: Mapping[str, Tokenizer]
) -> tuple[Batch, list[tuple[str, str]]]:
    """All that can be read, as one batch, and (id, reason) of what cannot."""
    good, skipped = [], []
    for index in range(len(samples)):
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
