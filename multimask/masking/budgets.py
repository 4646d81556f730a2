"""Budgets: how many tokens stay visible and how many are answered for."""

import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

Counting = Literal["visible", "hidden", "nearest"]


@runtime_checkable
class Budget(Protocol):
    """`(visible, decoded)` out of n countable units (tokens, or what a rule ties together)."""

    def __call__(self, n: int) -> tuple[int, int]: ...


def num_visible(n: int, ratio: float, counting: Counting = "visible") -> int:
    """How many of n tokens stay visible: the one place where a ratio becomes a count.

    `counting="visible"` floors the visible share (MAE), `"hidden"` floors the hidden share
    (Point-MAE, VideoMAE tubes, HiCMAE), `"nearest"` rounds (SparK). At least one stays visible.

    >>> num_visible(196, 0.75), num_visible(196, 0.9), num_visible(196, 0.9, "hidden")
    (49, 19, 20)
    """
    if not 0 <= ratio < 1:
        raise ValueError(
            f"ratio is the share of tokens hidden and must lie in [0, 1), not {ratio}."
        )
    if counting == "hidden":
        return max(1, n - math.floor(n * ratio + 1e-6))
    kept = n * (1 - ratio)
    return max(1, round(kept) if counting == "nearest" else math.floor(kept + 1e-6))


@dataclass(frozen=True)
class Ratio:
    """Hide a fixed share of all slots; answer for all that is hidden.

    Raises: ValueError unless 0 < ratio < 1 (0 hides nothing: there is nothing to learn from).
    """

    ratio: float = 0.75
    counting: Counting = "visible"

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(
                f"Ratio: {self.ratio} is not the share of tokens to hide; it must lie between "
                "0 and 1, both excluded (0 hides nothing, 1 hides everything)."
            )

    def __call__(self, n: int) -> tuple[int, int]:
        visible = num_visible(n, self.ratio, self.counting)
        if visible == n:
            raise ValueError(
                f"Ratio: ratio={self.ratio} of {n} tokens hides none of them; "
                "raise the ratio or use smaller patches."
            )
        return visible, n - visible


@dataclass(frozen=True)
class Count:
    """Counts given outright; `decoded=None` answers for every slot that is not visible."""

    visible: int
    decoded: int | None = None

    def __call__(self, n: int) -> tuple[int, int]:
        decoded = n - self.visible if self.decoded is None else self.decoded
        if not (0 < self.visible <= n and 0 < decoded <= n):
            raise ValueError(
                f"Count: visible={self.visible} and decoded={decoded} must both lie in 1..{n}, "
                "the number of tokens."
            )
        return self.visible, decoded


@dataclass(frozen=True)
class Natural:
    """Leaves the number of visible tokens to the rule, up to a cap.

    For rules that say `natural = True` and score what they hide at 1 or more. Shapes stay fixed:
    visible tokens are padded to the cap and attention-masked; a rule that leaves more shows its
    lowest scores. Args: visible, decoded, caps as shares of all slots.
    """

    visible: float = 1.0
    decoded: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.visible <= 1 and 0 < self.decoded <= 1):
            raise ValueError(
                f"Natural: visible={self.visible} and decoded={self.decoded} are shares of all "
                "tokens and must lie above 0 and at most at 1."
            )

    def __call__(self, n: int) -> tuple[int, int]:
        visible, decoded = (math.ceil(n * x - 1e-6) for x in (self.visible, self.decoded))
        return max(1, visible), max(1, decoded)
