"""Low-label curves: how accuracy grows with labels, pre-trained beside random weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8

from multimask.curves import curves
from multimask.evaluation import Comparison, shows_learning
from multimask.finetuning.finetune import (
    Finetuned,
    Finetuning,
    epochs_for_steps,
    finetune,
    labelled_rows,
)
from multimask.model import MaskedModel
from multimask.tokens import Sample, Samples, sample_generator
from multimask.training.reading import as_samples

SHARES = (0.01, 0.05, 0.1, 1.0)


@dataclass(frozen=True)
class LabelShare:
    """One share of the labels: how many rows that was, and which test items each run got right, a
    seed after the other."""

    share: float
    rows: int
    pretrained: tuple[Bool[np.ndarray, " items"], ...]
    random_init: tuple[Bool[np.ndarray, " items"], ...]

    @property
    def comparison(self) -> Comparison | None:
        """None where nothing was trained from random weights."""
        if not self.random_init:
            return None
        return shows_learning(self.pretrained, self.random_init)


@dataclass(frozen=True)
class LabelCurve:
    stages: tuple[LabelShare, ...]

    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        """Mean accuracy over seeds against the number of labelled rows."""
        found = {
            "pretrained": [(p.rows, accuracy(p.pretrained)) for p in self.stages],
            "random init": [(p.rows, accuracy(p.random_init)) for p in self.stages],
        }
        return curves(
            {name: line for name, line in found.items() if np.isfinite(line[0][1])},
            title="fine-tuning with few labels",
            x_label="labelled rows",
            y_label="accuracy on test rows",
            log_x=True,
        )

    def numbers(self) -> dict[str, Any]:
        """For `metrics.json`: accuracies of the largest share, and all shares."""
        rows = [as_numbers(stage) for stage in self.stages]
        last = rows[-1]
        return {
            "finetune_accuracy": last["accuracy"],
            "finetune_accuracy_random_init": last["accuracy_random_init"],
            "shares": rows,
        }

    def __str__(self) -> str:
        lines = ["labels     rows  pretrained  random init  difference [95 % interval]"]
        for stage in self.stages:
            c, start = stage.comparison, f"{stage.share:<8.4g} {stage.rows:>6}"
            line = f"{start}  {accuracy(stage.pretrained):<10.3f}"
            if c is not None:
                line += (
                    f"  {accuracy(stage.random_init):<11.3f}  {c.interval.mean:+.3f} "
                    f"[{c.interval.low:+.3f}, {c.interval.high:+.3f}]"
                )
            lines.append(line)
        return "\n".join(lines)


def accuracy(right: Sequence[np.ndarray]) -> float:
    """Mean over seeds and items; NaN of nothing."""
    return float(np.mean(right)) if right else float("nan")


def as_numbers(stage: LabelShare) -> dict[str, Any]:
    c = stage.comparison
    return {
        "share": stage.share,
        "rows": stage.rows,
        "accuracy": accuracy(stage.pretrained),
        "accuracy_random_init": None if c is None else accuracy(stage.random_init),
        "accuracy_by_seed": [accuracy([right]) for right in stage.pretrained],
        "accuracy_random_init_by_seed": [accuracy([right]) for right in stage.random_init],
        "gain_interval": None if c is None else [c.interval.low, c.interval.high],
        "shows_learning": None if c is None else c.learned,
    }


def label_curve(
    pairs: Mapping[int, tuple[MaskedModel, MaskedModel | None]],
    train: Samples | Sequence[Sample],
    test: Samples | Sequence[Sample],
    how: Finetuning = Finetuning(),  # noqa: B008 - frozen
    *,
    shares: Sequence[float] = SHARES,
    label: str = "label",
    epochs: int,
    batch_size: int,
    min_steps: int = 200,
    keep: Callable[[Finetuned], None] | None = None,
    **training: Any,
) -> LabelCurve:
    """Fine-tune on growing shares of the labels and score each on all test rows.

    Each share holds the one before, about equally much of every class and at least one row of each.
    A share is trained for `epochs`, or longer until it has had `min_steps` optimiser steps.
    Args:
        pairs: by seed, the pre-trained model and the same one with random weights, or None.
        keep: called with what the first seed's pre-trained model became on the largest share.
        training: what else `finetune` takes, but seed.
    """
    train = as_samples(train)
    every = labelled_rows(train, label)
    reading = {k: training[k] for k in ("workers", "device") if k in training}
    stages = []
    for share in sorted(shares):
        right: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        count = 0
        for seed, models in pairs.items():
            rows = label_subset(train, every, label, share, seed)
            count = len(rows)
            for found, model in zip(right, models, strict=True):
                if model is None:
                    continue
                made = finetune(
                    model,
                    train,
                    how,
                    label=label,
                    epochs=max(epochs, epochs_for_steps(min_steps, count, batch_size)),
                    batch_size=batch_size,
                    limit_rows=rows.tolist(),
                    seed=seed,
                    **training,
                )
                first = found is right[0] and not found
                if keep is not None and first and share == max(shares):
                    keep(made)
                found.append(made.classifier.predict(test, **reading).correct(label))
        stages.append(LabelShare(share, count, tuple(right[0]), tuple(right[1])))
    return LabelCurve(tuple(stages))


def label_subset(
    samples: Samples, rows: Int[np.ndarray, " n"], label: str, share: float, seed: int
) -> Int[np.ndarray, " m"]:
    """This share of every class's rows, at least one; larger shares hold smaller ones."""
    if not 0 < share <= 1:
        raise ValueError(f"label_curve: a share of {share} must lie in (0, 1].")
    classes = np.array([str(samples.columns[label][row]) for row in rows.tolist()])
    chosen = []
    for name in np.unique(classes):
        mine = rows[classes == name]
        order = torch.randperm(
            len(mine), generator=sample_generator(seed, 0, str(name), "label subset")
        ).numpy()
        chosen.append(mine[order[: max(1, round(share * len(mine)))]])
    return np.sort(np.concatenate(chosen))
