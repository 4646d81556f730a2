"""What a second of CPU time buys: graph encoder or shared transformer, body parts or random joints.

All variants read the same clips and train for the same CPU seconds (steps are counted beforehand
from a few timed ones). Pairs that differ in their masks hide equally many tokens. Frozen features
of held-out clips are judged beside the same network's initial weights: linear probe, nearest
neighbours, and a linear probe that learns from a few takes of each class. Made motion, or yours.
"""

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch

from multimask import evaluation
from multimask.cli.flags import run
from multimask.datasets.formats.skeleton_facts import suggested
from multimask.datasets.formats.skeletons import SkeletonReader
from multimask.datasets.synthetic_skeleton import walkers
from multimask.datasets.table import Table
from multimask.masking import Masker, Ratio
from multimask.methods.mae import mae
from multimask.methods.recipe import Recipe
from multimask.methods.skeletonmae import skeletonmae
from multimask.modalities.skeleton import SkeletonJoints
from multimask.modalities.skeleton_masking import BodyParts, JointTubes
from multimask.model import MaskedModel
from multimask.objectives import Reconstruction
from multimask.training.fit import fit


@dataclass(frozen=True)
class Config:
    """Compare encoders and masks of skeletons at equal CPU seconds."""

    data: Annotated[Path | None, "folder of motion with labels.csv; default: made motion"] = None
    seconds: Annotated[float, "CPU seconds of training, each variant and seed"] = 100.0
    seeds: Annotated[int, "runs of every variant"] = 1
    frames: Annotated[int, "frames of a clip"] = 32
    segment: Annotated[int, "frames of a transformer's token; graphs have 1"] = 8
    batch_size: Annotated[int, "clips a step"] = 64
    shots: Annotated[int, "takes of each class that the few-shot probe learns from"] = 3
    draws: Annotated[int, "how often these are drawn"] = 10
    only: Annotated[str, "variants whose name holds this"] = ""


@dataclass(frozen=True)
class Data:
    """train is augmented when drawn; both are read alike for judging."""

    train: Table
    test: Table


def main(config: Config) -> None:
    torch.set_num_threads(1)  # CPU seconds are then seconds
    told = SkeletonJoints.spelled(
        {"topology": "smpl24"} if config.data is None else suggested(config.data)
    )
    told["unit"] = 0.2 * told.get("unit", 1.0)  # joints lie decimetres apart: values of about 1
    joints = SkeletonJoints(frames=config.frames, **told)
    times = SkeletonJoints(frames=config.frames, segment=config.segment, **told)
    data = read(config, joints)
    print(f"{len(data.train)} clips to train on, {len(data.test)} to test, {config.frames} frames")
    print(f"{'':<34}{'CPU s':>7}{'steps':>7}   probe          kNN            few-shot")
    for name, build in variants(joints, times).items():
        if config.only in name:
            print(f"{name:<34}{judged(config, data, build)}", flush=True)


def variants(joints: SkeletonJoints, times: SkeletonJoints) -> Mapping[str, Callable[[], Recipe]]:
    """Every pair of the same encoder hides equally many tokens."""
    skeleton = joints.topology
    rule = BodyParts(skeleton, (skeleton.right_parts,))
    hidden = rule.size(skeleton.right_parts) / len(skeleton)

    def graph(masker: Masker | None) -> Recipe:
        return skeletonmae({"skeleton": joints}, masker=masker)

    def transformer(masker: Masker, ratio: float = hidden) -> Recipe:
        return mae(
            {"skeleton": times},
            width=96,
            depth=3,
            heads=4,
            decoder_width=64,
            decoder_depth=1,
            decoder_heads=4,
            ratio=ratio,
            rule=masker.rule,
            normalise=False,
        )

    spread = Ratio(hidden)
    share = f"{hidden:.0%}"
    return {
        f"graph, right arm and leg, {share}": lambda: graph(None),
        f"graph, parts at random, {share}": lambda: graph(
            Masker(BodyParts(skeleton), spread, ragged=True, in_place=True)
        ),
        f"graph, joints at random, {share}": lambda: graph(
            Masker(JointTubes(), spread, ragged=True, in_place=True)
        ),
        f"transformer, parts at random, {share}": lambda: transformer(Masker(BodyParts(skeleton))),
        f"transformer, joints at random, {share}": lambda: transformer(Masker(JointTubes())),
        f"transformer, tokens at random, {share}": lambda: transformer(Masker()),
        "transformer, tokens at random, 75%": lambda: transformer(Masker(), 0.75),
    }


