"""Linear classifiers on frozen features: logistic regression and a linear SVM."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from multimask.evaluation.labels import check_rows, known_classes, stratified

LOGISTIC = (0.001, 0.01, 0.1, 1.0, 10.0)
SVM = (0.0001, 0.001, 0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Fitted:
    """What a classifier made of the test rows. `strength` is the C that was chosen (larger fits
    the training rows more closely), `validation` the accuracy of each that was tried."""

    predictions: Shaped[np.ndarray, " n"]
    correct: Bool[np.ndarray, " n"]
    accuracy: float
    strength: float
    validation: dict[float, float]


def linear_probe(
    train_features: Float[np.ndarray, "m d"],
    train_labels: Shaped[np.ndarray, " m"],
    test_features: Float[np.ndarray, "n d"],
    test_labels: Shaped[np.ndarray, " n"],
    *,
    grid: Sequence[float] = LOGISTIC,
    validation: float = 0.2,
    seed: int = 0,
) -> Fitted:
    """Logistic regression (lbfgs) on standardised features.

    The strength is chosen from `grid` on a stratified part of the training rows (the smallest of
    the best), then all training rows are fitted with it. Test rows choose nothing.
    """
    from sklearn.linear_model import LogisticRegression

    def make(strength: float) -> Any:
        return LogisticRegression(C=strength, max_iter=1000)

    train, test = (train_features, train_labels), (test_features, test_labels)
    return fitted("linear_probe", make, train, test, grid, validation, seed)


def svm(
    train_features: Float[np.ndarray, "m d"],
    train_labels: Shaped[np.ndarray, " m"],
    test_features: Float[np.ndarray, "n d"],
    test_labels: Shaped[np.ndarray, " n"],
    *,
    grid: Sequence[float] = SVM,
    validation: float = 0.2,
    seed: int = 0,
) -> Fitted:
    """Linear support vector machine on standardised features (the usual measure of frozen features
    of point clouds); the strength is chosen as in `linear_probe`."""
    from sklearn.svm import LinearSVC

    def make(strength: float) -> Any:
        return LinearSVC(C=strength, random_state=seed, max_iter=5000)

    train, test = (train_features, train_labels), (test_features, test_labels)
    return fitted("svm", make, train, test, grid, validation, seed)


Rows = tuple[Float[np.ndarray, "_ d"], Shaped[np.ndarray, " _"]]


def fitted(
    who: str,
    make: Callable[[float], Any],
    train: Rows,
    test: Rows,
    grid: Sequence[float],
    validation: float,
    seed: int,
) -> Fitted:
    check_rows(who, *train)
    check_rows(who, *test)
    classes = np.unique(train[1])
    if len(classes) < 2:
        raise ValueError(f"{who}: all training rows are of class {classes[0]}; two are needed.")
    known_classes(who, classes, test[1])
    if not grid or min(grid) <= 0:
        raise ValueError(f"{who}: grid={tuple(grid)} must hold positive strengths.")
    tried: dict[float, float] = {}
    strength = grid[0]
    if len(grid) > 1:
        fit, held = stratified(who, train[1], validation, seed)
        features, labels = train
        for candidate in sorted(grid):
            guessed = predicted(make(candidate), features[fit], labels[fit], features[held])
            tried[candidate] = float((guessed == labels[held]).mean())
        strength = max(tried, key=lambda candidate: tried[candidate])
    predictions = predicted(make(strength), *train, test[0])
    correct = predictions == test[1]
    return Fitted(predictions, correct, float(correct.mean()), strength, tried)


def predicted(
    classifier: Any,
    features: Float[np.ndarray, "m d"],
    labels: Shaped[np.ndarray, " m"],
    asked: Float[np.ndarray, "n d"],
) -> Shaped[np.ndarray, " n"]:
    """Fit on standardised features, answer for others in the same scale."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with warnings.catch_warnings():
        # the strongest candidates may stop early on separable rows; validation judges them
        warnings.simplefilter("ignore", ConvergenceWarning)
        whole = make_pipeline(StandardScaler(), classifier).fit(features, labels)
    return np.asarray(whole.predict(asked))
