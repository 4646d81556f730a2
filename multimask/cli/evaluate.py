"""`multimask evaluate`: what vectors, and answers of fine-tuned models, are worth, made of any of a
model's modalities."""

import csv
import io
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from multimask import evaluation, pictures
from multimask.checkpoints import load
from multimask.checkpoints.folder import write_whole
from multimask.cli.control import fresh
from multimask.cli.data import check_label, models_table, parts_of
from multimask.datasets.table import Table
from multimask.dots import dots
from multimask.ensembles import subsets_of
from multimask.evaluation import SubsetScore
from multimask.evaluation.subsets import chosen, rows_with
from multimask.filling import UnseenModalities
from multimask.model import MaskedModel

if TYPE_CHECKING:
    from multimask.finetuning import Classifier

MEASURES = {
    "probe": "probe",
    "knn": "kNN",
    "carried": "probe of all",
    "mixed": "probe of any",
    "tuned": "fine-tuned",
}


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Linear probe and nearest neighbours for every set of modalities, beside random weights.

    The "probe of all" learned with all modalities there and is asked when only some are, the "probe
    of any" learned from random sets of them. Of fine-tuned models their own head is asked too.
    """

    model: Annotated[Path, "folder of a saved model"]
    data: Annotated[Path, "CSV, Parquet, NPZ or store with a column a modality, and labels"]
    subsets: Annotated[tuple[str, ...], "all, or sets such as rgb,rgb+depth"] = ("all",)
    beside: Annotated[tuple[str, ...], "folders of other models of the same modalities"] = ()
    label: Annotated[str, "column with the classes"] = "label"
    held_out: Annotated[float, "share tested on where the data name no split"] = 0.25
    pool: Annotated[str, "mean of the tokens, or global: the first global token"] = "mean"
    workers: Annotated[int, "processes that read data"] = 0
    device: Annotated[str, "auto, cpu, cuda"] = "auto"
    seed: Annotated[int, "of the random weights and the probe"] = 0
    out: Annotated[Path, "folder for subsets.json, subsets.csv and subsets.png"] = Path(
        "runs/evaluate"
    )


@dataclass(frozen=True)
class Judged:
    """One model's scores, by subset, and what it is called."""

    name: str
    scores: list[SubsetScore]
    of: dict[tuple[str, ...], SubsetScore] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", {score.names: score for score in self.scores})


def evaluate(flags: Evaluate) -> None:
    model, head = opened(flags.model)
    table = models_table(model, flags.data)
    check_label(table, flags.label, flags.data, "to probe")
    train, test = parts_of(table, flags.held_out, None)
    subsets = asked_for(flags.subsets, list(table.readers), model)
    models = {"model": (model, head), "random weights": (fresh(model, flags.seed), None)}
    for folder in flags.beside:
        models[folder] = other(folder, model)
    judged = []
    for name, (one, its_head) in models.items():
        scores = scored(one, train, test, subsets, flags)
        if its_head is not None:
            scores = [with_answers(score, its_head, test, flags) for score in scores]
        judged.append(Judged(name, scores))
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


def opened(folder: str | Path) -> tuple[MaskedModel, "Classifier | None"]:
    """A saved model, with its head where it was fine-tuned."""
    if not (Path(folder) / "head.safetensors").is_file():
        return load(folder), None
    from multimask.finetuning import Classifier  # seconds to import

    made = Classifier.load(folder)
    return made.model, made


def other(folder: str, model: MaskedModel) -> tuple[MaskedModel, "Classifier | None"]:
    found, head = opened(folder)
    if list(found.slots) != list(model.slots):
        raise ValueError(
            f"--beside {folder}: its modalities are {', '.join(found.slots)}, those of the model "
            f"{', '.join(model.slots)}."
        )
    return found, head


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


