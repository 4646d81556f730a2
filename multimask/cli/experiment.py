"""What every experiment shares: its flags, its run folder, and how learning is shown.

An experiment builds tokenizers and tables and hands them over as a `Study`; `carry_out` trains one
model a seed, compares it with its own initial weights on held-out rows, and writes the run folder:
`config.yaml, metrics.json, model/, checkpoints/, reconstructions.png, masks.png, curves.png, log/`.
"""

import copy
import hashlib
import inspect
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool

from multimask import evaluation, pictures, plugins
from multimask.checkpoints.folder import write_whole
from multimask.cli.data import as_batch, rule_of
from multimask.cli.flags import to_yaml
from multimask.datasets.table import Table
from multimask.masking import Masker, Ratio, Uniform
from multimask.methods.recipe import Recipe
from multimask.modality import Tokenizer
from multimask.model import MaskedModel
from multimask.training.fit import fit
from multimask.training.result import FitResult


@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """The flags that all experiments share."""

    data: Annotated[Path | None, "folder, CSV, Parquet, NPY or NPZ; default: embedded data"] = None
    out: Annotated[Path, "run folder"] = Path("runs/run")
    epochs: Annotated[int, "passes over the training rows"] = 100
    batch_size: Annotated[int, "samples an optimiser step"] = 64
    accumulate: Annotated[int, "micro-batches a step is split into (less memory)"] = 1
    method: Annotated[str, "pre-training method, by plug-in name"] = "mae"
    size: Annotated[str, "encoder: tiny, small, base, large, huge"] = "tiny"
    width: Annotated[int | None, "encoder width, instead of the size's"] = None
    depth: Annotated[int | None, "encoder depth, instead of the size's"] = None
    heads: Annotated[int | None, "encoder heads, instead of the size's"] = None
    decoder_width: Annotated[int | None, "decoder width, instead of the method's"] = None
    decoder_depth: Annotated[int | None, "decoder depth, instead of the method's"] = None
    decoder_heads: Annotated[int | None, "decoder heads, instead of the method's"] = None
    ratio: Annotated[float | None, "share of tokens hidden, instead of the method's"] = None
    masker: Annotated[str | None, "who is hidden, by plug-in name: random, block, grid ..."] = None
    normalise: Annotated[bool | None, "regress values normalised per token"] = None
    lr: Annotated[float | None, "peak learning rate, not scaled by the batch"] = None
    warmup: Annotated[float | None, "share of the steps with rising learning rate"] = None
    clip: Annotated[float | None, "largest gradient norm"] = None
    seed: Annotated[int, "of weights, order, crops and masks"] = 0
    seeds: Annotated[int, "how many runs, with seeds counted up from the first"] = 1
    workers: Annotated[int, "processes that read data"] = 0
    device: Annotated[str, "auto, cpu, cuda"] = "auto"
    precision: Annotated[Literal["32", "bf16", "fp16", "tf32"], "numbers in matrix products"] = "32"
    resume: Annotated[Path | None, "checkpoint to go on from: .../checkpoints/last.ckpt"] = None
    limit: Annotated[int | None, "use only the first N rows of each part"] = None
    max_bad: Annotated[float, "share of unreadable samples at which the run fails"] = 0.2
    label: Annotated[str, "column with the classes that probes tell apart"] = "label"


@dataclass(frozen=True)
class Study:
    """What an experiment hands over. train is pre-trained on (augmented when it can `draw`);
    test is never trained on. Where a label column is there, probes learn on train and are scored
    on test; else losses are all that is reported."""

    modalities: Mapping[str, Tokenizer]
    train: Table
    test: Table
    label: str | None
    method_arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """One model on the test rows: which items a linear probe and kNN got right."""

    probe: Bool[np.ndarray, " items"]
    knn: Bool[np.ndarray, " items"]


@dataclass(frozen=True)
class SeedRun:
    """One seed: how it trained, and how the model and its initial weights score."""

    fitted: FitResult
    pretrained: Scores | None
    random_init: Scores | None


def build_recipe(
    flags: RunFlags,
    modalities: Mapping[str, Tokenizer],
    arguments: Mapping[str, Any] | None = None,
) -> Recipe:
    """The method's recipe with whatever flags were given; a flag it does not take is an error."""
    method = plugins.load("methods", flags.method)
    takes = inspect.signature(method).parameters
    asked: dict[str, Any] = {
        name: getattr(flags, name)
        for name in (
            "width",
            "depth",
            "heads",
            "decoder_width",
            "decoder_depth",
            "decoder_heads",
            "ratio",
            "normalise",
        )
        if getattr(flags, name) is not None
    }
    if flags.masker is not None:
        asked["rule"] = rule_of(flags.masker, modalities)
    if "masker" in takes and "rule" not in takes and {"rule", "ratio"} & set(asked):
        # a method that wants the two together
        budget = Ratio(asked.pop("ratio")) if "ratio" in asked else Ratio()
        asked["masker"] = Masker(asked.pop("rule", Uniform()), budget, ragged=True)
    asked |= arguments or {}
    refused = sorted(set(asked) - set(takes))
    if refused:
        raise ValueError(
            f"method {flags.method!r} takes no {', '.join(refused)}; it takes {', '.join(takes)}."
        )
    if "arch" in takes:
        asked["arch"] = flags.size
    return method(dict(modalities), **asked)


