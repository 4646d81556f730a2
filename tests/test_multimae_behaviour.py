"""What MultiMAE promises of a map that is hidden whole, on data small enough to train on."""

from typing import Any

import pytest
import torch

from multimask import fit
from multimask.datasets.photograph_layers import photograph_layers
from multimask.datasets.table import Table
from multimask.evaluation import crossmodal_errors, paired_bootstrap
from multimask.masking import Count, Dropped, Masker, Uniform
from multimask.methods.multimae import multimae
from multimask.modalities.depth_maps import DepthMaps
from multimask.modalities.image import ImagePatches
from multimask.modality import Tokenizer
from multimask.tokens import Sample

STD = 0.25


def layers(split: str, apart: int) -> list[Sample]:
    """Grey crops of photographs, and the inverse and the edges of the crop so many places apart."""
    table = Table.open(photograph_layers(16, train=400, test=100)).where(split=split)
    rows = [table[row] for row in range(len(table))]
    pairs = zip(rows, [*rows[apart:], *rows[:apart]], strict=True)
    return [
        {
            "id": row["id"],
            "grey": row["grey"],
            "inverse": 255 - torch.as_tensor(other["grey"]),
            "edges": other["edges"],
        }
        for row, other in pairs
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hidden_map_is_answered_beyond_its_own_mean_and_not_from_pairs_that_do_not_match() -> (
    None
):
    """The true mean of the very map that is asked for has its variance as error."""
    maps: dict[str, Tokenizer] = {
        "grey": ImagePatches(16, 4, channels=1, std=STD),
        "inverse": ImagePatches(16, 4, channels=1, std=STD),
        "edges": DepthMaps(16, 4, scale="fixed", mean=2.5, std=1.5, hole=None),
    }
    sizes: Any = {"width": 48, "depth": 2, "heads": 4, "decoder_width": 32, "decoder_depth": 1}
    how: Any = {"lr": 2e-3, "lr_per": None, "pictures": False, "progress": False}
    answered = {}
    for apart in (0, 7):
        torch.manual_seed(0)
        masker = Masker(Uniform(), Dropped(Count(16)))
        recipe = multimae(maps, **sizes, decoder_heads=4, masker=masker)
        train, test = layers("train", apart), layers("test", apart)
        fit(recipe.model, recipe.objective, train, epochs=100, batch_size=16, **how)
        answered[apart] = crossmodal_errors(recipe.model, test, train, ["inverse"])[
            "inverse"
        ].answered
    grey = torch.stack([torch.as_tensor(row["grey"]) for row in test]) / 255 / STD
    own = grey.flatten(1).var(dim=1, correction=0).numpy()
    print({apart: errors.mean() for apart, errors in answered.items()}, "own mean", own.mean())
    assert paired_bootstrap([own], [answered[0]]).low > 0
    assert answered[0].mean() < 0.7 * own.mean()
    assert answered[7].mean() > own.mean()
