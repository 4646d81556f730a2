"""What `multimask evaluate` tells: accuracies of every set of modalities, and what is lost when
modalities drop, as a table, as files and as a picture."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from multimask import evaluation
from multimask.datasets.table import Table
from multimask.dots import dots
from multimask.evaluation import SubsetScore

MEASURES = {
    "probe": "probe",
    "knn": "kNN",
    "carried": "probe of all",
    "mixed": "probe of any",
    "tuned": "fine-tuned",
}


@dataclass(frozen=True)
class Judged:
    """What a model is called, and its scores by subset, those of one seed after the other."""

    name: str
    seeds: list[list[SubsetScore]]

    def of(self, subset: tuple[str, ...]) -> list[SubsetScore]:
        return [score for scores in self.seeds for score in scores if score.names == subset]


def numbers(subset: tuple[str, ...], judged: Sequence[Judged]) -> dict[str, Any]:
    """One subset's row: accuracies by model and measure, means over the seeds."""
    first = judged[0].of(subset)
    row: dict[str, Any] = {"subset": "+".join(subset), "test_rows": len(first[0].items)}
    seen = {score.seen for score in first}
    row["seen_in_training"] = None if None in seen else all(seen)
    for each in judged:
        for measure in MEASURES:
            right = [getattr(score, measure) for score in each.of(subset)]
            if measure != "tuned" or has_head(each):
                told = None if any(r is None for r in right) else float(np.mean(right))
                row[f"{measure} {each.name}"] = told
    return row


def has_head(judged: Judged) -> bool:
    return any(score.tuned is not None for scores in judged.seeds for score in scores)


def short_names(judged: Sequence[Judged]) -> dict[str, str]:
    beside = [f"beside {n}" for n in range(1, len(judged) - 1)]
    return dict(zip([each.name for each in judged], ["model", "random", *beside], strict=True))


def lost(judged: Sequence[Judged], subsets: Sequence[tuple[str, ...]]) -> dict[str, dict[str, Any]]:
    """By measure: what each model loses on average when modalities drop, and how much more the
    others lose than the first; paired over the test rows that have all modalities, and over seeds.
    Models that lack a measure are left out."""
    whole = max(subsets, key=len)
    fewer = [subset for subset in subsets if set(subset) < set(whole)]
    found: dict[str, dict[str, Any]] = {}
    for measure in MEASURES if fewer else ():
        losses = {each.name: seeds_losses(each, measure, whole, fewer) for each in judged}
        losses = {name: seeds for name, seeds in losses.items() if seeds}
        for name, seeds in losses.items():
            means = [float(seed.mean()) for seed in seeds]
            made = found.setdefault(measure, {}).setdefault(name, {"lost": float(np.mean(means))})
            if len(means) > 1:
                made["lost_seeds"] = means
        for name in list(losses)[1:]:
            more = evaluation.paired_bootstrap(losses[name], next(iter(losses.values())))
            found[measure][name] |= {"more_by": more.mean, "interval": [more.low, more.high]}
        if measure == "mixed":
            for each in judged:
                of_all = seeds_losses(each, "carried", whole, fewer)
                if of_all and each.name in losses:
                    less = evaluation.paired_bootstrap(of_all, losses[each.name])
                    between = [less.low, less.high]
                    found[measure][each.name] |= {"less_by": less.mean, "less_interval": between}
    return found


def seeds_losses(
    judged: Judged, measure: str, whole: tuple[str, ...], fewer: Sequence[tuple[str, ...]]
) -> list[np.ndarray]:
    """Seed by seed, what each row that has all modalities loses; nothing where a score lacks."""
    sets = list(zip(*(judged.of(subset) for subset in (whole, *fewer)), strict=True))
    if any(getattr(score, measure) is None for seed in sets for score in seed):
        return []
    return [loss(seed, measure, sets[0][0].items) for seed in sets]


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
            if seeds := numbers_of.get("lost_seeds"):
                text += f" by seed {' '.join(f'{seed:.3f}' for seed in seeds)}"
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
