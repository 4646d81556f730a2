"""How many tokens each modality gets of one exact total: shares, capacities, rounding."""

import numpy as np
from jaxtyping import Float, Int

# A modality's turn: the first are served in full before the second share what is left, and the
# last only take what those before them cannot hold.
FIRST, SECOND, LAST = 0, 1, 2

FINENESS = 2.0**-25  # keeps draws off the ends, where rounding errors of sums could show


def allotted(
    weights: Float[np.ndarray, "b m"],
    turns: Int[np.ndarray, "b m"],
    capacity: Int[np.ndarray, "b m"],
    total: int,
    draws: Float[np.ndarray, " b"],
) -> Int[np.ndarray, "b m"]:
    """Whole numbers that add up to `total` in every row (to its capacity where that is less).

    In proportion to the weights, as far as capacities allow: what a modality cannot hold goes to
    the others of its turn, then to the next turn, in proportion to their weights. Fractions are
    rounded up or down by systematic sampling with one draw of [0, 1) a row, so that every
    expectation is the unrounded number.
    """
    wanted = shared(weights, turns, capacity, np.minimum(total, capacity.sum(axis=1)))
    whole = np.floor(wanted)
    left = np.minimum(total, capacity.sum(axis=1)) - whole.sum(axis=1)
    reached = np.cumsum(wanted - whole, axis=1)
    reached[:, -1] = left  # exact, whatever the sum of fractions came to
    steps = np.floor(reached + draws[:, None] * (1 - 2 * FINENESS) + FINENESS)
    return (whole + np.diff(steps, axis=1, prepend=0)).astype(np.int64)


def shared(
    weights: Float[np.ndarray, "b m"],
    turns: Int[np.ndarray, "b m"],
    capacity: Int[np.ndarray, "b m"],
    totals: Int[np.ndarray, " b"],
) -> Float[np.ndarray, "b m"]:
    """The same before rounding. What weighs nothing comes behind the others of its turn, in
    proportion to its capacity."""
    given = np.zeros(weights.shape)
    for turn in (FIRST, SECOND, LAST):
        for weighty in (True, False):
            mine = (turns == turn) & ((weights > 0) == weighty)
            pulls = np.where(mine, weights if weighty else capacity, 0.0)
            given = poured(given, pulls, capacity, totals)
    # a full modality is full to the last bit, so that rounding cannot exceed it
    return np.where(capacity - given < 1e-9, capacity, given)


def poured(
    given: Float[np.ndarray, "b m"],
    pulls: Float[np.ndarray, "b m"],
    capacity: Int[np.ndarray, "b m"],
    totals: Int[np.ndarray, " b"],
) -> Float[np.ndarray, "b m"]:
    """Give what is left in proportion to the pulls; each round fills at least one more."""
    for _ in range(given.shape[1]):
        room = pulls * (capacity - given > 1e-9)
        left = np.maximum(totals - given.sum(axis=1), 0)[:, None]
        parts = left * room / np.maximum(room.sum(axis=1), np.finfo(float).tiny)[:, None]
        if not (parts > 1e-9).any():
            break
        given = np.minimum(given + parts, capacity)
    return given
