"""Few-shot classification: how much a handful of labelled rows is worth."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from multimask.evaluation.labels import check_rows
from multimask.evaluation.linear import svm


@dataclass(frozen=True)
class FewShot:
    """Accuracy of every trial; published tables give mean and standard deviation over ten."""

    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def std(self) -> float:
        """Over the trials, with n in the denominator."""
        return float(np.std(self.accuracies))


def few_shot(
    features: Float[np.ndarray, "n d"],
    labels: Shaped[np.ndarray, " n"],
    ways: int = 5,
    shots: int = 10,
    trials: int = 10,
    seed: int = 0,
    *,
    queries: int = 20,
    strength: float = 0.01,
) -> FewShot:
    """n-way k-shot: a trial draws `ways` classes, learns `shots` rows of each with a linear SVM
    and is asked for `queries` other rows of each (Sharma and Kaul, NeurIPS 2020)."""
    check_rows("few_shot", features, labels)
    if min(shots, trials, queries) < 1 or ways < 2:
        raise ValueError(
            f"few_shot: ways={ways} must be at least 2; shots={shots}, trials={trials} and "
            f"queries={queries} at least 1."
        )
    classes, counts = np.unique(labels, return_counts=True)
    large = classes[counts >= shots + queries]
    if len(large) < ways:
        raise ValueError(
            f"few_shot: {ways} classes of at least {shots + queries} rows are needed ({shots} to "
            f"learn, {queries} to ask), but only {len(large)} of {len(classes)} are that large."
        )
    accuracies = []
    for trial in range(trials):
        generator = np.random.default_rng((seed, trial))
        learned, asked = [], []
        for name in generator.choice(large, ways, replace=False):
            rows = generator.permutation(np.flatnonzero(labels == name))
            learned.append(rows[:shots])
            asked.append(rows[shots : shots + queries])
        known, new = np.concatenate(learned), np.concatenate(asked)
        fitted = svm(features[known], labels[known], features[new], labels[new], grid=(strength,))
        accuracies.append(fitted.accuracy)
    return FewShot(tuple(accuracies))
