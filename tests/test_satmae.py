"""SatMAE's recipe: groups of bands as tokens, and its two ways of hiding them."""

import pytest
import torch

from multimask.datasets.sensors import SATMAE, centres
from multimask.methods.satmae import satmae
from multimask.modalities.spectral import SpectralPatches
from multimask.modality import collate
from multimask.tokens import Batch, Step

GROUPS = SpectralPatches(size=32, patch=8, bands=10, group=4, wavelengths=centres(SATMAE))
SMALL = {"width": 48, "depth": 1, "heads": 3, "decoder_width": 32, "decoder_depth": 1}


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    cubes = torch.rand(3, 10, 32, 32, generator=generator)
    samples = [{"id": str(row), "s2": cube} for row, cube in enumerate(cubes)]
    return collate(samples, {"s2": GROUPS})


def test_the_papers_groups_are_three_tokens_a_location() -> None:
    tokens = GROUPS(batch().parts["s2"])
    assert tokens.grid == (3, 4, 4)
    assert tokens.coords[0, [0, 16, 32], 2:6].tolist() == [
        [490.0, 560.0, 665.0, 842.0],
        [705.0, 740.0, 783.0, 865.0],
        [1610.0, 2190.0, 0.0, 0.0],
    ]
    assert tokens.valid is not None
    assert tokens.valid.all()  # a group with two of four bands exists


@pytest.mark.parametrize("masking", ["independent", "consistent"])
def test_who_is_hidden(masking: str) -> None:
    recipe = satmae({"s2": GROUPS}, masking=masking, decoder_heads=4, **SMALL)  # type: ignore[arg-type]
    model, objective = recipe.model, recipe.objective
    tokens = model.tokenize(batch())
    drawn = objective.masking(model, tokens, batch(), Step())
    seen = drawn.visible.view(3, 3, 16)
    assert (seen.flatten(1).sum(dim=1) == 12).all()
    assert bool((seen == seen[:, :1]).all()) == (masking == "consistent")
    term = objective(model, batch(), Step())["s2"]
    assert term.count == 3 * 36
    assert term.total.isfinite()


def test_its_defaults_are_the_papers() -> None:
    recipe = satmae({"s2": GROUPS}, decoder_heads=4, **SMALL)  # type: ignore[arg-type]
    assert recipe.training["lr"] == 1e-4
    assert not recipe.model.adapter("s2").restoring_leaks  # type: ignore[attr-defined]
