"""The commands behind `multimask COMMAND`: each a dataclass of flags and a function."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from multimask import evaluation, pictures, plugins
from multimask.checkpoints import load
from multimask.cli.answers import write_answers
from multimask.cli.control import fresh
from multimask.cli.data import (
    as_batch,
    check_label,
    file_table,
    masker_of,
    model_table,
    open_table,
    parts_of,
    reader_of,
    tell_skipped,
    tokenizer_of,
)
from multimask.cli.doctor import doctor
from multimask.cli.embedding import Embed, embed
from multimask.cli.evaluate import Evaluate, evaluate
from multimask.cli.experiment import RunFlags, Study, build_recipe, carry_out
from multimask.cli.fill import Fill, fill
from multimask.cli.finetune import Finetune, finetune
from multimask.cli.flags import from_command_line, guarded
from multimask.cli.pack import Pack, pack
from multimask.cli.segment import Segment, segment
from multimask.masking.budgets import Counting
from multimask.model import MaskedModel
from multimask.tokens import Step


@dataclass(frozen=True, kw_only=True)
class Pretrain(RunFlags):
    """Pre-train on files of any kind that is installed."""

    kind: Annotated[str, "what the data are, by plug-in name"]
    set: Annotated[tuple[str, ...], "fields of the kind's tokenizer: size=96x160,patch=8"] = ()
    held_out: Annotated[float, "share held out for testing where the data name no split"] = 0.2


def pretrain(flags: Pretrain) -> None:
    if flags.data is None:
        raise ValueError("pretrain: name your files with --data PATH.")
    tokenizer = tokenizer_of(flags.kind, flags.set, flags.data)
    table = open_table(flags.data, flags.kind, flags.kind, tokenizer)
    train, test = parts_of(table, flags.held_out, flags.limit)
    augmenting = reader_of(flags.kind, tokenizer, augment=True)
    if augmenting is not None and train.readers[flags.kind] is not None:
        train = train.with_readers(**{flags.kind: augmenting})
    label = flags.label if flags.label in table.columns else None
    carry_out(flags, Study({flags.kind: tokenizer}, train, test, label))


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Linear probe and nearest neighbours on frozen features, beside the same model at random."""

    model: Annotated[Path, "folder of a saved model"]
    data: Annotated[Path, "folder, CSV, Parquet, NPY or NPZ with labels"]
    label: Annotated[str, "column with the classes"] = "label"
    held_out: Annotated[float, "share tested on where the data name no split"] = 0.25
    workers: Annotated[int, "processes that read data"] = 0
    device: Annotated[str, "auto, cpu, cuda"] = "auto"
    seed: Annotated[int, "of the random weights and the probe"] = 0
    out: Annotated[Path | None, "write the numbers to this JSON file as well"] = None


def probe(flags: Probe) -> None:
    model = load(flags.model)
    table = model_table(model, flags.data)
    check_label(table, flags.label, flags.data, "to probe")
    train, test = parts_of(table, flags.held_out, None)
    numbers: dict[str, float] = {}
    for name, one in {"pretrained": model, "random_init": fresh(model, flags.seed)}.items():
        embedded = [
            evaluation.embed(one, part, workers=flags.workers, device=flags.device)
            for part in (train, test)
        ]
        pairs = [x for e in embedded for x in (e.features, e.labels[flags.label])]
        numbers[f"probe_{name}"] = evaluation.linear_probe(*pairs, seed=flags.seed).accuracy
        voted = evaluation.knn(*pairs).accuracy
        assert voted is not None  # labels were given
        numbers[f"knn_{name}"] = voted
    print(f"{len(train)} training and {len(test)} test samples")
    for what, name in (("probe", "linear probe"), ("knn", "nearest neighbours")):
        after, before = numbers[f"{what}_pretrained"], numbers[f"{what}_random_init"]
        print(f"{name:<20}{after:.3f} (random weights {before:.3f})")
    if flags.out is not None:
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        flags.out.write_text(json.dumps(numbers, indent=1) + "\n")


@dataclass(frozen=True, kw_only=True)
class Reconstruct:
    """Hide tokens of some samples, answer for them, and draw original, visible and answer."""

    model: Annotated[Path, "folder of a saved model"]
    data: Annotated[Path, "a file, or folder, CSV, Parquet, NPY or NPZ"]
    out: Annotated[Path, "picture"] = Path("reconstructions.png")
    masker: Annotated[str, "who is hidden, by plug-in name"] = "random"
    ratio: Annotated[float, "share of tokens hidden"] = 0.75
    limit: Annotated[int, "how many samples"] = 8
    seed: Annotated[int, "of the masks"] = 0
    files: Annotated[Path | None, "folder for the answers as files like the data's own"] = None


def reconstruct(flags: Reconstruct) -> None:
    model = load(flags.model)
    table = model_table(model, flags.data).head(flags.limit)
    batch, skipped = as_batch(table, model.tokenizers)
    masker = masker_of(flags.masker, flags.ratio, model.tokenizers)
    drawn = pictures.reconstruction_rows(model, batch, masker, Step(flags.seed))
    write_picture(drawn, flags.out)
    errors = evaluation.reconstruction_error(model, table, masker, seed=flags.seed)
    print(errors)
    tell_skipped(skipped)
    if flags.files is None:
        return
    written = write_answers(model, table, masker, flags.seed, flags.files)
    if not written:
        raise ValueError("--files: readers of this kind of data cannot write files.")
    print(f"{len(written)} files in {flags.files}")


