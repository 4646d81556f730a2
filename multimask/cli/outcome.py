"""What came of an experiment: its numbers, what would give them again, and what a person reads."""

import hashlib
import platform
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from multimask import evaluation
from multimask.cli.measures import MEASURES, Scores, has_class, labelled
from multimask.cli.study import RunFlags, Study
from multimask.training.result import FitResult


@dataclass(frozen=True)
class SeedRun:
    """One seed: how it trained, and how the model and its initial weights score."""

    fitted: FitResult
    pretrained: Scores | None
    random_init: Scores | None


def summarise(study: Study, runs: Mapping[int, SeedRun], measures: Iterable[str]) -> dict[str, Any]:
    """The numbers of a run; what needs labels is None without them."""
    first = next(iter(runs.values())).fitted
    metrics: dict[str, Any] = {
        "samples": len(study.train),
        "test_samples": len(study.test),
        "epochs": len(first.epochs),
        "steps": first.steps,
        "loss_first": mean(run.fitted.loss_first for run in runs.values()),
        "loss_last": mean(run.fitted.loss_last for run in runs.values()),
        "loss_val": mean(run.fitted.loss_val for run in runs.values()),
        "samples_per_second": mean(run.fitted.samples_per_second for run in runs.values()),
        "effective_ratio": first.effective_ratio,
        "peak_memory_mib": max(run.fitted.peak_memory for run in runs.values()),
        "skipped": [list(item) for run in runs.values() for item in run.fitted.skipped],
        "seeds": list(runs),
    }
    for name in measures:
        comparison, what = compared(runs, name), key(name)
        pairs = (
            {"": None, "_random_init": None}
            if comparison is None
            else {"": comparison.pretrained, "_random_init": comparison.random_init}
        )
        for whose, values in pairs.items():
            metrics[f"{what}_accuracy{whose}"] = None if values is None else mean(values)
            metrics[f"{what}_accuracy{whose}_by_seed"] = values
        between = None if comparison is None else comparison.interval
        metrics[f"{what}_gain_interval"] = None if between is None else [between.low, between.high]
        metrics[f"{what}_shows_learning"] = None if comparison is None else comparison.learned
        metrics[f"{what}_count"] = None if comparison is None else comparison.items
    scored = metrics["probe_accuracy"] is not None
    return metrics | controls(study if scored else replace(study, label=None))


def compared(runs: Mapping[int, SeedRun], what: str) -> evaluation.Comparison | None:
    pairs = [
        (run.pretrained[what], run.random_init[what])
        for run in runs.values()
        if run.pretrained is not None and run.random_init is not None and what in run.pretrained
    ]
    if not pairs:
        return None
    return evaluation.shows_learning([a for a, _ in pairs], [b for _, b in pairs])


def key(measure: str) -> str:
    """How a measure's numbers are called in `metrics.json`."""
    return measure.replace("-", "_")


def controls(study: Study) -> dict[str, float | None]:
    """What is to be had without a model: raw values, per-channel means, the largest class."""
    names = ("probe_accuracy_raw_values", "probe_accuracy_channel_means", "chance")
    if study.label is None:
        return dict.fromkeys(names)
    found = []
    for raw in (evaluation.raw_values, evaluation.raw_means):
        train, test = (raw(samples, study.modalities) for samples in (study.train, study.test))
        fitted = evaluation.linear_probe(*labelled(train, study), *labelled(test, study))
        found.append(fitted.accuracy)
    classes = np.array(list(study.test.columns[study.label]), object)
    counts = Counter(classes[has_class(classes)])
    largest = max(counts.values()) / counts.total()
    return dict(zip(names, [*found, largest], strict=True))


def provenance(settings: str) -> dict[str, Any]:
    """What would have to be equal to get these numbers again."""
    packages = ("multimask", "torch", "lightning", "numpy", "scikit-learn")
    return {
        "config_hash": hashlib.sha256(settings.encode()).hexdigest()[:16],
        "git_commit": git_commit(),
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
    }


def git_commit() -> str | None:
    """The commit of a source checkout, with + behind it when files differ; None elsewhere."""
    where = Path(__file__).parent
    try:
        asked = [
            subprocess.run(["git", *words], cwd=where, capture_output=True, text=True, check=True)
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    commit, changed = (answer.stdout.strip() for answer in asked)
    return commit + ("+" if changed else "")


def report(flags: RunFlags, metrics: Mapping[str, Any], measures: Iterable[str]) -> str:
    """What a person wants to know first."""
    lines = [
        "",
        f"loss              {metrics['loss_first']:.4f} -> {metrics['loss_last']:.4f}"
        + ("" if metrics["loss_val"] is None else f" (held out {metrics['loss_val']:.4f})"),
        f"speed             {metrics['samples_per_second']:.0f} samples/s, "
        f"peak memory {metrics['peak_memory_mib']:.0f} MiB",
    ]
    if metrics["probe_accuracy"] is not None:
        lines.append("accuracy          pretrained   random init   (by seed)")
        for measure in measures:
            if metrics[f"{key(measure)}_accuracy"] is None:
                continue  # left out, which was said
            what, title, unit = key(measure), MEASURES[measure].title, MEASURES[measure].unit
            after, before = metrics[f"{what}_accuracy"], metrics[f"{what}_accuracy_random_init"]
            pairs = zip(
                metrics[f"{what}_accuracy_by_seed"],
                metrics[f"{what}_accuracy_random_init_by_seed"],
                strict=True,
            )
            by_seed = ", ".join(f"{a:.3f}/{b:.3f}" for a, b in pairs)
            low, high = metrics[f"{what}_gain_interval"]
            lines += [
                f"  {title:<20}{after:<13.3f}{before:<14.3f}{by_seed}",
                f"  {'':<20}gain {after - before:+.3f}, 95 % interval [{low:+.3f}, {high:+.3f}]"
                f" over {metrics[f'{what}_count']} {unit}",
            ]
        lines.append(
            f"  without a model     raw values {metrics['probe_accuracy_raw_values']:.3f}, channel "
            f"means {metrics['probe_accuracy_channel_means']:.3f}, "
            f"largest class {metrics['chance']:.3f}"
        )
    if metrics["skipped"]:
        lines.append(f"skipped           {len(metrics['skipped'])} samples: see log/skipped.csv")
    lines.append(f"model             {flags.out / 'model'}")
    drawn = [flags.out / f"{name}.png" for name in ("reconstructions", "masks", "curves")]
    drawn = [str(path) for path in drawn if path.is_file()]
    if drawn:
        lines.append(f"look at           {', '.join(drawn)}")
    return "\n".join(lines)


def mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
