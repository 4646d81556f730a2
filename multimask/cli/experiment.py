"""What every experiment shares: its run folder, and how learning is shown.

An experiment builds tokenizers and tables and hands them over as a `Study`; `carry_out` trains one
model a seed, compares it with its own initial weights on held-out rows, and writes the run folder:
`config.yaml, metrics.json, model/, checkpoints/, reconstructions.png, masks.png, curves.png, log/`.
"""

import copy
import inspect
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from multimask import pictures, plugins
from multimask.checkpoints import initialise
from multimask.checkpoints.folder import write_whole
from multimask.cli.data import as_batch, rule_of
from multimask.cli.flags import to_yaml
from multimask.cli.measures import asked, featureless, incomparable, scores
from multimask.cli.outcome import SeedRun, provenance, report, summarise
from multimask.cli.study import RunFlags, Study
from multimask.masking import Masker, Ratio, Uniform
from multimask.methods.recipe import Recipe
from multimask.modality import Tokenizer
from multimask.training.checkpoints import Checkpoints
from multimask.training.fit import fit
from multimask.training.memory import keep_freed_memory


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
    study = comparable(study)
    measures = asked(flags, study)
    sized = "arch" in inspect.signature(plugins.load("methods", flags.method)).parameters
    if flags.size != "tiny" and not sized:
        print(
            f"--size {flags.size}: method {flags.method!r} has one shape, the published, for all."
        )
    if flags.keep_memory:
        keep_freed_memory()
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
    metrics = summarise(study, runs, measures) | provenance(settings)
    write_whole(flags.out / "metrics.json", (json.dumps(metrics, indent=1) + "\n").encode())
    print(report(flags, metrics, measures))
    return metrics


def comparable(study: Study) -> Study:
    """The study, or one without labels where probes could not be scored: said before, not after,
    hours of training."""
    if study.label is None:
        return study
    why = incomparable(*(part.columns[study.label] for part in (study.train, study.test)))
    if why is None:
        return study
    print(f"no probes: {why}; hold out other rows, or name another column with --label.")
    return replace(study, label=None)


def one_seed(flags: RunFlags, study: Study, seed: int, out: Path) -> SeedRun:
    torch.manual_seed(seed)
    recipe = build_recipe(flags, study.modalities, study.method_arguments)
    initial = copy.deepcopy(recipe.model)  # random, also where weights are given
    if flags.init is not None:
        print(initialise(recipe.model, flags.init), flush=True)
    print(f"seed {seed}\n{recipe.model.describe(recipe.objective.masker)}", flush=True)
    if study.label is not None and featureless(recipe.model):
        study = unprobed(flags, study, first=seed == flags.seed)
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
        online_knn=study.label if flags.online_knn else None,
        out=out,
        seed=seed,
        workers=flags.workers,
        device=flags.device,
        precision=flags.precision,
        clip=flags.clip,
        strategy=flags.strategy,
        compile=flags.compile,
        recompute=flags.recompute,
        profile=flags.profile,
        checkpoints=Checkpoints(flags.save_minutes, flags.save_steps, flags.keep, flags.keep_best),
        max_bad=flags.max_bad,
        resume=flags.resume,
        **training,
    )
    recipe.model.save(out / "model")
    draw_masks(recipe, study, seed, out / "masks.png")
    if study.label is None:
        return SeedRun(fitted, None, None)
    pretrained, random_init = scores((recipe.model, initial), study, flags, seed)
    return SeedRun(fitted, pretrained, random_init)


def unprobed(flags: RunFlags, study: Study, first: bool) -> Study:
    """The study without labels, for a method whose model answers and does not encode; said once.
    Raises: ValueError where a measure of features was asked for."""
    why = f"method {flags.method!r} answers hidden tokens and has no features to probe"
    if flags.evaluate:
        raise ValueError(f"--evaluate {','.join(flags.evaluate)}: {why}.")
    if first:
        print(f"no probes: {why}.", flush=True)
    return replace(study, label=None)


def draw_masks(recipe: Recipe, study: Study, seed: int, file: Path) -> None:
    """Some held-out samples as several epochs would hide them."""
    batch, _ = as_batch(study.test, study.modalities, most=4)
    drawn = pictures.masks(recipe.model, batch, recipe.objective.masker, seed=seed)
    if drawn is not None:
        pictures.save(drawn, file)
