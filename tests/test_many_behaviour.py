"""What methods of many modalities promise, on data small enough to train on: all marked slow."""

from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from multimask import collate, fit
from multimask.datasets.photograph_layers import MATERIALS, photograph_layers
from multimask.datasets.synthetic_volume import CONTRASTS, made_brain
from multimask.datasets.table import Table
from multimask.ensembles import Distillation, ensemble, subsets_of
from multimask.evaluation import crossmodal_errors, paired_bootstrap
from multimask.methods.bm_mae import bm_mae
from multimask.methods.phg_mae import phg_mae
from multimask.methods.recipe import Recipe
from multimask.modalities.depth_maps import DepthMaps
from multimask.modalities.image import ImagePatches
from multimask.modalities.label_maps import LabelMaps
from multimask.modalities.volume import VolumePatches
from multimask.modality import Tokenizer
from multimask.model import MaskedModel
from multimask.tokens import Sample

QUICK: dict[str, Any] = {"lr_per": None, "pictures": False, "progress": False}

pytestmark = pytest.mark.slow


# --- BM-MAE ---------------------------------------------------------------------------------------


def head(subject: int) -> Sample:
    scans = made_brain(0, subject, size=16).contrasts
    standard = {name: (scan - scan.mean()) / scan.std() for name, scan in scans.items()}
    made = {name: torch.from_numpy(scan)[None].float() for name, scan in standard.items()}
    return {"id": str(subject), **made}


def test_a_hidden_scan_is_answered_from_the_others_of_the_same_head() -> None:
    """Better than the mean of its own volume (error 1), than the mean head, and, by far, than from
    another patient's scans."""
    torch.manual_seed(0)
    sizes: Any = {"width": 48, "depth": 2, "heads": 4, "mlp": 96}
    sizes |= {"decoder_width": 48, "decoder_depth": 1, "decoder_heads": 4, "decoder_mlp": 96}
    recipe = bm_mae({name: VolumePatches(16, 4) for name in CONTRASTS}, **sizes)
    train, test = [head(n) for n in range(120)], [head(n) for n in range(120, 180)]
    fit(recipe.model, recipe.objective, train, epochs=25, batch_size=12, lr=2e-3, **QUICK)
    for name, made in crossmodal_errors(recipe.model, test, train).items():
        assert paired_bootstrap([np.ones(60)], [made.answered]).low > 0, name
        assert paired_bootstrap([made.of_mean], [made.answered]).low > 0, name
        assert paired_bootstrap([made.shuffled], [made.answered]).low > 0, name
        assert made.answered.mean() < 0.6 * made.shuffled.mean(), name


# --- PHG-MAE --------------------------------------------------------------------------------------

TARGET = "materials"
LAYERS: dict[str, Tokenizer] = {
    "grey": ImagePatches(16, 4, channels=1, std=0.25),
    "colour": ImagePatches(16, 4, std=0.1),
    "edges": DepthMaps(16, 4, scale="fixed", mean=2.5, std=1.5, hole=None),
    TARGET: LabelMaps(MATERIALS, 16, 4),
}


def graph(**how: Any) -> Recipe:
    torch.manual_seed(0)
    sizes: Any = {"width": 48, "depth": 2, "heads": 4, "decoder_width": 32, "decoder_depth": 1}
    return phg_mae(LAYERS, targets=(TARGET,), decoder_heads=4, **sizes, **how)


def mean_iou(said: Int[Tensor, "b n c"], truth: Int[Tensor, "b n c"]) -> float:
    found = []
    for kind in range(MATERIALS):
        both, either = (said == kind) & (truth == kind), (said == kind) | (truth == kind)
        found.append(float(both.sum() / either.sum().clamp(min=1)))
    return float(np.mean(found))


def scored(model: MaskedModel, rows: list[Sample], subsets: list[tuple[str, ...]]) -> float:
    batch = collate(rows, LAYERS)
    made: Float[Tensor, "b n c k"] = ensemble(model, batch, TARGET, subsets).answer
    truth = model.tokenize(batch).modalities[TARGET].values.long()
    return mean_iou(made.argmax(dim=-1), truth)


def test_an_ensemble_beats_its_members_and_its_student_a_few_labels() -> None:
    table = Table.open(photograph_layers(16, train=400, test=100))
    train, test = ([part[n] for n in range(len(part))] for part in (
        table.where(split="train"), table.where(split="test")))  # fmt: skip
    how: Any = {"batch_size": 16, "lr": 2e-3, **QUICK}
    teacher = graph()
    fit(teacher.model, teacher.objective, train, epochs=24, **how)
    subsets = subsets_of(["grey", "colour", "edges"])
    members = [scored(teacher.model, test, [subset]) for subset in subsets]
    together = scored(teacher.model, test, subsets)
    assert together > np.mean(members)

    few = graph(table=(("colour",),))
    fit(few.model, few.objective, train[:16], epochs=300, **how)
    student = graph().model
    pairs = [("colour", "grey"), ("colour", "edges", "grey")]
    fit(student, Distillation(teacher.model, TARGET, ("colour",), pairs), train, epochs=12, **how)
    told = [scored(model, test, [("colour",)]) for model in (student, few.model)]
    print(f"members {np.round(members, 3)}, ensemble {together:.3f}, student, few {told}")
    assert told[0] > told[1]
    assert told[0] > together - 0.1
