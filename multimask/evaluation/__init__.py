"""Evaluation: embeddings and what they are worth, reconstruction error, fair comparisons."""

from multimask.evaluation.comparison import (
    Comparison,
    Interval,
    paired_bootstrap,
    shows_learning,
)
from multimask.evaluation.crossmodal import Crossed, crossmodal_errors
from multimask.evaluation.embeddings import Embeddings, embed, stream
from multimask.evaluation.linear import Fitted, linear_probe, svm
from multimask.evaluation.neighbours import Voted, knn
from multimask.evaluation.raw import raw_means, raw_values
from multimask.evaluation.reconstruction import Errors, reconstruction_error
from multimask.evaluation.shots import FewShot, few_shot
from multimask.evaluation.subsets import SubsetScore, subset_scores

__all__ = [
    "Comparison",
    "Crossed",
    "Embeddings",
    "Errors",
    "FewShot",
    "Fitted",
    "Interval",
    "SubsetScore",
    "Voted",
    "crossmodal_errors",
    "embed",
    "few_shot",
    "knn",
    "linear_probe",
    "paired_bootstrap",
    "raw_means",
    "raw_values",
    "reconstruction_error",
    "shows_learning",
    "stream",
    "subset_scores",
    "svm",
]
