"""Is a difference between two models more than luck? Paired, over seeds and test items."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Num

CHUNK = 500  # resamples drawn at once


@dataclass(frozen=True)
class Interval:
    """A mean and the interval that holds `level` of the resampled means."""

    mean: float
    low: float
    high: float
    level: float


def paired_bootstrap(
    scores_a: Sequence[Num[np.ndarray, " items"] | Bool[np.ndarray, " items"]],
    scores_b: Sequence[Num[np.ndarray, " items"] | Bool[np.ndarray, " items"]],
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean of a - b over seeds and test items, with its percentile interval.

    Scores are one array a seed, one number an item (right or wrong, or an error); all seeds were
    asked the same items in the same order. An item's difference is averaged over the seeds, then
    items are drawn with replacement, as many as there are. So the pairing holds within seed and
    item, and the interval speaks of other test items: the seeds are those that were run, and are
    to be shown beside it.
    """
    a, b = stacked(scores_a), stacked(scores_b)
    if a.shape != b.shape:
        raise ValueError(
            f"paired_bootstrap: {a.shape} and {b.shape} (seeds, items) cannot be paired."
        )
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(
            f"paired_bootstrap: resamples={resamples} must be at least 1 and level={level} "
            "lie between 0 and 1."
        )
    difference = (a - b).mean(axis=0)
    items, generator = len(difference), np.random.default_rng(seed)
    even = np.full(items, 1 / items)
    means = [
        generator.multinomial(items, even, size=min(CHUNK, resamples - start)) @ difference / items
        for start in range(0, resamples, CHUNK)
    ]
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(float(difference.mean()), float(low), float(high), level)


def stacked(scores: Sequence[np.ndarray]) -> Float[np.ndarray, "seeds items"]:
    lengths = {len(items) for items in scores}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"paired_bootstrap: needs one array a seed, all over the same test items; found "
            f"{len(scores)} seeds with {sorted(lengths)} items."
        )
    return np.stack([np.asarray(items, dtype=np.float64) for items in scores])


@dataclass(frozen=True)
class Comparison:
    """Accuracy per seed of a pretrained model and of the same weights before training."""

    pretrained: tuple[float, ...]
    random_init: tuple[float, ...]
    interval: Interval
    items: int

    @property
    def differences(self) -> tuple[float, ...]:
        return tuple(a - b for a, b in zip(self.pretrained, self.random_init, strict=True))

    @property
    def worst(self) -> float:
        return min(self.differences)

    @property
    def learned(self) -> bool:
        """Every seed is better than its own start, and the interval excludes 0."""
        return self.worst > 0 and self.interval.low > 0

    def __str__(self) -> str:
        pairs = ", ".join(
            f"{after:.3f} (random {before:.3f})"
            for after, before in zip(self.pretrained, self.random_init, strict=True)
        )
        verdict = "learning is shown" if self.learned else "learning is NOT shown"
        between = self.interval
        return (
            f"{verdict}: {pairs} on {self.items} test items; mean difference {between.mean:+.3f} "
            f"[{between.low:+.3f}, {between.high:+.3f}], worst seed {self.worst:+.3f}"
        )


def shows_learning(
    pretrained: Sequence[Num[np.ndarray, " items"] | Bool[np.ndarray, " items"]],
    random_init: Sequence[Num[np.ndarray, " items"] | Bool[np.ndarray, " items"]],
    *,
    seed: int = 0,
) -> Comparison:
    """Hold pretrained models against their own initial weights: which items each seed got right,
    or how each trial of a seed went.

    For a fair comparison the two share initial weights, split and probe grid per seed.
    """
    interval = paired_bootstrap(pretrained, random_init, seed=seed)
    after, before = (
        tuple(float(np.mean(right)) for right in scores) for scores in (pretrained, random_init)
    )
    return Comparison(after, before, interval, len(pretrained[0]))
