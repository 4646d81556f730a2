"""One vector a sample, from a model that sees all that is there."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Shaped
from torch import Tensor

from multimask.evaluation.reading import batches, computed
from multimask.filling import warn_unseen
from multimask.modality import Tokenizer
from multimask.model import MaskedModel
from multimask.tokens import Batch, Sample, Samples


@dataclass(frozen=True)
class Embeddings:
    """Row i belongs to `ids[i]`. `labels[name]` has one entry a row (None where a sample has none,
    and the array then holds objects); labels that are not one value a sample are left out.
    `skipped` lists (id, reason) of samples that could not be read."""

    ids: tuple[str, ...]
    features: Float32[np.ndarray, "n d"]
    labels: dict[str, Shaped[np.ndarray, " n"]]
    skipped: tuple[tuple[str, str], ...]


def embed(
    model: MaskedModel,
    samples: Samples | Sequence[Sample],
    *,
    batch_size: int = 256,
    workers: int = 0,
    device: str | torch.device = "auto",
    pool: str = "mean",
    modalities: Collection[str] | None = None,
) -> Embeddings:
    """Embed samples in their order, in eval mode, nothing hidden.

    Sizes may be mixed where the modality is a lattice; modalities may lack. A row does not depend
    on the batch it was in. Samples that raise BadSample or OSError are skipped and listed.

    Args:
        device: "auto" takes a GPU where there is one; the model moves back afterwards.
        pool: "mean" of the tokens or "global", the first global token (MAE's class token).
        modalities: embed from these alone, as if the samples lacked the rest.
    Raises: ValueError when modalities are unknown or no sample at all could be read.
    """
    names = set(model.tokenizers if modalities is None else modalities)
    unknown = sorted(names - set(model.tokenizers))
    if unknown or not names:
        raise ValueError(
            f"embed: modalities={sorted(names)} must be some of {sorted(model.tokenizers)}."
        )
    tokenizers = {name: t for name, t in model.tokenizers.items() if name in names}
    if modalities is not None:
        warn_unseen(model.seen, names)

    def pooled(batch: Batch) -> Tensor:
        return model.encode(batch.to(model.device)).pooled(pool)

    with evaluating(model, device):
        return stream(
            samples,
            tokenizers,
            pooled,
            batch_size=batch_size,
            workers=workers,
            ignored=model.tokenizers,
        )


def stream(
    samples: Samples | Sequence[Sample],
    tokenizers: Mapping[str, Tokenizer],
    compute: Callable[[Batch], Tensor],
    *,
    batch_size: int = 256,
    workers: int = 0,
    ignored: Collection[str] = (),
) -> Embeddings:
    """One row a sample of whatever `compute` makes of a batch, `(size, d)`."""
    ids: list[str] = []
    features: list[np.ndarray] = []
    labels: list[dict[str, Any]] = []
    skipped: list[tuple[str, str]] = []
    for read in batches(samples, tokenizers, batch_size, workers, ignored):
        skipped += read.skipped
        for batch, rows in computed(read, compute, skipped):
            ids += batch.sample_ids
            features.append(rows.float().cpu().numpy())
            labels += [
                {name: values[row] for name, values in batch.labels.items()}
                for row in range(batch.size)
            ]
    if not ids:
        reason = f"; the first: {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise ValueError(f"none of {len(samples)} samples could be read{reason}")
    return Embeddings(tuple(ids), np.concatenate(features), columns(labels), tuple(skipped))


def columns(records: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Labels by name, one array each; names of which some label is no single value are left out."""
    names = sorted({name for record in records for name in record})
    lists = {name: [plain(record.get(name)) for record in records] for name in names}
    return {
        name: column(values)
        for name, values in lists.items()
        if all(value is None or isinstance(value, bool | int | float | str) for value in values)
    }


def plain(value: Any) -> Any:
    """A tensor or array of one number as that number."""
    single = isinstance(value, Tensor | np.ndarray | np.generic) and value.ndim == 0
    return value.item() if single else value


def column(values: list[Any]) -> Shaped[np.ndarray, " n"]:
    mixed = len({type(value) for value in values}) > 1
    return np.array(values, dtype=object if mixed else None)


@contextmanager
def evaluating(model: MaskedModel, device: str | torch.device = "auto") -> Iterator[None]:
    """The model in eval mode, without gradients, on the device; all as before afterwards."""
    was_training, home = model.training, model.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else home
    model.to(device).eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.to(home).train(was_training)
