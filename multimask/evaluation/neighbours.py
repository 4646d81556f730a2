"""k nearest neighbours: what classes lie together, with nothing trained."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch.nn import functional as F

from multimask.evaluation.labels import check_rows, known_classes

CHUNK = 4096  # test rows compared at once


@dataclass(frozen=True)
class Voted:
    """The class of most weight for every test row; which are right, and their share, where the
    true classes were given."""

    predictions: Shaped[np.ndarray, " n"]
    correct: Bool[np.ndarray, " n"] | None
    accuracy: float | None


def knn(
    train_features: Float[np.ndarray, "m d"],
    train_labels: Shaped[np.ndarray, " m"],
    test_features: Float[np.ndarray, "n d"],
    test_labels: Shaped[np.ndarray, " n"] | None = None,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> Voted:
    """Weighted vote of the k most similar training rows (Wu et al., CVPR 2018).

    Similarity is the cosine; a neighbour's weight is exp(similarity / temperature). With fewer
    than k training rows all of them vote.
    """
    check_rows("knn", train_features, train_labels)
    if k < 1 or temperature <= 0:
        raise ValueError(f"knn: k={k} must be at least 1 and temperature={temperature} positive.")
    classes, codes = np.unique(train_labels, return_inverse=True)
    votes = F.one_hot(torch.from_numpy(codes), len(classes)).float()
    bank = F.normalize(torch.from_numpy(train_features).float(), dim=1)
    queries = F.normalize(torch.from_numpy(test_features).float(), dim=1)
    found = []
    for chunk in queries.split(CHUNK):
        similarity, nearest = (chunk @ bank.T).topk(min(k, len(bank)), dim=1)
        # minus the largest: the same vote, and no overflow
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        found.append(torch.einsum("nk,nkc->nc", weights, votes[nearest]).argmax(dim=1))
    predictions = classes[torch.cat(found).numpy()]
    if test_labels is None:
        return Voted(predictions, None, None)
    check_rows("knn", test_features, test_labels)
    known_classes("knn", classes, test_labels)
    correct = predictions == test_labels
    return Voted(predictions, correct, float(correct.mean()))
