"""Fine-tuning an encoder to name every voxel, and Dice over whole volumes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from multimask.modalities.volume import VolumePatches
from multimask.modalities.volume_dice import dice, voxel_losses
from multimask.modalities.volume_segmentation import Segmenter
from multimask.modalities.volume_windows import sliding_windows
from multimask.model import MaskedModel
from multimask.objectives.base import Objective
from multimask.tokens import BadSample, Batch, Sample, Samples, Step, Term
from multimask.training.fit import fit
from multimask.training.result import FitResult


class Segmenting(Objective):
    """Cross-entropy plus soft Dice of every sample; owns the head that reads the model.

    Args: segmenter, built on the model that is trained. label: the name of the label maps, one a
        sample: records with `data`, or tensors, (1, z, y, x) or (z, y, x).
    """

    def __init__(self, segmenter: Segmenter, label: str) -> None:
        super().__init__()
        self.segmenter, self.label = segmenter, label

    def forward(self, model: MaskedModel, batch: Batch, step: Step) -> dict[str, Term]:
        maps = [label_map(label) for label in batch.labels[self.label]]
        losses = voxel_losses(self.segmenter(batch), maps)
        return {"segmentation": Term(losses.sum(), losses.new_tensor(len(losses)))}

    def counts(self, model: MaskedModel, batch: Batch) -> dict[str, Tensor]:
        return {"segmentation": torch.tensor(float(batch.size))}


@dataclass(frozen=True)
class Scored:
    """Dice of every class but the background, by volume (NaN where it is in neither map), and
    (id, reason) of volumes that could not be read."""

    ids: tuple[str, ...]
    dice: Float[np.ndarray, "volumes classes"]
    skipped: tuple[tuple[str, str], ...]

    @property
    def by_volume(self) -> Float[np.ndarray, " volumes"]:
        """Mean over the classes that are there; 1 where all is rightly background."""
        known = ~np.isnan(self.dice)
        totals = np.where(known, self.dice, 0).sum(1)
        return np.where(known.any(1), totals / np.maximum(known.sum(1), 1), 1.0)

    @property
    def by_class(self) -> Float[np.ndarray, " classes"]:
        return np.nanmean(self.dice, axis=0)


def fit_segmenter(
    segmenter: Segmenter,
    samples: Samples | Sequence[Sample],
    label: str,
    *,
    epochs: int,
    batch_size: int = 2,
    lr: float = 1e-3,
    seed: int = 0,
    **settings: Any,
) -> FitResult:
    """Train head and encoder together. The samples' boxes must have at most the tokenizers' size;
    `settings` are those of `fit`."""
    settings = {"weight_decay": 0.05, "warmup": 0.1, "pictures": False} | settings
    return fit(
        segmenter.model,
        Segmenting(segmenter, label),
        samples,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        lr_per=None,
        seed=seed,
        **settings,
    )


def segmentation_dice(
    segmenter: Segmenter,
    samples: Samples | Sequence[Sample],
    label: str,
    *,
    overlap: float = 0.5,
) -> Scored:
    """Whole volumes, window by window, against their label maps, in eval mode.

    Samples hold volumes of any size and their maps on the same grid. What raises BadSample or
    OSError is skipped and listed. Raises: ValueError when nothing could be read.
    """
    tokenizers = cast(dict[str, VolumePatches], dict(segmenter.model.tokenizers))
    tokenizers = cast(dict[str, VolumePatches], dict(segmenter.model.tokenizers))
    device, was_training = segmenter.head.weight.device, segmenter.training

    def predict(batch: Batch) -> Tensor:
        return segmenter(batch.to(device))

    ids: list[str] = []
    scores: list[Tensor] = []
    skipped: list[tuple[str, str]] = []
    known = getattr(samples, "columns", {}).get("id")
    segmenter.eval()
    for index in range(len(samples)):
        name = str(index if known is None else known[index])
        try:
            sample = samples[index]
            truth = label_map(sample.get(label), name)
            logits = sliding_windows(predict, sample, tokenizers, overlap)
            if logits.shape[1:] != truth.shape:
                raise BadSample(
                    f"sample {name!r}: expected a label map of {tuple(logits.shape[1:])} voxels "
                    f"like the scan, found {tuple(truth.shape)}."
                )
        except (BadSample, OSError) as error:
            skipped.append((name, str(error)))
            continue
        ids.append(name)
        scores.append(dice(logits.argmax(0), truth, segmenter.classes))
    segmenter.train(was_training)
    if not ids:
        reason = f"; the first: {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise ValueError(f"none of {len(samples)} volumes could be scored{reason}")
    return Scored(tuple(ids), torch.stack(scores).float().numpy(), tuple(skipped))


def label_map(label: Any, name: str = "") -> Tensor:
    """(z, y, x) of a record with `data` or a tensor. Raises BadSample where there is none."""
    if label is None:
        raise BadSample(f"sample {name!r}: expected a label map, found none.")
    data = label if isinstance(label, Tensor) else torch.as_tensor(getattr(label, "data", label))
    return data.reshape(data.shape[-3:])
