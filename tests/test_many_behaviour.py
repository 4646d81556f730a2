"""What methods of many modalities promise, on data small enough to train on: all marked slow."""

from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from multimask import collate, fit
from multimask.datasets.photograph_layers import MATERIALS, photograph_layers
from multimask.datasets.table import Table
from multimask.ensembles import Distillation, ensemble, subsets_of
from multimask.methods.phg_mae import phg_mae
from multimask.methods.recipe import Recipe
from multimask.modalities.depth_maps import DepthMaps
from multimask.modalities.image import ImagePatches
from multimask.modalities.label_maps import LabelMaps
from multimask.modality import Tokenizer
from multimask.model import MaskedModel
from multimask.tokens import Sample

QUICK: dict[str, Any] = {"lr_per": None, "pictures": False, "progress": False}

pytestmark = pytest.mark.slow


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


@pytest.mark.timeout(900)
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
    print(np.round(members, 3), together)
    assert together > np.mean(members)

    picture = ("colour", "grey")
    few = graph(table=(picture,))
    fit(few.model, few.objective, train[:16], epochs=300, **how)
    student = graph().model
    fit(student, Distillation(teacher.model, TARGET, picture, subsets), train, epochs=12, **how)
    told = [scored(model, test, [picture]) for model in (student, few.model)]
    print(f"members {np.round(members, 3)}, ensemble {together:.3f}, student, few {told}")
    assert told[0] > told[1]
    assert told[0] > together - 0.1
