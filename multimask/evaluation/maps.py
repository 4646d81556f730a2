"""How near one picture or map is to another: PSNR, SSIM, absolute error; of classes, mean IoU."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from multimask.tokens import BadSample

WINDOW = 7  # pixels a side, as scikit-image takes by default
K1, K2 = 0.01, 0.03  # of SSIM, as published


def psnr(
    answer: Float[np.ndarray, "c2 h2 w2"], truth: Float[np.ndarray, "c h w"], span: float
) -> float:
    """Peak signal-to-noise ratio in dB over what is known (not NaN) of the truth.

    span: from the least to the largest value that there can be. Equal maps give infinity.
    """
    known = known_of(answer, truth)
    error = float(np.square(answer - truth)[known].mean())
    return float("inf") if error == 0 else 10 * float(np.log10(span**2 / error))


def mean_absolute(
    answer: Float[np.ndarray, "c2 h2 w2"], truth: Float[np.ndarray, "c h w"]
) -> float:
    known = known_of(answer, truth)
    return float(np.abs(answer - truth)[known].mean())


def ssim(
    answer: Float[np.ndarray, "c2 h2 w2"], truth: Float[np.ndarray, "c h w"], span: float
) -> float:
    """Mean structural similarity (Wang et al., 2004) over uniform windows of 7 x 7 pixels that are
    known throughout; NaN where there is none, or maps are smaller."""
    from scipy.ndimage import uniform_filter

    known = known_of(answer, truth)
    _, height, width = truth.shape
    if min(height, width) < WINDOW:
        return float("nan")
    found = []
    inner = WINDOW // 2
    normal = WINDOW**2 / (WINDOW**2 - 1)
    for x, y, there in zip(answer, truth, known, strict=True):
        a, b = (np.where(there, one, 0.0).astype(np.float64) for one in (x, y))
        mean_a, mean_b = uniform_filter(a, WINDOW), uniform_filter(b, WINDOW)
        spread_a = normal * (uniform_filter(a * a, WINDOW) - mean_a**2)
        spread_b = normal * (uniform_filter(b * b, WINDOW) - mean_b**2)
        shared = normal * (uniform_filter(a * b, WINDOW) - mean_a * mean_b)
        c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
        likeness = (2 * mean_a * mean_b + c1) * (2 * shared + c2)
        likeness /= (mean_a**2 + mean_b**2 + c1) * (spread_a + spread_b + c2)
        whole = uniform_filter(there.astype(np.float64), WINDOW) > 1 - 1e-9
        inside = (slice(inner, height - inner), slice(inner, width - inner))
        found.append(likeness[inside][whole[inside]])
    flat = np.concatenate(found)
    return float(flat.mean()) if flat.size else float("nan")


def known_of(
    answer: Float[np.ndarray, "c2 h2 w2"], truth: Float[np.ndarray, "c h w"]
) -> Bool[np.ndarray, "c h w"]:
    """Raises: BadSample for maps of different shape, and where nothing is known."""
    if answer.shape != truth.shape:
        raise BadSample(f"expected a map of shape {truth.shape}, found {answer.shape}.")
    known = ~np.isnan(truth) & ~np.isnan(answer)
    if not known.any():
        raise BadSample("expected something to be known of a map, found only NaN.")
    return known


def confusion(
    answer: Int[np.ndarray, "h w"], truth: Int[np.ndarray, "h w"], classes: int
) -> Int[np.ndarray, "k k"]:
    """Pixels by (true class, answered class); others than 0 .. classes - 1 are unknown."""
    known = (truth >= 0) & (truth < classes) & (answer >= 0) & (answer < classes)
    pairs = truth[known] * classes + answer[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def mean_iou(counts: Sequence[Int[np.ndarray, "k k"]]) -> float:
    """Mean over the classes that the truth has of intersection over union, all pixels together."""
    whole = np.sum(counts, axis=0)
    there = whole.sum(axis=1) > 0
    union = whole.sum(axis=0) + whole.sum(axis=1) - np.diag(whole)
    return float((np.diag(whole)[there] / union[there]).mean())