def carry_out(flags: RunFlags, study: Study) -> dict[str, Any]:
    """Train and score every seed, write the run folder, print the outcome, return the metrics."""
    if flags.seeds < 1:
        raise ValueError(f"--seeds {flags.seeds}: at least one run is needed.")
    flags.out.mkdir(parents=True, exist_ok=True)
    settings = to_yaml(flags)
    write_whole(flags.out / "config.yaml", settings.encode())
    seeds = range(flags.seed, flags.seed + flags.seeds)
    runs = {
        seed: one_seed(
            flags, study, seed, flags.out if seed == flags.seed else flags.out / f"seed-{seed}"
        )
        for seed in seeds
    }
    metrics = summarise(study, runs) | provenance(settings)
    write_whole(flags.out / "metrics.json", (json.dumps(metrics, indent=1) + "\n").encode())
    print(report(flags, metrics))
    return metrics


def one_seed(flags: RunFlags, study: Study, seed: int, out: Path) -> SeedRun:
    torch.manual_seed(seed)
    recipe = build_recipe(flags, study.modalities, study.method_arguments)
    initial = copy.deepcopy(recipe.model)
    print(f"seed {seed}\n{recipe.model.describe(recipe.objective.masker)}", flush=True)
    training = dict(recipe.training)
    if flags.lr is not None:
        training |= {"lr": flags.lr, "lr_per": None}
    if flags.warmup is not None:
        training["warmup"] = flags.warmup
    fitted = fit(
        recipe.model,
        recipe.objective,
        study.train,
        epochs=flags.epochs,
        batch_size=flags.batch_size,
        accumulate=flags.accumulate,
        validation=study.test,
        online_knn=study.label,
        out=out,
        seed=seed,
        workers=flags.workers,
        device=flags.device,
        precision=flags.precision,
        clip=flags.clip,
        max_bad=flags.max_bad,
        resume=flags.resume,
        **training,
    )
    recipe.model.save(out / "model")
    draw_masks(recipe, study, seed, out / "masks.png")
    if study.label is None:
        return SeedRun(fitted, None, None)
    pretrained, random_init = (
        scores(model, study, flags, seed) for model in (recipe.model, initial)
    )
    return SeedRun(fitted, pretrained, random_init)


def draw_masks(recipe: Recipe, study: Study, seed: int, file: Path) -> None:
    """Some held-out samples as several epochs would hide them."""
    batch, _ = as_batch(study.test.select(range(min(4, len(study.test)))), study.modalities)
    drawn = pictures.masks(recipe.model, batch, recipe.objective.masker, seed=seed)
    if drawn is not None:
        pictures.save(drawn, file)


def scores(model: MaskedModel, study: Study, flags: RunFlags, seed: int) -> Scores:
    train, test = (
        evaluation.embed(model, samples, workers=flags.workers, device=flags.device)
        for samples in (study.train, study.test)
    )
    probe = evaluation.linear_probe(*labelled(train, study), *labelled(test, study), seed=seed)
    neighbours = evaluation.knn(*labelled(train, study), *labelled(test, study))
    assert neighbours.correct is not None  # labels were given
    return Scores(probe.correct, neighbours.correct)


def labelled(embeddings: evaluation.Embeddings, study: Study) -> tuple[np.ndarray, np.ndarray]:
    return embeddings.features, embeddings.labels[str(study.label)]


def summarise(study: Study, runs: Mapping[int, SeedRun]) -> dict[str, Any]:
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
    for what in ("probe", "knn"):
        comparison = compared(runs, what)
        pairs = (
            {"": None, "_random_init": None}
            if comparison is None
            else {"": comparison.pretrained, "_random_init": comparison.random_init}
        )
        for name, values in pairs.items():
            metrics[f"{what}_accuracy{name}"] = None if values is None else mean(values)
            metrics[f"{what}_accuracy{name}_by_seed"] = values
        between = None if comparison is None else comparison.interval
        metrics[f"{what}_gain_interval"] = None if between is None else [between.low, between.high]
        metrics[f"{what}_shows_learning"] = None if comparison is None else comparison.learned
    return metrics | controls(study)


def compared(runs: Mapping[int, SeedRun], what: str) -> evaluation.Comparison | None:
    pairs = [
        (getattr(run.pretrained, what), getattr(run.random_init, what))
        for run in runs.values()
        if run.pretrained is not None and run.random_init is not None
    ]
    if not pairs:
        return None
    return evaluation.shows_learning([a for a, _ in pairs], [b for _, b in pairs])


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
    _, counts = np.unique(study.test.columns[study.label], return_counts=True)
    return dict(zip(names, [*found, float(counts.max() / counts.sum())], strict=True))


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


def report(flags: RunFlags, metrics: Mapping[str, Any]) -> str:
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
        for what, name in (("probe", "linear probe"), ("knn", "nearest neighbours")):
            after, before = metrics[f"{what}_accuracy"], metrics[f"{what}_accuracy_random_init"]
            pairs = zip(
                metrics[f"{what}_accuracy_by_seed"],
                metrics[f"{what}_accuracy_random_init_by_seed"],
                strict=True,
            )
            by_seed = ", ".join(f"{a:.3f}/{b:.3f}" for a, b in pairs)
            low, high = metrics[f"{what}_gain_interval"]
            lines += [
                f"  {name:<20}{after:<13.3f}{before:<14.3f}{by_seed}",
                f"  {'':<20}gain {after - before:+.3f}, 95 % interval [{low:+.3f}, {high:+.3f}]"
                f" over {metrics['test_samples']} test items",
            ]
        lines.append(
            f"  without a model     raw values {metrics['probe_accuracy_raw_values']:.3f}, channel "
            f"means {metrics['probe_accuracy_channel_means']:.3f}, "
            f"largest class {metrics['chance']:.3f}"
        )
    if metrics["skipped"]:
        lines.append(f"skipped           {len(metrics['skipped'])} samples: see log/skipped.csv")
    lines += [
        f"model             {flags.out / 'model'}",
        f"look at           {flags.out / 'reconstructions.png'}, {flags.out / 'masks.png'}, "
        f"{flags.out / 'curves.png'}",
    ]
    return "\n".join(lines)


def mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
