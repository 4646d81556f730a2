"""Neighbours, linear probes and few shots: fitted on train rows alone, and said why not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from multimask.cli.measures import incomparable, labelled
from multimask.cli.study import Study
from multimask.datasets.table import Table
from multimask.evaluation import Embeddings, few_shot, knn, linear_probe, svm
from multimask.evaluation.labels import check_rows


def clusters(per_class: int, seed: int = 0, spread: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Three classes around three corners of a cube."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(["ant", "bee", "cow"], per_class)
    noise = generator.normal(scale=spread, size=(3 * per_class, 3))
    return (np.repeat(np.eye(3), per_class, axis=0) + noise).astype(np.float32), labels


# --- nearest neighbours ---------------------------------------------------------------------------


def test_the_vote_is_weighted_by_similarity() -> None:
    angles = torch.tensor([0.1, 1.0, 1.1])
    train = torch.stack((angles.cos(), angles.sin()), dim=1).numpy() * 5  # length says nothing
    labels, query = np.array(["near", "far", "far"]), np.array([[1.0, 0.0]], dtype=np.float32)
    assert knn(train, labels, query, k=3).predictions.tolist() == ["near"]
    assert knn(train, labels, query, k=3, temperature=10.0).predictions.tolist() == ["far"]
    assert knn(train, labels, query, k=50).accuracy is None


def test_neighbours_are_scikit_learns() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    train, labels = clusters(30, spread=0.6)
    test, truth = clusters(20, seed=1, spread=0.6)
    weights: Any = lambda distances: np.exp((1 - distances) / 0.07)  # noqa: E731
    theirs = KNeighborsClassifier(10, metric="cosine", weights=weights)
    voted = knn(train, labels, test, truth, k=10)
    assert voted.predictions.tolist() == theirs.fit(train, labels).predict(test).tolist()
    assert voted.accuracy == (voted.predictions == truth).mean()


def test_chunks_of_test_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    (train, labels), (test, _) = clusters(20), clusters(20, seed=1, spread=0.8)
    whole = knn(train, labels, test).predictions
    monkeypatch.setattr("multimask.evaluation.neighbours.CHUNK", 7)
    assert np.array_equal(knn(train, labels, test).predictions, whole)


# --- linear classifiers ---------------------------------------------------------------------------


linear = pytest.mark.parametrize("classify", [linear_probe, svm])


@linear
def test_what_is_separable_is_separated(classify: Callable[..., Any]) -> None:
    (train, labels), (test, truth) = clusters(20, spread=0.1), clusters(10, seed=1, spread=0.1)
    fitted = classify(train, labels, test, truth)
    assert fitted.accuracy == 1
    assert fitted.correct.all()
    assert fitted.strength == min(s for s, a in fitted.validation.items() if a == 1)


@linear
def test_the_scale_of_a_feature_changes_nothing(classify: Callable[..., Any]) -> None:
    (train, labels), (test, truth) = clusters(20), clusters(10, seed=1)
    scale, shift = np.array([1000, 1, 0.01]), np.array([5, -3, 0.2])
    plain = classify(train, labels, test, truth)
    scaled = classify(train * scale + shift, labels, test * scale + shift, truth)
    assert scaled.predictions.tolist() == plain.predictions.tolist()
    assert scaled.validation == plain.validation


@linear
def test_test_rows_choose_nothing(classify: Callable[..., Any]) -> None:
    (train, labels), (test, truth) = clusters(20, spread=0.8), clusters(10, seed=1, spread=0.8)
    one = classify(train, labels, test, truth)
    other = classify(train, labels, test, np.roll(truth, 7))
    assert one.strength == other.strength
    assert one.predictions.tolist() == other.predictions.tolist()
    assert one.accuracy != other.accuracy


def test_what_cannot_be_fitted_says_why() -> None:
    (train, labels), (test, truth) = clusters(5), clusters(2, seed=1)
    probe = linear_probe
    new = truth.copy()
    new[0] = "dog"
    with pytest.raises(ValueError, match=r"test rows hold dog, of which there is no training row"):
        probe(train, labels, test, new)
    with pytest.raises(ValueError, match=r"all training rows are of class ant"):
        probe(train[:5], labels[:5], test[:2], truth[:2])
    rare = np.where(np.arange(15) == 0, "emu", labels)
    with pytest.raises(ValueError, match=r"class emu has a single training row"):
        probe(train, rare, test, truth)
    assert probe(train, rare, test, truth, grid=(1.0,)).validation == {}


def test_rows_without_a_use_are_counted() -> None:
    features, labels = clusters(5)
    with pytest.raises(ValueError, match=r"probe: 15 rows of features came with 6 labels"):
        check_rows("probe", features, labels[:6])
    with pytest.raises(ValueError, match=r"probe: 2 rows have no label"):
        check_rows("probe", features, np.array([None, np.nan, *labels[2:]], dtype=object))
    features[3] = np.nan
    with pytest.raises(ValueError, match=r"probe: 1 rows of features hold NaN"):
        check_rows("probe", features, labels)


def test_few_shots_of_separable_classes_are_enough() -> None:
    features, labels = clusters(30, spread=0.05)
    sure = few_shot(features, labels, ways=3, shots=5, trials=4)
    assert (sure.mean, sure.std, len(sure.accuracies)) == (1.0, 0.0, 4)
    features, labels = clusters(60, spread=0.7)
    one = few_shot(features, labels, ways=2, shots=5)
    assert one == few_shot(features, labels, ways=2, shots=5)
    assert one != few_shot(features, labels, ways=2, shots=5, seed=1)
    assert 0.5 < one.mean < 1
    assert one.std > 0


def test_too_few_rows_for_few_shots_is_said() -> None:
    features, labels = clusters(20)
    with pytest.raises(ValueError, match=r"3 classes of at least 30 rows .* only 0 of 3"):
        few_shot(features, labels, ways=3, shots=10)


# --- labels of an experiment ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test", "why"),
    [
        (["a", "a", "b", "b"], ["b", None, "a"], None),
        (["a", "a", "b", "b"], ["a", "c"], "the training rows lack c"),
        (["a", "a", None, ""], ["a", "a"], "all training rows are of class a"),
        (["a", "a", "b", "b"], ["b", "b"], "all test rows are of class b"),
        (["a", "a", "b"], ["b", "a"], "a single training row is of class b"),
        ([1.0, 2.0], [float("nan"), None], "no test row has a label"),
    ],
)
def test_labels_that_no_probe_can_use_are_told_before_training(
    train: list[Any], test: list[Any], why: str | None
) -> None:
    told = incomparable(train, test)
    assert told is None if why is None else why in str(told)


def test_rows_without_a_label_are_left_out_of_probes() -> None:
    features = np.arange(8, dtype=np.float32).reshape(4, 2)
    labels = np.array(["x", None, "", "y"], object)
    made = Embeddings(tuple("abcd"), features, {"kind": labels}, ())
    table = Table.from_arrays(day=np.zeros((1, 2), np.float32), id=["a"])
    rows, classes = labelled(made, Study({}, table, table, "kind"))
    np.testing.assert_array_equal(rows, features[[0, 3]])
    assert classes.tolist() == ["x", "y"]
