"""What a masker promises: exact counts, and maskings that belong to the sample alone."""

from collections.abc import Mapping

import torch

from multimask.masking import Context, Masker
from multimask.tokens import Grid, Step, slots_of


def check_masker(masker: Masker, grids: Mapping[str, Grid], samples: int = 6) -> None:
    """Checks a masker that does not look at content on complete samples with these lattices.

    Counts are static and add up; a sample's masking depends neither on its batch mates nor on
    their order; another epoch gives another masking unless the rule is deterministic.
    """
    counts = {name: torch.Size(grid).numel() for name, grid in grids.items()}
    context = Context(slots_of(counts), dict(grids), complete=True)
    exists = torch.ones(samples, sum(counts.values()), dtype=torch.bool)
    ids = [f"sample {row}" for row in range(samples)]
    masking = masker(exists, Step().generators(ids, "masking"), context)
    k, d = masker.counts(exists.shape[1], context)
    assert masking.ids.shape == (samples, k), f"ids {tuple(masking.ids.shape)}, counted {k}"
    assert masking.decoded_ids.shape == (samples, d), "decoded_ids are not as many as counted"
    visible, decoded = masking.visible.sum(dim=1), masking.decoded.sum(dim=1)
    assert (visible == k).all(), f"an id occurs twice: {visible.tolist()} distinct of {k}"
    assert (decoded == d).all(), f"a decoded id occurs twice: {decoded.tolist()} distinct of {d}"
    if masker.decoded is None:
        hidden = exists.shape[1] - k
        scored = masking.target.sum(dim=1)
        assert (scored == min(d, hidden)).all(), "hidden tokens are decoded before visible ones"
    for row in range(samples):
        alone = masker(exists[:1], Step().generators(ids[row : row + 1], "masking"), context)
        same = torch.equal(alone.visible[0], masking.visible[row])
        assert same, f"the masking of {ids[row]!r} depends on its batch mates"
        same = torch.equal(alone.decoded[0], masking.decoded[row])
        assert same, f"what is decoded of {ids[row]!r} depends on its batch mates"
