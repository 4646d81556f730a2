"""A pre-trained model with a head that names classes."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from multimask.checkpoints.folder import load, read_weights, write_whole
from multimask.checkpoints.foreign import read as foreign_model
from multimask.evaluation.embeddings import evaluating, plain, stream
from multimask.filling import check_names, warn_unseen
from multimask.model import MaskedModel
from multimask.tokens import Batch, Latents, Sample, Samples

Pool = Literal["mean", "global"]
HEAD, CLASSES = "head.safetensors", "classes.json"


class Head(nn.Module):
    """Logits from the mean of the tokens, normalised here (MAE's `fc_norm`), or from the first
    global token, which the encoder has normalised. Begins at nearly nothing (std 2e-5)."""

    def __init__(self, width: int, classes: int, pool: Pool = "mean", eps: float = 1e-6) -> None:
        super().__init__()
        if pool not in ("mean", "global"):
            raise ValueError(f"Head: pool={pool!r} must be 'mean' or 'global'.")
        self.pool = pool
        self.norm = nn.LayerNorm(width, eps=eps) if pool == "mean" else nn.Identity()
        self.linear = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.linear.weight, std=2e-5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, latents: Latents) -> Float[Tensor, "b classes"]:
        return self.linear(self.norm(latents.pooled(self.pool)))


@dataclass(frozen=True)
class Predictions:
    """Row i belongs to `ids[i]`; `probabilities` are in the order of `classes`. `skipped` lists
    (id, reason) of samples that could not be read."""

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    probabilities: Float[np.ndarray, "n classes"]
    labels: dict[str, Shaped[np.ndarray, " n"]]
    skipped: tuple[tuple[str, str], ...]

    @property
    def predicted(self) -> Shaped[np.ndarray, " n"]:
        return np.array(self.classes)[self.probabilities.argmax(axis=1)]

    def correct(self, label: str) -> Bool[np.ndarray, " n"]:
        """Which rows were named as this label says. Raises ValueError where rows have none."""
        wanted = self.labels.get(label)
        if wanted is None or any(value is None for value in wanted):
            raise ValueError(f"not every sample has the label {label!r}: nothing to compare with.")
        return self.predicted == wanted.astype(str)


class Classifier(nn.Module):
    """A model and a head over named classes. Calling it gives logits, `(b, classes)`."""

    def __init__(self, model: MaskedModel, head: Head, classes: Sequence[str], label: str) -> None:
        super().__init__()
        self.model, self.head = model, head
        self.classes, self.label = tuple(classes), label

    def forward(self, batch: Batch) -> Float[Tensor, "b classes"]:
        return self.head(self.model.encode(batch))

    def predict(
        self,
        samples: Samples | Sequence[Sample],
        *,
        batch_size: int = 256,
        workers: int = 0,
        device: str | torch.device = "auto",
        modalities: Collection[str] | None = None,
    ) -> Predictions:
        """Name every sample, in eval mode and without augmentation; by these modalities alone
        where they are given, as if the samples lacked the rest."""
        home = self.model.device
        tokenizers = self.model.tokenizers
        if modalities is not None:
            check_names(list(modalities), list(tokenizers), "modalities")
            tokenizers = {n: t for n, t in tokenizers.items() if n in modalities}
            warn_unseen(self.model.seen, modalities)

        def probabilities(batch: Batch) -> Tensor:
            return self(batch.to(self.model.device)).float().softmax(dim=1)

        with evaluating(self.model, device):
            self.head.to(self.model.device)
            try:
                made = stream(
                    samples,
                    tokenizers,
                    probabilities,
                    batch_size=batch_size,
                    workers=workers,
                    ignored=self.model.tokenizers,
                )
            finally:
                self.head.to(home)
        return Predictions(made.ids, self.classes, made.features, made.labels, made.skipped)

    def save(self, folder: str | Path) -> None:
        """A model folder, as `model.save` writes it, with `head.safetensors` and `classes.json`."""
        folder = Path(folder)
        self.model.save(folder)
        weights = {k: v.detach().cpu().contiguous() for k, v in self.head.state_dict().items()}
        write_whole(folder / HEAD, to_bytes(weights, metadata={"format": "pt"}))
        eps = self.head.norm.eps if isinstance(self.head.norm, nn.LayerNorm) else 1e-6
        facts = {"label": self.label, "classes": self.classes, "pool": self.head.pool, "eps": eps}
        write_whole(folder / CLASSES, json.dumps(facts, indent=1).encode())

    @staticmethod
    def load(folder: str | Path, classes: Mapping[str, type] | None = None) -> "Classifier":
        """What `save` wrote, in eval mode. `classes` as for `multimask.load`.

        Raises: FileNotFoundError, ValueError (one sentence) for folders that are none.
        """
        folder = Path(folder)
        for name in (HEAD, CLASSES):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder}: expected a fine-tuned model with {HEAD} and {CLASSES}, found no "
                    f"{name}; multimask.load reads models without a head."
                )
        model = load(folder, classes)
        wanted = {"label": str, "classes": list, "pool": str, "eps": float}
        facts = read_facts(folder / CLASSES, wanted)
        width = cast(int, model.encoder.width)
        head = Head(width, len(facts["classes"]), facts["pool"], facts["eps"])
        head.load_state_dict(read_weights(folder / HEAD, head.state_dict()))
        return Classifier(model, head, facts["classes"], facts["label"]).eval()

    @staticmethod
    def read(
        path: str | Path, layout: str | None = None, label: str = "label", **facts: Any
    ) -> "Classifier":
        """Another project's fine-tuned weights: its classes are the numbers 0, 1 ... as text.

        layout and facts as for `multimask.load`. Raises: ValueError for weights without a head.
        """
        return foreign_classifier(path, layout, label, facts)


def foreign_classifier(
    path: str | Path, layout: str | None, label: str, facts: Mapping[str, Any]
) -> Classifier:
    foreign, name = foreign_model(Path(path), layout, facts)
    if foreign.head is None:
        raise ValueError(f"{name}: holds no head that names classes; multimask.load reads it.")
    count, width = foreign.head["linear.weight"].shape
    head = Head(width, count, "mean" if "norm.weight" in foreign.head else "global")
    head.load_state_dict(foreign.head)
    return Classifier(foreign.model, head, [str(n) for n in range(count)], label).eval()


def read_facts(file: Path, wanted: Mapping[str, type]) -> dict[str, Any]:
    """What is stored beside a head. Raises: ValueError for facts that are missing or wrong."""
    try:
        facts = json.loads(file.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{file}: expected JSON, but it cannot be read as such.") from error
    if not isinstance(facts, dict) or any(
        not isinstance(facts.get(name), kind) for name, kind in wanted.items()
    ):
        raise ValueError(f"{file}: expected {', '.join(wanted)}, as a fine-tuned model has them.")
    return facts


def classes_of(values: Iterable[Any]) -> tuple[str, ...]:
    """The classes among the entries of a label column, as text, in order; None is no class."""
    found = {str(plain(value)) for value in values if value is not None}
    return tuple(sorted(found, key=lambda name: (len(name), name) if name.isdigit() else (0, name)))
