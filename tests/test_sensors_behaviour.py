"""What ChA-MAEViT promises when bands are missing, on made scenes: all marked slow."""

from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch

from multimask import fit
from multimask.datasets.synthetic_spectral import SENSORS, mixture_scenes
from multimask.evaluation import embed, linear_probe
from multimask.masking import Masker, Natural
from multimask.methods.cha_maevit import cha_maevit
from multimask.methods.recipe import Recipe
from multimask.modalities.spectral import SpectralPatches
from multimask.modalities.spectral_masking import ChannelPatch
from multimask.model import MaskedModel
from multimask.tokens import Sample

pytestmark = pytest.mark.slow

BANDS = SENSORS["landsat7"]
TRAINING: dict[str, Any] = {
    "batch_size": 16, "lr": 2e-3, "lr_per": None, "pictures": False, "progress": False,
}  # fmt: skip


def made(name: str, nm: tuple[float, ...]) -> dict[str, list[Sample]]:
    table = mixture_scenes(480, 320, size=16, wavelengths=nm)
    parts = {split: table.where(split=split) for split in ("train", "test")}
    return {
        split: [{"id": (row := part[n])["id"], name: row["cube"], "label": row["label"]}
                for n in range(len(part))]
        for split, part in parts.items()
    }  # fmt: skip


def tokenizer(rows: Sequence[Sample], name: str, nm: tuple[float, ...], **how: Any) -> Any:
    pixels = torch.stack([torch.as_tensor(row[name]["pixels"]) for row in rows]).float()
    mean, std = pixels.mean(dim=(0, 2, 3)), pixels.std(dim=(0, 2, 3))
    return SpectralPatches(
        16,
        4,
        bands=len(nm),
        wavelengths=nm,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        **how,
    )


def right(learned: Any, asked: Any) -> float:
    labels = learned.labels["label"], asked.labels["label"]
    return linear_probe(learned.features, labels[0], asked.features, labels[1]).accuracy


# --- ChA-MAEViT -----------------------------------------------------------------------------------


def without(rows: Sequence[Sample], kept: Sequence[int]) -> list[Sample]:
    def cut(cube: Any) -> Any:
        return {
            "pixels": torch.as_tensor(cube["pixels"])[list(kept)],
            "wavelengths": [cube["wavelengths"][n] for n in kept],
        }

    return [{**row, "cube": cut(row["cube"])} for row in rows]


def with_all_and_half_the_bands(model: MaskedModel, train: Any, test: Any) -> tuple[float, float]:
    """Accuracy of a probe that learned from all bands: asked with all, and with half of them."""
    learned, asked = (embed(model, rows, pool="global") for rows in (train, test))
    halves = [without(test, half) for half in ((0, 2, 4), (1, 3, 5), (0, 1, 2), (3, 4, 5))]
    few = [right(learned, embed(model, half, pool="global")) for half in halves]
    return right(learned, asked), sum(few) / len(few)


@pytest.mark.timeout(900)
def test_hiding_channels_in_training_loses_less_when_half_of_them_are_gone() -> None:
    """Against a masker that hides as many tokens, 0.56 of them, but of every channel alike."""
    rows = made("cube", BANDS)
    patches = tokenizer(rows["train"], "cube", BANDS)
    found = {}
    for name, rule in (("channels", None), ("patches", ChannelPatch(1.0, 0.0, 0.56))):
        torch.manual_seed(0)
        recipe: Recipe = cha_maevit(
            {"cube": patches}, width=48, depth=2, heads=4, decoder_depth=1, decoder_heads=4
        )
        if rule is not None:
            cast(Any, recipe.objective).masker = Masker(rule, Natural())
        fit(recipe.model, recipe.objective, rows["train"], epochs=30, **TRAINING)
        found[name] = with_all_and_half_the_bands(recipe.model, rows["train"], rows["test"])
    print(found)
    lost = {name: whole - half for name, (whole, half) in found.items()}
    assert lost["channels"] < lost["patches"] - 0.03
    assert found["channels"][1] > found["patches"][1]  # not only because it had less to lose