def read(config: Config, joints: SkeletonJoints) -> Data:
    plain = SkeletonReader.fitted(joints, augment=False)
    table = (
        walkers()
        if config.data is None
        else Table.open(config.data, modality="skeleton", reader=plain)
    )
    table = table.with_readers(skeleton=plain)
    train = table.where(split="train")
    moving = SkeletonReader.fitted(joints, augment=True)
    return Data(train.with_readers(skeleton=moving), table.where(split="test"))


def judged(config: Config, data: Data, build: Callable[[], Recipe]) -> str:
    """A line of the table: means over seeds, pretrained / initial weights."""
    rows, used, steps = [], [], 0
    for seed in range(config.seeds):
        torch.manual_seed(seed)
        recipe = build()
        initial = copy.deepcopy(recipe.model)
        began = time.process_time()
        steps = trained(config, data, recipe, build, seed)
        used.append(time.process_time() - began)
        rows.append(
            (*scores(config, data, recipe.model, seed), *scores(config, data, initial, seed))
        )
    after = [statistics.mean(column) for column in zip(*rows, strict=True)]
    pairs = zip(after[:3], after[3:], strict=True)
    cells = "".join(f"{a:.3f} / {b:.3f}  " for a, b in pairs)
    return f"{statistics.mean(used):>7.1f}{steps:>7}   {cells}".rstrip()


def trained(
    config: Config, data: Data, recipe: Recipe, build: Callable[[], Recipe], seed: int
) -> int:
    """Train for about `seconds`, timed steps of a throw-away copy included; how many steps."""
    began = time.process_time()
    warm, timed = 2, 8
    spare = build()
    stamps = []
    for steps in (warm, timed):
        start = time.process_time()
        training(config, data, spare, seed, epochs=100, limit=steps)
        stamps.append((time.process_time() - start) / steps)
    left = config.seconds - (time.process_time() - began)
    per_epoch = max(1, len(data.train) // config.batch_size) * stamps[-1]
    epochs = max(1, round(left / per_epoch))
    return training(config, data, recipe, seed, epochs)


def training(
    config: Config, data: Data, recipe: Recipe, seed: int, epochs: int, limit: int | None = None
) -> int:
    fitted = fit(
        recipe.model,
        recipe.objective,
        data.train,
        epochs=epochs,
        batch_size=config.batch_size,
        lr=2e-3 if isinstance(recipe.objective, Reconstruction) else 1e-3,
        lr_per=None,
        clip=1.0,
        weight_decay=0.05,
        seed=seed,
        progress=False,
        limit_steps=limit,
    )
    return fitted.steps


def scores(config: Config, data: Data, model: MaskedModel, seed: int) -> tuple[float, float, float]:
    """Linear probe, nearest neighbours, and few takes a class, on the test rows."""
    train, test = (evaluation.embed(model, part) for part in (data.train, data.test))
    known, asked = train.labels["label"], test.labels["label"]
    probe = evaluation.linear_probe(train.features, known, test.features, asked, seed=seed)
    voted = evaluation.knn(train.features, known, test.features, asked)
    assert voted.accuracy is not None  # labels were given
    few = []
    for draw in range(config.draws):
        generator = np.random.default_rng((seed, draw))
        chosen = [
            row
            for name in np.unique(known)
            for row in generator.permutation(np.flatnonzero(known == name))[: config.shots]
        ]
        fitted = evaluation.svm(
            train.features[chosen], known[chosen], test.features, asked, grid=(0.01,)
        )
        few.append(fitted.accuracy)
    return probe.accuracy, voted.accuracy, statistics.mean(few)


if __name__ == "__main__":
    raise SystemExit(run(main, Config))