@dataclass(frozen=True, kw_only=True)
class Masks:
    """Draw a masker on files, with the true numbers of visible and hidden tokens."""

    data: Annotated[Path, "a file, or folder, CSV, Parquet, NPY or NPZ; in front, its path alone"]
    kind: Annotated[str, "what the data are, by plug-in name"]
    set: Annotated[tuple[str, ...], "fields of the kind's tokenizer: size=96x160,patch=8"] = ()
    masker: Annotated[str, "who is hidden, by plug-in name"] = "random"
    ratio: Annotated[float, "share of tokens hidden"] = 0.75
    method: Annotated[str | None, "a method's own masker, by plug-in name, instead"] = None
    counting: Annotated[Counting, "which of them is floored when the ratio is a count"] = "visible"
    limit: Annotated[int, "how many samples"] = 4
    seed: Annotated[int, "of the masks"] = 0
    out: Annotated[Path, "picture"] = Path("masks.png")


def masks(flags: Masks) -> None:
    tokenizer = tokenizer_of(flags.kind, flags.set, flags.data)
    table = file_table(flags.data, flags.kind, flags.kind, tokenizer).head(flags.limit)
    batch, skipped = as_batch(table, {flags.kind: tokenizer})
    model = MaskedModel({flags.kind: tokenizer}, width=48, depth=1, heads=3)
    masker = masker_of(flags.masker, flags.ratio, model.tokenizers, flags.counting)
    if flags.method is not None:
        masker = plugins.load("methods", flags.method)({flags.kind: tokenizer}).objective.masker
    write_picture(pictures.masks(model, batch, masker, seed=flags.seed), flags.out)
    tokens = model.tokenize(batch)
    generators = Step(flags.seed).generators(batch.sample_ids, "masking")
    masking = masker(tokens.exists, generators, model.context(tokens))
    for row, name in enumerate(batch.sample_ids):
        visible, exists = int(masking.visible[row].sum()), int(masking.exists[row].sum())
        hidden = exists - visible
        decoded, scored = int(masking.decoded[row].sum()), int(masking.target[row].sum())
        print(
            f"{name}: {visible} visible, {hidden} hidden of {exists} tokens "
            f"({hidden / exists:.1%}); {decoded} decoded, {scored} scored"
        )
    tell_skipped(skipped)


@dataclass(frozen=True, kw_only=True)
class Describe(RunFlags):
    """Describe a saved model, or the one that `pretrain` would build from the same flags."""

    model: Annotated[Path | None, "folder of a saved model"] = None
    kind: Annotated[str | None, "what the data are, by plug-in name"] = None
    set: Annotated[tuple[str, ...], "fields of the kind's tokenizer: size=96x160,patch=8"] = ()


def describe(flags: Describe) -> None:
    if (flags.model is None) == (flags.kind is None):
        raise ValueError("describe: give either --model FOLDER or --kind NAME.")
    if flags.model is not None:
        ratio = 0.75 if flags.ratio is None else flags.ratio
        model = load(flags.model)
        print(model.describe(masker_of(flags.masker or "random", ratio, model.tokenizers)))
        return
    assert flags.kind is not None  # checked above
    study_modalities = {flags.kind: tokenizer_of(flags.kind, flags.set)}
    recipe = build_recipe(flags, study_modalities)
    print(recipe.model.describe(recipe.objective.masker))


COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "pretrain": (Pretrain, pretrain),
    "pack": (Pack, pack),
    "finetune": (Finetune, finetune),
    "segment": (Segment, segment),
    "embed": (Embed, embed),
    "probe": (Probe, probe),
    "evaluate": (Evaluate, evaluate),
    "reconstruct": (Reconstruct, reconstruct),
    "fill": (Fill, fill),
    "masks": (Masks, masks),
    "describe": (Describe, describe),
}


LEADING = {"fill": ("--model", "--data"), "masks": ("--data",)}
"""Flags that may be left out in front: `multimask fill MODEL TABLE`, `multimask masks FILE`."""


def run(name: str, argv: Sequence[str]) -> int:
    if name == "doctor":
        return doctor()
    flags, command = COMMANDS[name]

    def parsed_and_called() -> None:
        command(from_command_line(flags, with_leading(name, argv), prog=f"multimask {name}"))

    return guarded(parsed_and_called, name=f"multimask {name}")


def with_leading(name: str, argv: Sequence[str]) -> list[str]:
    """The words, with the flags that were left out. Raises: ValueError for one that is there too.

    >>> with_leading("masks", ["a.png", "--ratio", "0.5"])
    ['--data', 'a.png', '--ratio', '0.5']
    """
    words = list(argv)
    for place, flag in enumerate(LEADING.get(name, ())):
        if len(words) <= 2 * place or (value := words[2 * place]).startswith("-"):
            continue
        if any(word == flag or word.startswith(f"{flag}=") for word in words):
            raise ValueError(f"{flag} is given twice: {value!r} in front stands for it.")
        words.insert(2 * place, flag)
    return words


def write_picture(picture: np.ndarray | None, file: Path) -> None:
    if picture is None:
        raise ValueError("none of the modalities can be drawn: their tokenizers have no picture.")
    pictures.save(picture, file)
    print(f"picture in {file}")
