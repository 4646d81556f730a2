"""Comparisons: paired intervals, and learning that every seed shows or none."""

import numpy as np
import pytest

from multimask.evaluation import paired_bootstrap, shows_learning


def test_the_interval_of_a_sure_difference_has_no_width() -> None:
    right, wrong = np.ones(50, dtype=bool), np.zeros(50, dtype=bool)
    interval = paired_bootstrap([right, right], [wrong, wrong])
    assert (interval.mean, interval.low, interval.high) == (1.0, 1.0, 1.0)
    same = paired_bootstrap([right], [right])
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)


def test_the_interval_is_that_of_the_paired_differences() -> None:
    generator = np.random.default_rng(0)
    hard = generator.normal(size=400)  # what an item costs either model
    a, b = hard + 0.1 + generator.normal(scale=0.1, size=400), hard
    interval = paired_bootstrap([a], [b])
    error = (a - b).std() / 20
    assert interval.mean == pytest.approx((a - b).mean())
    assert interval.low == pytest.approx(interval.mean - 1.96 * error, abs=0.1 * error)
    assert interval.high == pytest.approx(interval.mean + 1.96 * error, abs=0.1 * error)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator, held = np.random.default_rng(0), 0
    for trial in range(300):
        a, b = (generator.random((2, 120)) < share for share in (0.7, 0.6))
        interval = paired_bootstrap(list(a), list(b), resamples=500, seed=trial)
        held += interval.low <= 0.1 <= interval.high
    assert 0.91 < held / 300 < 0.98


def test_learning_is_shown_by_every_seed_or_not_at_all() -> None:
    good, poor = np.arange(300) < 240, np.arange(300) < 150
    shown = shows_learning([good, good, good], [poor, poor, poor])
    assert shown.learned
    assert shown.worst == pytest.approx(0.3)
    assert "learning is shown: 0.800 (random 0.500)" in str(shown)
    assert "on 300 test items" in str(shown)
    one_fails = shows_learning([good, good, poor], [poor, poor, good])
    assert one_fails.interval.low > 0
    assert not one_fails.learned
    assert "NOT shown" in str(one_fails)
    by_luck = shows_learning([good[:6]], [np.array([False, *good[1:6]])])
    assert by_luck.worst > 0
    assert not by_luck.learned


def test_seeds_that_saw_other_items_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"2 seeds with \[4, 5\] items"):
        paired_bootstrap([np.ones(4), np.ones(5)], [np.ones(4), np.ones(5)])
    with pytest.raises(ValueError, match=r"\(1, 4\) and \(2, 4\) \(seeds, items\)"):
        paired_bootstrap([np.ones(4)], [np.ones(4), np.ones(4)])
