"""finetune: train a pre-trained model and a head on labelled samples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Int

from multimask.finetuning.classifier import Classifier, Head, Pool, classes_of
from multimask.finetuning.layers import prepared
from multimask.finetuning.mixing import Mixing
from multimask.finetuning.objective import Classification
from multimask.masking import Masker, Natural, Subset
from multimask.modality import collate
from multimask.model import MaskedModel
from multimask.tokens import BadSample, Batch, Sample, Samples
from multimask.training.fit import fit
from multimask.training.missing import foreseen, missing_matrix, subsets_seen
from multimask.training.reading import as_samples, blanks
from multimask.training.result import FitResult


@dataclass(frozen=True)
class Finetuning:
    """How to fine-tune. The defaults are MAE's for its base model (He et al., CVPR 2022).

    pool: head on the "mean" of the tokens, or on the "global" (class) token.
    layer_decay: factor on the learning rate from each block to the one before (.75 for larger).
    drop_path: chance of skipping the last block's branches, falling to 0 at the first; None is .1
        where the encoder knows it.
    smoothing: probability given to all classes alike.
    mixup, cutmix: see `Mixing`; 0 turns off. Only what can be mixed is.
    drop: chance that each modality of a training sample is left out, never all; so that the
        classifier may be asked when some are missing.
    lr: at its peak, for a batch of `lr_per` samples. warmup: share of the steps with rising rate.
    """

    pool: Pool = "mean"
    layer_decay: float = 0.65
    drop_path: float | None = None
    smoothing: float = 0.1
    mixup: float = 0.8
    cutmix: float = 1.0
    drop: float = 0.0
    lr: float = 5e-4
    lr_per: int | None = 256
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05
    warmup: float = 0.05
    min_lr: float = 1e-6


@dataclass(frozen=True)
class Finetuned:
    """The classifier, in eval mode, and how it was trained."""

    classifier: Classifier
    fit: FitResult


def finetune(
    model: MaskedModel,
    samples: Samples | Sequence[Sample],
    how: Finetuning = Finetuning(),
    *,
    label: str = "label",
    epochs: int,
    batch_size: int,
    seed: int = 0,
    limit_rows: Sequence[int] | None = None,
    **training: Any,
) -> Finetuned:
    """Train a copy of the model with a head that names the classes under `label`.

    The model stays as it is. Samples that can `draw` are augmented; those without the label are
    left out. Everything else is as in `fit`, whose remaining arguments are taken as well
    (`out`, `validation`, `device`, `workers`, `resume` ...). A batch larger than there are
    rows is cut to their number.

    Args:
        limit_rows: train on these labelled rows alone; the classes are still those of all.
    Raises: ValueError where there are fewer than two classes, and what `fit` raises.
    """
    samples = as_samples(samples, model.slots)
    rows = labelled_rows(samples, label)
    classes = classes_of(samples.columns[label][row] for row in rows.tolist())
    if len(classes) < 2:
        raise ValueError(
            f"finetune: the column {label!r} holds {len(classes)} classes "
            f"({', '.join(classes) or 'none'}); at least two are needed."
        )
    if limit_rows is not None:
        rows = np.intersect1d(rows, np.asarray(limit_rows))
    mixing = Mixing(samples, rows, model.tokenizers, label, how.mixup, how.cutmix, how.drop)
    # MAE: the mean is normalised behind the pooling, so not before it as well
    copied = prepared(model, first_readable(mixing, model), how.drop_path, how.pool == "global")
    eps = getattr(getattr(model.encoder, "norm", None), "eps", 1e-6)
    with torch.random.fork_rng([]):  # so that a seed has the same head on any model
        torch.manual_seed(seed)
        head = Head(cast(int, model.encoder.width), len(classes), how.pool, eps)
    objective = Classification(head, classes, label, how.smoothing, how.layer_decay)
    fitted = fit(
        copied,
        objective,
        mixing,
        epochs=epochs,
        batch_size=min(batch_size, len(rows)),
        lr=how.lr,
        lr_per=how.lr_per,
        betas=how.betas,
        weight_decay=how.weight_decay,
        warmup=how.warmup,
        min_lr=how.min_lr,
        seed=seed,
        pictures=False,
        **training,
    )
    if copied.seen is not None and len(model.slots) > 1:
        shown = Masker(Subset(keep=1 - how.drop), Natural())
        missing = missing_matrix(mixing, model.slots)
        read = subsets_seen(shown, missing, foreseen(model))
        copied.seen = tuple(sorted({*copied.seen, *read}))
    return Finetuned(Classifier(copied, head, classes, label).eval(), fitted)


def labelled_rows(samples: Samples, label: str) -> Int[np.ndarray, " n"]:
    if label not in samples.columns:
        raise ValueError(
            f"finetune: the samples have no column {label!r}; columns are "
            f"{', '.join(samples.columns)}."
        )
    rows = np.flatnonzero(~blanks(samples.columns[label]))
    if not len(rows):
        raise ValueError(f"finetune: no sample has a {label!r}.")
    return rows


def first_readable(samples: Mixing, model: MaskedModel) -> Batch:
    """The first sample that can be used, as a batch."""
    reason = "there is none"
    for index in range(len(samples)):
        try:
            return collate([samples[index]], model.tokenizers)
        except (BadSample, OSError) as error:
            reason = str(error) if index == 0 else reason
    raise ValueError(f"finetune: none of {len(samples)} samples could be read; the first: {reason}")


def epochs_for_steps(steps: int, rows: int, batch_size: int) -> int:
    """Epochs over so many rows that make at least this many steps.

    >>> epochs_for_steps(100, rows=64, batch_size=32), epochs_for_steps(100, rows=5, batch_size=32)
    (50, 100)
    """
    return math.ceil(steps / max(1, rows // min(batch_size, rows)))
