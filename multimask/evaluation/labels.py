"""What every evaluation asks of features and their classes."""

import numpy as np
from jaxtyping import Int, Shaped


def check_rows(
    who: str, features: Shaped[np.ndarray, "rows d"], labels: Shaped[np.ndarray, " labels"]
) -> None:
    """Raises ValueError unless every row has a class and is finite."""
    if len(features) != len(labels) or not len(labels):
        raise ValueError(
            f"{who}: {len(features)} rows of features came with {len(labels)} labels; "
            "every row needs its own, and there must be some."
        )
    if not np.isfinite(features).all():
        bad = int((~np.isfinite(features)).any(axis=1).sum())
        raise ValueError(f"{who}: {bad} rows of features hold NaN or infinite numbers.")
    blank = unlabelled(labels)
    if blank:
        raise ValueError(f"{who}: {blank} rows have no label; leave them out.")


def unlabelled(labels: Shaped[np.ndarray, " n"]) -> int:
    return sum(label is None or label != label for label in labels.tolist())


def known_classes(
    who: str, classes: Shaped[np.ndarray, " c"], labels: Shaped[np.ndarray, " n"]
) -> None:
    """Raises ValueError when a class to be found was never learned."""
    new = sorted(map(str, set(labels.tolist()) - set(classes.tolist())))
    if new:
        raise ValueError(
            f"{who}: the test rows hold {', '.join(new[:5])}, of which there is no training row; "
            "split again (stratified), or leave these classes out."
        )


def stratified(
    who: str, labels: Shaped[np.ndarray, " n"], share: float, seed: int
) -> tuple[Int[np.ndarray, " fit"], Int[np.ndarray, " held"]]:
    """Rows to fit on and rows to choose by: about this share of every class, at least one of each
    class on either side."""
    if not 0 < share < 1:
        raise ValueError(f"{who}: validation={share} must lie between 0 and 1.")
    generator = np.random.default_rng(seed)
    fit, held = [], []
    for name in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == name))
        if len(rows) < 2:
            raise ValueError(
                f"{who}: class {name} has a single training row, but one is needed to fit and one "
                "to choose by; leave the class out, or give one strength, so that none is chosen."
            )
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        held.append(rows[:count])
        fit.append(rows[count:])
    return np.sort(np.concatenate(fit)), np.sort(np.concatenate(held))
