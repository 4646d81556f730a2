"""What a masker promises: exact counts, and maskings that belong to the sample alone."""

from collections.abc import Mapping

import torch

from multimask.masking import Context, Masker
from multimask.tokens import Grid, Step, slots_of


def check_masker(masker: Masker, grids: Mapping[str, Grid], samples: int = 6) -> None:
    """Checks a masker that does not look at content, on samples with these lattices.

    Counts are static and add up; a sample's masking depends neither on its batch mates nor on
    their order, nor on torch's global generator; what a sample lacks is neither visible nor asked.
    """
    counts = {name: torch.Size(grid).numel() for name, grid in grids.items()}
    context = Context(slots_of(counts), dict(grids), complete=True)
    exists = torch.ones(samples, sum(counts.values()), dtype=torch.bool)
    ids = [f"sample {row}" for row in range(samples)]
    global_state = torch.get_rng_state()
    masking = masker(exists, Step().generators(ids, "masking"), context)
    same = torch.equal(torch.get_rng_state(), global_state)
    assert same, "the rule draws from torch's global generator, not from the samples' own"
    k, d = masker.counts(exists.shape[1], context)
    assert masking.ids.shape == (samples, k), f"ids {tuple(masking.ids.shape)}, counted {k}"
    assert masking.decoded_ids.shape == (samples, d), "decoded_ids are not as many as counted"
    visible, decoded = masking.visible.sum(dim=1), masking.decoded.sum(dim=1)
    kept = torch.full_like(visible, k) if masking.counts is None else masking.counts
    assert torch.equal(visible, kept), f"an id occurs twice: {visible.tolist()} distinct of {k}"
    assert (decoded == d).all(), f"a decoded id occurs twice: {decoded.tolist()} distinct of {d}"
    if masker.decoded is None:
        hidden = exists.shape[1] - kept
        scored = masking.target.sum(dim=1)
        assert torch.equal(scored, hidden.clamp(max=d)), (
            "hidden tokens are decoded before visible ones"
        )
    for row in range(samples):
        alone = masker(exists[:1], Step().generators(ids[row : row + 1], "masking"), context)
        same = torch.equal(alone.visible[0], masking.visible[row])
        assert same, f"the masking of {ids[row]!r} depends on its batch mates"
        same = torch.equal(alone.decoded[0], masking.decoded[row])
        assert same, f"what is decoded of {ids[row]!r} depends on its batch mates"
    back = masker(exists, Step().generators(ids[::-1], "masking"), context)
    same = torch.equal(back.visible.flip(0), masking.visible)
    assert same, "maskings depend on the order of the samples"
    if len(grids) > 1:
        check_absent(masker, context, ids)


def check_absent(masker: Masker, context: Context, ids: list[str]) -> None:
    """Every sample lacks one of the modalities."""
    total = max(where.stop for where in context.slots.values())
    k, d = masker.counts(total, context)
    exists = torch.ones(len(ids), total, dtype=torch.bool)
    for row, where in zip(range(len(ids)), list(context.slots.values()) * len(ids), strict=False):
        if total - len(where) >= k:  # else too few are left
            exists[row, where.start : where.stop] = False
    lacking = Context(context.slots, context.grids)
    masking = masker(exists, Step().generators(ids, "masking"), lacking)
    sizes = masking.ids.shape[1], masking.decoded_ids.shape[1]
    assert sizes == (k, d), f"counts {sizes} depend on what samples lack; complete ones have {k, d}"
    absent = ~exists.gather(1, masking.ids)
    if masking.counts is not None:  # what follows is padding
        absent = absent & (torch.arange(k) < masking.counts[:, None])
    assert not absent.any(), "tokens that do not exist are visible"
    if masker.decoded is None:
        hidden = (exists & ~masking.visible).sum(dim=1)
        scored = masking.target.sum(dim=1)
        assert torch.equal(scored, hidden.clamp(max=d)), "absent tokens are decoded before hidden"
