"""segment: train a pre-trained model and a dense head on maps of classes; mean IoU."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from multimask.evaluation.embeddings import evaluating
from multimask.evaluation.reading import batches, computed
from multimask.finetuning.dense import DenseClassifier
from multimask.finetuning.finetune import first_readable, labelled_rows
from multimask.finetuning.layers import layer_factors, prepared
from multimask.finetuning.mixing import Mixing
from multimask.model import MaskedModel
from multimask.objectives.base import Objective
from multimask.tokens import BadSample, Batch, Sample, Samples, Step, Term
from multimask.training.fit import fit
from multimask.training.reading import as_samples
from multimask.training.result import FitResult

IGNORED = 255  # in a map: neither learned nor scored; so is every negative number


@dataclass(frozen=True)
class Segmenting:
    """How to train a dense head. head: "linear" or "pyramid". frozen: the head alone learns.
    The rest as in `Finetuning`."""

    head: str = "pyramid"
    frozen: bool = False
    layer_decay: float = 0.65
    drop_path: float | None = None
    lr: float = 1e-3
    lr_per: int | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05
    warmup: float = 0.05
    clip: float | None = 1.0


@dataclass(frozen=True)
class Segmented:
    classifier: DenseClassifier
    fit: FitResult


class DenseClassification(Objective):
    """Cross-entropy over the cells that have a class."""

    def __init__(self, classifier: DenseClassifier, label: str, layer_decay: float) -> None:
        super().__init__()
        self.head = classifier.head  # the model is trained as fit's own
        self.classifier, self.label, self.layer_decay = [classifier], label, layer_decay

    def forward(self, model: MaskedModel, batch: Batch, step: Step) -> dict[str, Term]:
        logits = self.classifier[0](batch)
        wanted = self.wanted(batch).to(logits.device, non_blocking=True)
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
        total = torch.nn.functional.cross_entropy(
            exact, wanted, ignore_index=IGNORED, reduction="sum"
        )
        return {"cells": Term(total, (wanted != IGNORED).sum().float())}

    def counts(self, model: MaskedModel, batch: Batch) -> dict[str, Tensor]:
        return {"cells": (self.wanted(batch) != IGNORED).sum().float()}

    def lr_factors(self, model: MaskedModel) -> dict[int, float]:
        return layer_factors(model, self.layer_decay)

    def wanted(self, batch: Batch) -> Int[Tensor, "b ..."]:
        cells, classes = self.classifier[0].cells, self.classifier[0].classes
        return maps_of(batch, self.label, cells, classes)


def maps_of(batch: Batch, label: str, cells: tuple[int, ...], classes: int) -> Int[Tensor, "b ..."]:
    """The samples' maps; `IGNORED` everywhere for samples without one.

    Raises: BadSample for a map of another size or with classes that are not there.
    """
    made = torch.full((batch.size, *cells), IGNORED)
    for row, found in enumerate(batch.labels.get(label, [None] * batch.size)):
        if found is None:
            continue
        here = torch.as_tensor(found).cpu().long()
        if tuple(here.shape) != cells:
            raise BadSample(
                f"sample {batch.sample_ids[row]!r}: its map {label!r} has the shape "
                f"{tuple(here.shape)}, expected {cells}, the size the model is built for."
            )
        here = torch.where(here < 0, IGNORED, here)
        wrong = here[(here >= classes) & (here != IGNORED)]
        if len(wrong):
            raise BadSample(
                f"sample {batch.sample_ids[row]!r}: its map {label!r} names class "
                f"{int(wrong[0])}; there are {classes}, counted from 0, and {IGNORED} for none."
            )
        made[row] = here
    return made


def segment(
    model: MaskedModel,
    samples: Samples | Sequence[Sample],
    how: Segmenting = Segmenting(),
    *,
    classes: int,
    label: str = "segmentation",
    epochs: int,
    batch_size: int,
    seed: int = 0,
    **training: Any,
) -> Segmented:
    """Train a copy of the model with a dense head on the maps under `label`.

    A map holds a whole number a raw cell (pixel, voxel): the class, from 0, or 255 for none. It is
    used as it is, so the samples' readers must not crop or flip. Samples without one are left out.
    What else `fit` takes is taken. Raises: ValueError where there are no maps, and what `fit` does.
    """
    if classes < 2:
        raise ValueError(f"segment: classes={classes} must be at least 2.")
    samples = as_samples(samples, model.slots)
    rows = labelled_rows(samples, label)
    plain = Mixing(samples, rows, model.tokenizers, label, mixup=0.0, cutmix=0.0)
    drop = 0.0 if how.frozen else how.drop_path
    # a pyramid reads the blocks, not the norm behind them
    copied = prepared(model, first_readable(plain, model), drop, norm=how.head == "linear")
    with torch.random.fork_rng([]):  # so that a seed has the same head on any model
        torch.manual_seed(seed)
        classifier = DenseClassifier(copied, classes, how.head)
    if how.frozen:
        copied.requires_grad_(False)
    objective = DenseClassification(classifier, label, how.layer_decay)
    fitted = fit(
        copied,
        objective,
        plain,
        epochs=epochs,
        batch_size=min(batch_size, len(rows)),
        lr=how.lr,
        lr_per=how.lr_per,
        betas=how.betas,
        weight_decay=how.weight_decay,
        warmup=how.warmup,
        clip=how.clip,
        seed=seed,
        pictures=False,
        **training,
    )
    return Segmented(classifier.eval(), fitted)


# --- scores ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Overlap:
    """`confusion[i, t, p]`: cells of sample i that are of class t and were named p."""

    ids: tuple[str, ...]
    confusion: Int[np.ndarray, "n t p"]
    skipped: tuple[tuple[str, str], ...] = field(default=())

    @property
    def iou(self) -> Float[np.ndarray, " classes"]:
        """Intersection over union of each class, over all cells of all samples; NaN for a class
        that is nowhere and was never named."""
        return ratios(self.confusion.sum(axis=0))

    @property
    def mean_iou(self) -> float:
        return float(np.nanmean(self.iou))

    @property
    def accuracy(self) -> float:
        total = self.confusion.sum(axis=0)
        return float(np.trace(total) / max(1, total.sum()))

    @property
    def by_sample(self) -> Float[np.ndarray, " n"]:
        """Mean IoU of each sample, over the classes that it has or was said to have."""
        return np.array([np.nanmean(ratios(each)) for each in self.confusion])


def ratios(confusion: Int[np.ndarray, "t p"]) -> Float[np.ndarray, " classes"]:
    both = np.diag(confusion).astype(float)
    either = confusion.sum(axis=0) + confusion.sum(axis=1) - both
    return np.divide(both, either, out=np.full(len(both), np.nan), where=either > 0)


def overlap(
    classifier: DenseClassifier,
    samples: Samples | Sequence[Sample],
    *,
    label: str = "segmentation",
    batch_size: int = 64,
    workers: int = 0,
    device: str | torch.device = "auto",
) -> Overlap:
    """Name every cell of samples with maps, and count, in eval mode and without augmentation."""
    model, home = classifier.model, classifier.model.device
    ids: list[str] = []
    found: list[np.ndarray] = []
    skipped: list[tuple[str, str]] = []

    def counted(batch: Batch) -> list[np.ndarray]:
        wanted = maps_of(batch, label, classifier.cells, classifier.classes)
        named = classifier(batch.to(model.device)).argmax(dim=1).cpu()
        return [confused(*pair, classifier.classes) for pair in zip(wanted, named, strict=True)]

    with evaluating(model, device):
        classifier.head.to(model.device)
        was, _ = classifier.training, classifier.eval()
        for read in batches(samples, model.tokenizers, batch_size, workers):
            skipped += read.skipped
            for batch, counts in computed(read, counted, skipped):
                ids += batch.sample_ids
                found += counts
        classifier.train(was)
    classifier.head.to(home)
    if not found:
        raise ValueError(f"overlap: none of {len(samples)} samples could be read.")
    return Overlap(tuple(ids), np.stack(found), tuple(skipped))


def confused(wanted: Tensor, named: Tensor, classes: int) -> Int[np.ndarray, "t p"]:
    there = wanted != IGNORED
    index = wanted[there] * classes + named[there]
    return torch.bincount(index, minlength=classes**2).view(classes, classes).numpy()