def scored(
    model: MaskedModel,
    train: Table,
    test: Table,
    subsets: Sequence[tuple[str, ...]],
    flags: Evaluate,
) -> list[SubsetScore]:
    return evaluation.subset_scores(
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


# --- telling --------------------------------------------------------------------------------------


def numbers(subset: tuple[str, ...], judged: Sequence[Judged]) -> dict[str, Any]:
    """One subset's row: accuracies by model and measure."""
    first = judged[0].of[subset]
    row: dict[str, Any] = {"subset": "+".join(subset), "test_rows": len(first.items)}
    row["seen_in_training"] = first.seen
    for each in judged:
        for measure in MEASURES:
            right = getattr(each.of[subset], measure)
            if measure != "tuned" or has_head(each):
                row[f"{measure} {each.name}"] = None if right is None else float(right.mean())
    return row


def has_head(judged: Judged) -> bool:
    return any(score.tuned is not None for score in judged.scores)


def short_names(judged: Sequence[Judged]) -> dict[str, str]:
    beside = [f"beside {n}" for n in range(1, len(judged) - 1)]
    return dict(zip([each.name for each in judged], ["model", "random", *beside], strict=True))


def lost(judged: Sequence[Judged], subsets: Sequence[tuple[str, ...]]) -> dict[str, dict[str, Any]]:
    """By measure: what each model loses on average when modalities drop, and how much more the
    others lose than the first; paired over the test rows that have all modalities. Models that lack
    a measure are left out."""
    whole = max(subsets, key=len)
    fewer = [subset for subset in subsets if set(subset) < set(whole)]
    found: dict[str, dict[str, Any]] = {}
    for measure in MEASURES:
        asked = {each.name: [each.of[s] for s in (whole, *fewer)] for each in judged}
        scores = {
            name: all_
            for name, all_ in asked.items()
            if all(getattr(score, measure) is not None for score in all_)
        }
        if not fewer or not scores:
            continue
        items = judged[0].of[whole].items
        losses = {name: loss(all_, measure, items) for name, all_ in scores.items()}
        found[measure] = {name: {"lost": float(x.mean())} for name, x in losses.items()}
        reference, *rest = losses
        for name in rest:
            more = evaluation.paired_bootstrap([losses[name]], [losses[reference]])
            found[measure][name] |= {"more_by": more.mean, "interval": [more.low, more.high]}
        if measure == "mixed" and "carried" in found:
            for name in losses.keys() & found["carried"].keys():
                other = loss(scores[name], "carried", items)
                less = evaluation.paired_bootstrap([other], [losses[name]])
                between = [less.low, less.high]
                found[measure][name] |= {"less_by": less.mean, "less_interval": between}
    return found


def loss(scores: Sequence[SubsetScore], measure: str, items: Sequence[str]) -> np.ndarray:
    """What each of these rows loses, from the first set of modalities to the mean of the others."""
    first, *rest = (of_items(score, measure, items) for score in scores)
    return first - np.mean(rest, axis=0)


def of_items(score: SubsetScore, measure: str, items: Sequence[str]) -> np.ndarray:
    """Right or wrong of these rows, in this order."""
    place = {name: index for index, name in enumerate(score.items)}
    return getattr(score, measure)[[place[name] for name in items]].astype(float)


def as_csv(rows: Sequence[dict[str, Any]]) -> bytes:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def drawn(
    rows: Sequence[dict[str, Any]], judged: Sequence[Judged], test: Table, label: str
) -> np.ndarray:
    """Each subset's probes, the one of all and the one of any, beside random weights; of fine-tuned
    models what they say themselves."""
    classes = [str(value) for value in test.columns[label] if value is not None]
    heads = any(map(has_head, judged))
    ways = {
        f"{measure} {name}": f"{MEASURES[measure]}, {short}"
        for name, short in short_names(judged).items()
        for measure in (("mixed", "tuned") if heads else ("carried", "mixed"))
        if f"{measure} {name}" in rows[0]
    }
    lines = {row["subset"]: [row[way] for way in ways] for row in rows}
    chance = float(np.unique(classes, return_counts=True)[1].max() / len(classes))
    return dots(lines, list(ways.values()), "accuracy by what is there", "accuracy", chance)


def told(
    rows: Sequence[dict[str, Any]], judged: Sequence[Judged], losses: dict[str, dict[str, Any]]
) -> str:
    wide = max(12, *(len(row["subset"]) + 2 for row in rows))
    short = short_names(judged)
    columns = [(m, name) for m in MEASURES for name in short if f"{m} {name}" in rows[0]]
    groups = [[name for m, name in columns if m == measure] for measure in MEASURES]
    named = zip(MEASURES.values(), groups, strict=True)
    heads = "".join(f"{title:<{10 * len(group)}}" for title, group in named if group)
    lines = [f"{'':<{wide}}{'rows':<7}{heads}"]
    lines.append(f"{'':<{wide}}{'':<7}" + "".join(f"{short[who]:<10}" for _, who in columns))
    for row in rows:
        name = row["subset"] + ("*" if row["seen_in_training"] is False else "")
        values = [row[f"{measure} {who}"] for measure, who in columns]
        cells = "".join(f"{'-' if v is None else f'{v:.3f}':<10}" for v in values)
        lines.append(f"{name:<{wide}}{row['test_rows']:<7}{cells}")
    for measure, found in losses.items():
        cells = []
        for name, numbers_of in found.items():
            text = f"{name} {numbers_of['lost']:.3f}"
            if "interval" in numbers_of:
                low, high = numbers_of["interval"]
                text += f" (more by {numbers_of['more_by']:+.3f} [{low:+.3f}, {high:+.3f}])"
            cells.append(text)
        lines.append(f"{MEASURES[measure]} loses when modalities drop: " + ", ".join(cells))
    for name, numbers_of in losses.get("mixed", {}).items():
        if "less_by" in numbers_of:
            low, high = numbers_of["less_interval"]
            lines.append(
                f"  {name}: the probe of any loses less than that of all by "
                f"{numbers_of['less_by']:+.3f} [{low:+.3f}, {high:+.3f}]"
            )
    if any(row["seen_in_training"] is False for row in rows):
        lines.append("* warning: in training the encoder never read something of just these.")
    return "\n".join(lines)
