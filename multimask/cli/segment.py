"""`multimask segment`: a saved model and a dense head trained on maps, beside random weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from multimask import evaluation, pictures, plugins
from multimask.checkpoints import load, pour
from multimask.checkpoints.adapt import rebuilt
from multimask.checkpoints.folder import write_whole
from multimask.cli.control import fresh
from multimask.cli.data import as_batch, only_modality, parts_of, reader_of, tell_skipped
from multimask.cli.flags import to_yaml
from multimask.cli.heads import HeadFlags
from multimask.datasets.table import Table
from multimask.modality import HasBox
from multimask.model import MaskedModel
from multimask.plugins import name_of
from multimask.tokens import Part


@dataclass(frozen=True, kw_only=True)
class Segment(HeadFlags):
    """Train a saved model to name every pixel, and hold it against random weights.

    Writes model/ (with its dense head), metrics.json and segmentation.png: some test rows, their
    maps, and what the first seed's models say.
    """

    data: Annotated[Path, "CSV with a column of pictures and a column of label maps"]
    classes: Annotated[int | None, "stored numbers are classes 0 .. N - 1, or 255 for none"] = None
    numbers: Annotated[
        tuple[str, ...], "else the stored numbers of each class: 1,2+3 makes 2 and 3 one class"
    ] = ()
    out: Annotated[Path, "run folder"] = Path("runs/segment")
    column: Annotated[str | None, "column of the pictures; default: the modality's name"] = None
    map: Annotated[str, "column of the label maps"] = "segmentation"
    image_size: Annotated[
        int | tuple[int, ...] | None, "pixels to work at; default: the model's own"
    ] = None
    head: Annotated[Literal["pyramid", "linear"], "dense head"] = "pyramid"
    frozen: Annotated[bool, "train the head alone"] = False
    batch_size: Annotated[int, "samples an optimiser step"] = 8
    lr: Annotated[float, "peak learning rate"] = 1e-3
    clip: Annotated[float | None, "largest gradient norm"] = 1.0


def segment(flags: Segment) -> None:
    from multimask import finetuning  # seconds to import

    numbers = grouped(flags)
    classes = flags.classes or len(numbers)
    model = at_size(load(flags.model), flags.image_size)
    train, test, maps = labelled_maps(flags, model, classes, numbers)
    how = finetuning.Segmenting(
        head=flags.head,
        frozen=flags.frozen,
        layer_decay=flags.layer_decay,
        lr=flags.lr,
        weight_decay=flags.weight_decay,
        clip=flags.clip,
    )
    flags.out.mkdir(parents=True, exist_ok=True)
    write_whole(flags.out / "config.yaml", to_yaml(flags).encode())
    reading = {"label": flags.map, "workers": flags.workers, "device": flags.device}
    scored: dict[str, list[finetuning.Overlap]] = {"pretrained": [], "random init": []}
    first: dict[str, finetuning.DenseClassifier] = {}
    for seed in range(flags.seed, flags.seed + flags.seeds):
        for name, begun in beginnings(flags, model, seed).items():
            made = finetuning.segment(
                begun,
                train,
                how,
                classes=classes,
                label=flags.map,
                seed=seed,
                **flags.training(),
            ).classifier
            scored[name].append(finetuning.overlap(made, test, **reading))
            first.setdefault(name, made)
    first["pretrained"].save(flags.out / "model")
    tell_skipped(scored["pretrained"][0].skipped)
    results = {"train_rows": len(train), "test_rows": len(test), **as_numbers(scored)}
    write_whole(flags.out / "metrics.json", (json.dumps(results, indent=1) + "\n").encode())
    pictures.save(drawn(test, first, maps, flags.map), flags.out / "segmentation.png")
    print(f"{len(train)} training and {len(test)} test rows, {classes} classes")
    print(report(results))
    print(f"model             {flags.out / 'model'}")
    print(f"look at           {flags.out / 'segmentation.png'}")


def grouped(flags: Segment) -> tuple[tuple[int, ...], ...]:
    """The stored numbers of each class; none where they are classes themselves."""
    try:
        made = tuple(tuple(map(int, group.split("+"))) for group in flags.numbers)
    except ValueError as error:
        raise ValueError(f"segment: --numbers {','.join(flags.numbers)}: write 1,2+3.") from error
    if (flags.classes is None) == (not made) or (flags.classes or len(made)) < 2:
        raise ValueError(
            "segment: name at least two classes, either --classes N or --numbers 1,2+3, not both."
        )
    if flags.seeds < 1:
        raise ValueError(f"segment: --seeds {flags.seeds} must be at least 1.")
    return made


def at_size(model: MaskedModel, size: int | tuple[int, ...] | None) -> MaskedModel:
    """The model over pictures of this size, its position tables interpolated."""
    if size is None:
        return model
    name = only_modality(model)
    made = rebuilt(model, {name: replace(model.tokenizers[name], size=size)})  # type: ignore[type-var]
    print(pour(model, made, "the model at its new size"))
    return made.eval()


def beginnings(flags: Segment, model: MaskedModel, seed: int) -> Mapping[str, MaskedModel]:
    made = {"pretrained": model}
    return made | {"random init": fresh(model, seed)} if flags.control else made


def labelled_maps(
    flags: Segment, model: MaskedModel, classes: int, numbers: tuple[tuple[int, ...], ...]
) -> tuple[Table, Table, Any]:
    """Training and test rows that have a map, read as the model wants them, and who draws maps."""
    name = only_modality(model)
    tokenizer: Any = model.tokenizers[name]
    _, _, kind = name_of(type(tokenizer), {}).rpartition("/")
    found = model.tokenizers[name]
    box = found.box if isinstance(found, HasBox) else ()
    if len(box) != 2:
        raise ValueError(f"segment: {kind} is not cut into patches of pixels, which maps are for.")
    label_maps: Any = plugins.load("modalities", "label-map")
    maps = label_maps(classes, tokenizer.size, box, numbers=numbers)
    readers = {
        name: reader_of(kind, tokenizer, augment=False),
        flags.map: reader_of("label-map", maps, augment=False),
    }
    table = Table.from_csv(flags.data, {flags.column or name: name, flags.map: flags.map}, readers)
    there = [i for i, file in enumerate(table.columns[flags.map]) if file is not None]
    return *parts_of(table.select(there), flags.held_out, flags.limit), maps


def as_numbers(scored: Mapping[str, Any]) -> dict[str, Any]:
    """Mean IoU over all cells of the test rows, by seed and class; and the difference in the mean
    IoU of a row, with its interval over rows."""
    made: dict[str, Any] = {}
    for name, runs in scored.items():
        end = "" if name == "pretrained" else "_random_init"
        made[f"mean_iou{end}"] = sum(run.mean_iou for run in runs) / len(runs) if runs else None
        made[f"mean_iou{end}_by_seed"] = [run.mean_iou for run in runs]
        made[f"iou{end}_by_seed"] = [run.iou.tolist() for run in runs]
    if scored["random init"]:
        rows = {name: [run.by_sample for run in runs] for name, runs in scored.items()}
        found = evaluation.shows_learning(rows["pretrained"], rows["random init"])
        made["row_gain"] = found.interval.mean
        made["row_gain_interval"] = [found.interval.low, found.interval.high]
        made["scored_rows"] = found.items
        made["shows_learning"] = found.learned
    return made


def report(numbers: Mapping[str, Any]) -> str:
    lines = []
    for end, name in (("", "pretrained"), ("_random_init", "random init")):
        if numbers[f"mean_iou{end}"] is not None:
            each = ", ".join(f"{value:.3f}" for value in numbers[f"mean_iou{end}_by_seed"])
            lines.append(f"mean IoU          {numbers[f'mean_iou{end}']:.3f}  {name:<12} ({each})")
    if "row_gain" in numbers:
        low, high = numbers["row_gain_interval"]
        lines.append(
            f"of a row          {numbers['row_gain']:+.3f}, 95 % interval "
            f"[{low:+.3f}, {high:+.3f}] over {numbers['scored_rows']} test rows"
        )
    return "\n".join(lines)


def drawn(test: Table, made: Mapping[str, Any], tokenizer: Any, label: str) -> pictures.Picture:
    """A row a sample: the picture, its map, and what each model says."""
    model = made["pretrained"].model
    name = only_modality(model)
    batch, _ = as_batch(test, model.tokenizers, most=6)
    tokens = model.tokenize(batch.to(model.device)).modalities[name]
    answers = [batch.labels[label]]
    for classifier in made.values():
        with torch.no_grad():
            answers.append(list(classifier(batch.to(classifier.model.device)).argmax(dim=1).cpu()))
    rows = []
    for row in range(batch.size):
        whole = pictures.Drawing(model.tokenizers[name], pictures.one_row(tokens, row)).whole()
        maps = [tokenizer(Part(each[row][None], torch.arange(1))) for each in answers]
        rows.append([whole, *map(tokenizer.picture, maps)])
    return pictures.grid(rows, ("picture", "map", *made), names=batch.sample_ids)
