"""What SMARTIES and ChA-MAEViT promise when bands are missing, on made scenes: all marked slow."""

from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch

from multimask import fit
from multimask.datasets.synthetic_spectral import SENSORS, mixture_scenes
from multimask.evaluation import embed, knn, linear_probe, raw_means
from multimask.masking import Masker, Natural
from multimask.methods.cha_maevit import cha_maevit
from multimask.methods.recipe import Recipe
from multimask.methods.smarties import smarties
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


def neighbours(learned: Any, asked: Any) -> float:
    labels = learned.labels["label"], asked.labels["label"]
    found: Any = knn(learned.features, labels[0], asked.features, labels[1])
    return found.accuracy


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


# --- SMARTIES -------------------------------------------------------------------------------------


@pytest.mark.timeout(900)
def test_features_tell_more_than_spectra_and_swapped_sensors_lose_less_on_red_green_blue() -> None:
    """Nearest neighbours of class tokens against those of mean spectra; and what a probe of all
    bands loses when it is asked about the other sensor, which has three."""
    colours = (665.0, 560.0, 485.0)
    optical, rgb = made("optical", BANDS), made("rgb", colours)
    rows = {
        split: [{**one, **two} for one, two in zip(optical[split], rgb[split], strict=True)]
        for split in optical
    }
    maps = {
        "optical": tokenizer(rows["train"], "optical", BANDS, group=6, projections="bands"),
        "rgb": tokenizer(rows["train"], "rgb", colours, group=3, projections="bands"),
    }
    found = {}
    for swap in (0.5, 0.0):
        torch.manual_seed(0)
        recipe = smarties(
            maps, width=48, depth=2, heads=4, decoder_width=32, decoder_depth=1, decoder_heads=4,
            swap=swap,
        )  # fmt: skip
        fit(recipe.model, recipe.objective, rows["train"], epochs=70, **TRAINING)
        parts = {
            (split, name): embed(recipe.model, rows[split], modalities=[name], pool="global")
            for split in rows
            for name in maps
        }
        learned = parts["train", "optical"]
        whole, few = (right(learned, parts["test", name]) for name in ("optical", "rgb"))
        voted = neighbours(learned, parts["test", "optical"])
        found[swap] = {"neighbours": voted, "whole": whole, "rgb": few}
    plain = neighbours(
        *(raw_means(rows[split], {"optical": maps["optical"]}) for split in ("train", "test"))
    )
    print(found, f"neighbours of mean spectra {plain:.3f}")
    assert found[0.5]["neighbours"] > plain
    lost = {swap: made["whole"] - made["rgb"] for swap, made in found.items()}
    assert lost[0.5] < lost[0.0] - 0.05
    assert found[0.5]["rgb"] > found[0.0]["rgb"]
