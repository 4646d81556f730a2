"""Dense heads: every cell named, on lattices of one, two and three axes, and mean IoU by hand."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from multimask import MaskedModel
from multimask.datasets.synthetic_textures import TEXTURES, textured_regions
from multimask.datasets.table import Table
from multimask.finetuning import (
    DenseClassifier,
    Overlap,
    Segmenting,
    overlap,
    segment,
)
from multimask.finetuning.segmentation import DenseClassification, confused, maps_of
from multimask.modalities.image import ImagePatches
from multimask.modalities.points import PointGroups
from multimask.modalities.video import Tubelets
from multimask.modality import collate
from multimask.tokens import BadSample, Batch, Part, Step, Tokens

PLAIN: dict[str, Any] = {"epochs": 2, "batch_size": 8, "progress": False, "device": "cpu"}


@dataclass(frozen=True)
class Signal:
    """A lattice of one axis: 4 numbers a token."""

    coord_dim = 1
    token_dim = 4
    num_tokens = 6
    grid = (6,)
    box = (4,)
    channels = 1

    def __call__(self, part: Part) -> Tokens:
        values = part.data.reshape(len(part.rows), 6, 4)
        return Tokens(values, torch.arange(6.0)[None, :, None], part.rows, grid=(6,))


KINDS: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...]]] = {  # tokenizer, data, cells
    "signal": (Signal(), (24,), (24,)),
    "picture": (ImagePatches((8, 12), 4, channels=1), (1, 8, 12), (8, 12)),
    "clip": (Tubelets(4, 8, 4, channels=1, mean=0.5, std=0.5), (4, 1, 8, 8), (4, 8, 8)),
}


def small(tokenizer: Any, *names: str) -> MaskedModel:
    torch.manual_seed(0)
    tokenizers = {name: tokenizer for name in names or ("a",)}
    return MaskedModel(tokenizers, width=24, depth=4, heads=2, decoder_width=16, decoder_heads=2)


def dotted(count: int = 8) -> Table:
    """Pictures with a bright quarter, which is class 1."""
    data = 0.1 * torch.rand(count, 1, 8, 12, generator=torch.Generator().manual_seed(0))
    maps = torch.zeros(count, 8, 12, dtype=torch.uint8)
    for row in range(count):
        data[row, 0, 4 * (row % 2) :][:4, 4 * (row % 3) :][:, :4] += 0.8
        maps[row, 4 * (row % 2) :][:4, 4 * (row % 3) :][:, :4] = 1
    return Table.from_arrays(modalities=["a"], a=data, segmentation=maps)


# --- shapes and places ----------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["linear", "pyramid"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_cell_of_any_lattice_is_named(kind: str, head: str) -> None:
    tokenizer, shape, cells = KINDS[kind]
    torch.manual_seed(0)
    model = DenseClassifier(small(tokenizer), classes=3, head=head)
    batch = collate(
        [{"a": torch.rand(shape), "id": str(i)} for i in range(2)], model.model.tokenizers
    )
    logits = model(batch)
    assert logits.shape == (2, 3, *cells)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in model.head.parameters())


def test_the_linear_head_says_of_a_token_what_the_token_says() -> None:
    model = DenseClassifier(small(ImagePatches(8, 4, channels=1)), 2, "linear").eval()
    batch = Batch(1, ("a",), {}, {"a": Part(torch.rand(1, 1, 8, 8), torch.arange(1))})
    with torch.no_grad():
        tokens = model.model.encode(batch).tokens[0]  # (4, w)
        normed = cast(nn.Module, model.head.norm)(tokens).T
        said = model.head.classify.weight[:, :, 0, 0] @ normed + model.head.classify.bias[:, None]
        # outer corners of the picture see one token alone
        corners = model(batch)[0][:, [0, 0, -1, -1], [0, -1, 0, -1]]
    torch.testing.assert_close(corners, said, atol=1e-5, rtol=0)


def test_a_modality_that_is_missing_changes_nothing_for_others() -> None:
    model = DenseClassifier(small(ImagePatches(8, 4, channels=1), "a", "b"), 2).eval()
    one, two = torch.rand(1, 8, 8), torch.rand(1, 8, 8)
    samples = [{"id": "x", "a": one}, {"id": "y", "a": one, "b": two}]
    with torch.no_grad():
        together = model(collate(samples, model.model.tokenizers))
        alone = model(collate(samples[:1], model.model.tokenizers))
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("tokenizers", "said"),
    [
        ({"a": PointGroups(4, 2)}, "expected one lattice"),
        ({"a": ImagePatches(8, 4), "b": ImagePatches(16, 4)}, "expected one lattice"),
        ({"a": ImagePatches(8, 4), "b": ImagePatches(16, 8)}, "expected one patch"),
    ],
)
def test_what_has_no_common_lattice_is_refused(tokenizers: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DenseClassifier(MaskedModel(tokenizers, width=24, depth=1, heads=2), 2)


# --- the loss and the score -----------------------------------------------------------------------


def labelled(maps: Tensor) -> Batch:
    data = torch.rand(len(maps), 1, 8, 12)
    ids = tuple(str(row) for row in range(len(maps)))
    return Batch(
        len(maps), ids, {"segmentation": list(maps)}, {"a": Part(data, torch.arange(len(maps)))}
    )


def test_cells_without_a_class_count_for_nothing() -> None:
    model = DenseClassifier(small(ImagePatches((8, 12), 4, channels=1)), 2).eval()
    objective = DenseClassification(model, "segmentation", 0.65)
    maps = torch.full((2, 8, 12), 255)
    maps[0, :2] = 1
    maps[1, 0, 0] = -1
    batch = labelled(maps)
    term = objective(model.model, batch, Step())["cells"]
    assert float(term.count) == 24 == float(objective.counts(model.model, batch)["cells"])
    with torch.no_grad():
        chances = model(batch).log_softmax(dim=1)
    torch.testing.assert_close(term.total.detach(), -chances[0, 1, :2].sum())


@pytest.mark.parametrize(
    ("found", "said"),
    [((8, 8), r"has the shape \(8, 8\), expected \(8, 12\)"), ((8, 12), "names class 7")],
)
def test_maps_that_do_not_fit_are_named(found: tuple[int, int], said: str) -> None:
    with pytest.raises(BadSample, match=said):
        maps_of(labelled(torch.full((1, *found), 7)), "segmentation", (8, 12), 2)


def test_overlap_by_hand() -> None:
    wanted = torch.tensor([[0, 0, 1, 1, 255]])
    named = torch.tensor([[0, 1, 1, 1, 0]])
    made = Overlap(("a",), confused(wanted, named, 3)[None])
    assert made.confusion[0].tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    np.testing.assert_allclose(made.iou, [1 / 2, 2 / 3, np.nan])
    assert made.mean_iou == pytest.approx(7 / 12)
    assert made.by_sample.tolist() == pytest.approx([7 / 12])
    assert made.accuracy == 0.75


# --- the outcome ----------------------------------------------------------------------------------


def test_a_dense_head_learns_and_can_leave_the_encoder_alone() -> None:
    model, data = small(ImagePatches((8, 12), 4, channels=1)), dotted()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    how = Segmenting("linear", frozen=True, lr=0.05)
    longer: dict[str, Any] = PLAIN | {"epochs": 25}
    made = segment(model, data, how, classes=2, **longer)
    after = made.classifier.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    found = overlap(made.classifier, data, batch_size=3)
    assert made.fit.losses[-1] < 0.5 * made.fit.losses[0]
    assert found.mean_iou > 0.6
    assert found.ids == tuple(data.columns["id"])


def test_micro_batches_change_nothing() -> None:
    runs = []
    for parts in (1, 2):
        how = Segmenting(drop_path=0.0, warmup=0.0)
        model = small(ImagePatches((8, 12), 4, channels=1))
        made = segment(model, dotted(), how, classes=2, accumulate=parts, **PLAIN)
        runs.append(made.fit.losses)
    assert runs[0] == pytest.approx(runs[1], abs=1e-4)


def test_made_textures_tell_nothing_by_their_means() -> None:
    table = textured_regions(60, 4)
    pixels, maps = (
        torch.stack([table[i]["image"][0] for i in range(60)]),
        [table[i]["segmentation"] for i in range(60)],
    )
    kinds = torch.stack([torch.as_tensor(m) for m in maps]).long()
    means = torch.stack([pixels[kinds == kind].mean() for kind in range(len(TEXTURES))])
    spreads = torch.stack([pixels[kinds == kind].std() for kind in range(len(TEXTURES))])
    assert (means - 0.5).abs().max() < 0.05
    assert spreads.max() / spreads.min() < 1.2
    again = textured_regions(60, 4)
    assert torch.equal(again[7]["image"], table[7]["image"])
