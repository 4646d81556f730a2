"""`multimask evaluate`: what vectors, and answers of fine-tuned models, are worth, made of any of a
model's modalities."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from multimask import evaluation, pictures
from multimask.checkpoints import load
from multimask.checkpoints.folder import write_whole
from multimask.cli.control import fresh
from multimask.cli.data import check_label, models_table, parts_of
from multimask.cli.evaluate_report import Judged, as_csv, drawn, lost, numbers, told
from multimask.datasets.table import Table
from multimask.ensembles import subsets_of
from multimask.evaluation import SubsetScore
from multimask.evaluation.subsets import chosen, rows_with
from multimask.filling import UnseenModalities
from multimask.model import MaskedModel

if TYPE_CHECKING:
    from multimask.finetuning import Classifier


Opened = tuple[MaskedModel, "Classifier | None"]


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Linear probe and nearest neighbours for every set of modalities, beside random weights.

    The "probe of all" learned with all modalities there and is asked when only some are, the "probe
    of any" learned from random sets of them. Of fine-tuned models their own head is asked too. Run
    folders of several seeds are scored seed by seed, each beside the same seed of another run.
    """

    model: Annotated[Path, "folder of a saved model, or of a run with all its seeds' models"]
    data: Annotated[Path, "CSV, Parquet, NPZ or store with a column a modality, and labels"]
    subsets: Annotated[tuple[str, ...], "all, or sets such as rgb,rgb+depth"] = ("all",)
    beside: Annotated[
        tuple[str, ...], "folders of other models, or runs, of the same modalities"
    ] = ()
    label: Annotated[str, "column with the classes"] = "label"
    held_out: Annotated[float, "share tested on where the data name no split"] = 0.25
    pool: Annotated[str, "mean of the tokens, or global: the first global token"] = "mean"
    workers: Annotated[int, "processes that read data"] = 0
    device: Annotated[str, "auto, cpu, cuda"] = "auto"
    seed: Annotated[int, "of the random weights and the probe"] = 0
    out: Annotated[Path, "folder for subsets.json, subsets.csv and subsets.png"] = Path(
        "runs/evaluate"
    )


def evaluate(flags: Evaluate) -> None:
    models = [opened(folder) for folder in models_of(flags.model)]
    model, _ = models[0]
    seeds = range(flags.seed, flags.seed + len(models))
    controls: list[Opened] = [(fresh(model, seed), None) for seed in seeds]
    runs = {"model": models, "random weights": controls}
    for run in flags.beside:
        if run in runs:
            raise ValueError(f"--beside {run}: {run!r} names a column already; write ./{run}.")
        runs[run] = paired(run, models)
    table = models_table(model, flags.data)
    check_label(table, flags.label, flags.data, "to probe")
    train, test = parts_of(table, flags.held_out, None)
    subsets = asked_for(flags.subsets, list(table.readers), model)
    judged = [
        Judged(name, [scored(one, train, test, subsets, flags) for one in seeds_models])
        for name, seeds_models in runs.items()
    ]
    flags.out.mkdir(parents=True, exist_ok=True)
    rows = [numbers(subset, judged) for subset in subsets]
    losses = lost(judged, subsets)
    written = {"train_rows": len(train), "test_rows": len(test), "subsets": rows, "lost": losses}
    write_whole(flags.out / "subsets.json", (json.dumps(written, indent=1) + "\n").encode())
    write_whole(flags.out / "subsets.csv", as_csv(rows))
    pictures.save(drawn(rows, judged, test, flags.label), flags.out / "subsets.png")
    print(f"{len(train)} training and {len(test)} test rows")
    print(told(rows, judged, losses))
    print(f"look at           {flags.out / 'subsets.png'}")


def asked_for(
    given: Sequence[str], there: Sequence[str], model: MaskedModel
) -> list[tuple[str, ...]]:
    """Sets of modalities, small ones first."""
    if tuple(given) == ("all",):
        return subsets_of(there)
    wanted = [tuple(sorted(set(text.split("+")))) for text in given]
    for text, names in zip(given, wanted, strict=True):
        if unknown := sorted(set(names) - set(there)):
            raise ValueError(
                f"--subsets {text}: {unknown[0]!r} is no column of the model's modalities; there "
                f"are {', '.join(there)}."
            )
    return sorted(set(wanted), key=lambda names: (len(names), names))


def opened(folder: Path) -> Opened:
    """A saved model, with its head where it was fine-tuned."""
    if not (folder / "head.safetensors").is_file():
        return load(folder), None
    from multimask.finetuning import Classifier  # seconds to import

    made = Classifier.load(folder)
    return made.model, made


def models_of(folder: Path) -> list[Path]:
    """The folder of a model itself, or those of a run: its first seed's, then the others'."""
    if not (folder / "model").is_dir():
        return [folder]
    more = folder.glob("seed-*/model")
    return [folder / "model", *sorted(more, key=lambda f: (len(f.parent.name), f.parent.name))]


def paired(run: str, models: Sequence[Opened]) -> list[Opened]:
    """Another run's models, seed by seed."""
    found = [opened(folder) for folder in models_of(Path(run))]
    if len(found) != len(models):
        raise ValueError(
            f"--beside {run}: expected as many seeds as the model's run has, {len(models)}; found "
            f"{len(found)}."
        )
    names = list(models[0][0].slots)
    for other, _ in found:
        if list(other.slots) != names:
            raise ValueError(
                f"--beside {run}: its modalities are {', '.join(other.slots)}, those of the model "
                f"{', '.join(names)}."
            )
    return found


def scored(
    one: Opened,
    train: Table,
    test: Table,
    subsets: Sequence[tuple[str, ...]],
    flags: Evaluate,
) -> list[SubsetScore]:
    model, head = one
    scores = evaluation.subset_scores(
        model,
        train,
        test,
        flags.label,
        subsets,
        pool=flags.pool,
        workers=flags.workers,
        device=flags.device,
        seed=flags.seed,
    )
    return scores if head is None else [with_answers(s, head, test, flags) for s in scores]


def with_answers(
    score: SubsetScore, head: "Classifier", test: Table, flags: Evaluate
) -> SubsetScore:
    """With what the head says of the same rows."""
    if score.probe is None or head.label != flags.label:
        return score
    rows = chosen(test, rows_with(test, score.names, flags.label))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnseenModalities)  # `seen` says it
        told = head.predict(
            rows, workers=flags.workers, device=flags.device, modalities=score.names
        )
    return replace(score, tuned=told.correct(flags.label))
