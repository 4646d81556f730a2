"""What a run leaves behind beside the weights."""

from dataclasses import dataclass

from multimask.masking.masker import Masker


class TrainingError(ValueError):
    """A run that cannot go on: the loss is no number, or too many samples are bad."""


@dataclass(frozen=True)
class FitResult:
    """How a run went.

    epochs: a record an epoch, `epoch, step, loss, loss/<term>, lr, samples_per_second`, and where
        there are held-out rows or labels `loss_val, loss_val/<term>, knn`. `loss` is each term's
        total over its count in the epoch, summed over terms.
    losses: the loss of every optimiser step; NaN for a step of which no sample could be read.
    seconds, samples_per_second: training alone, of this process (not of what it resumed).
    peak_memory: MiB, of the device where there is one, else of this process.
    skipped: (id, reason) of samples that could not be used, each once. seen: draws so far.
    visible, decoded: tokens of every sample, as settled for these data by `masker`.
    effective_ratio: hidden tokens over existing ones, in all draws.
    """

    epochs: tuple[dict[str, float], ...]
    losses: tuple[float, ...]
    steps: int
    seconds: float
    samples_per_second: float
    peak_memory: float
    skipped: tuple[tuple[str, str], ...]
    seen: int
    visible: int
    decoded: int
    effective_ratio: float
    masker: Masker | None

    @property
    def loss_first(self) -> float:
        return self.epochs[0]["loss"]

    @property
    def loss_last(self) -> float:
        return self.epochs[-1]["loss"]

    @property
    def loss_val(self) -> float | None:
        return self.epochs[-1].get("loss_val")
