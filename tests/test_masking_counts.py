"""How many tokens stay visible: ratios become counts, and budgets refuse what teaches nothing."""

import math

import pytest

from multimask.masking import Count, Ratio, num_visible
from multimask.masking.budgets import Counting


@pytest.mark.parametrize(
    ("n", "ratio", "visible", "hidden", "nearest"),
    [
        (196, 0.75, 49, 49, 49),
        (196, 0.9, 19, 20, 20),  # 19.6 stay: floored, the hidden floored, rounded
        (64, 0.6, 25, 26, 26),
        (5, 0.75, 1, 2, 1),
        (10, 0.9, 1, 1, 1),  # 10 * (1 - 0.9) is a little less than 1 in floating point
        (100, 0.93, 7, 7, 7),
        (1, 0.99, 1, 1, 1),  # one always stays
        (3, 0.9, 1, 1, 1),
        (8, 0.0, 8, 8, 8),
    ],
)
def test_a_ratio_becomes_a_count(
    n: int, ratio: float, visible: int, hidden: int, nearest: int
) -> None:
    ways: tuple[Counting, ...] = ("visible", "hidden", "nearest")
    assert [num_visible(n, ratio, way) for way in ways] == [visible, hidden, nearest]


@pytest.mark.parametrize("ratio", [0.0, 1.0, 1.5, -0.1, math.nan])
def test_a_ratio_that_hides_nothing_or_everything_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"must lie between 0 and 1, both excluded"):
        Ratio(ratio)
    if ratio != 0:
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\), not"):
            num_visible(10, ratio)


def test_budgets_say_when_there_is_nothing_to_learn() -> None:
    assert Ratio(0.75)(196) == (49, 147)
    assert Count(5)(16) == (5, 11)
    assert Count(5, decoded=3)(16) == (5, 3)
    with pytest.raises(ValueError, match=r"ratio=0.2 of 2 tokens hides none of them"):
        Ratio(0.2, "hidden")(2)
    for wrong in (Count(0), Count(17), Count(16), Count(4, decoded=0)):
        with pytest.raises(ValueError, match=r"must both lie in 1..16"):
            wrong(16)
