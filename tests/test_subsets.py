"""PHG-MAE, ensembles over subsets and their students: nothing that is not read leaks."""

from typing import Any, cast

import pytest
import torch
from torch import nn

from multimask.ensembles import Distillation, ensemble, subsets_of
from multimask.masking import Natural
from multimask.methods.phg_mae import phg_mae
from multimask.methods.recipe import Recipe
from multimask.modalities.depth_maps import DepthMaps
from multimask.modalities.image import ImagePatches
from multimask.modalities.label_maps import LabelMaps
from multimask.modality import collate
from multimask.tokens import Batch, Sample, Step

TARGET = "semantic"
SOURCES = ("depth", "edges", "rgb")


def built(**how: Any) -> Recipe:
    torch.manual_seed(0)
    tokenizers: Any = {
        "rgb": ImagePatches(8, 4),
        "edges": ImagePatches(8, 4, channels=1),
        "depth": DepthMaps(8, 4),
        "semantic": LabelMaps(3, 8, 4),
    }
    sizes: Any = {"width": 24, "depth": 2, "heads": 2, "decoder_width": 16, "decoder_heads": 2}
    recipe = phg_mae(tokenizers, targets=(TARGET,), **sizes, **how)
    for parameter in recipe.model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return recipe


def sample(seed: int, *without: str) -> Sample:
    torch.manual_seed(seed)
    made = {
        "rgb": torch.rand(3, 8, 8),
        "edges": torch.rand(1, 8, 8),
        "depth": torch.rand(8, 8) + 1,
        "semantic": torch.randint(0, 3, (8, 8)),
    }
    return {"id": str(seed), **{n: value for n, value in made.items() if n not in without}}


def put(recipe: Recipe, *samples: Sample) -> Batch:
    return collate(samples, recipe.model.tokenizers)


def test_what_is_hidden_is_whole_and_neither_it_nor_the_target_leaks() -> None:
    recipe = built(always=("rgb",))
    model, batch = recipe.model, put(recipe, *(sample(seed) for seed in range(12)))
    tokens = model.tokenize(batch)
    masking = model.picked(tokens, recipe.objective.masking(model, tokens, batch, Step()))
    before = model.decode(tokens, model.encode_visible(tokens, masking), masking)
    shown = {n: masking.visible[:, w.start : w.stop] for n, w in tokens.slots.items()}
    assert shown["rgb"].all()
    assert not shown[TARGET].any()
    for name in SOURCES:
        assert torch.equal(shown[name].any(dim=1), shown[name].all(dim=1))
    assert shown["depth"].any()
    assert not shown["depth"].all()
    for name, visible in shown.items():
        values = tokens.modalities[name].values
        other = torch.randn(values.shape) if values.is_floating_point() else 2 - values
        values[~visible] = other[~visible]
    after = model.decode(tokens, model.encode_visible(tokens, masking), masking)
    assert torch.equal(after, before)
    assert isinstance(recipe.objective.masker.budget, Natural)


def test_a_subset_padded_beside_larger_ones_is_answered_as_alone() -> None:
    recipe = built()
    model = recipe.model
    together = recipe.objective(model, put(recipe, *(sample(s) for s in range(6))), Step())
    alone = [recipe.objective(model, put(recipe, sample(s)), Step())[TARGET] for s in range(6)]
    total = sum(term.total.item() for term in alone)
    assert together[TARGET].total.item() == pytest.approx(total, rel=1e-5)
    assert together[TARGET].count == 6


def test_labels_that_nobody_has_cost_nothing() -> None:
    recipe = built()
    terms = recipe.objective(
        recipe.model, put(recipe, sample(1, TARGET), sample(2, TARGET)), Step()
    )
    assert terms[TARGET].value() == 0
    unknown = sample(3)
    unknown[TARGET] = torch.full((8, 8), 255)
    terms = recipe.objective(recipe.model, put(recipe, unknown), Step())
    assert terms[TARGET].value() == 0
    torch.stack([term.value() for term in terms.values()]).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in recipe.model.parameters())


def test_an_ensemble_of_one_is_that_one_and_copies_change_nothing() -> None:
    recipe = built()
    batch = put(recipe, sample(1), sample(2, TARGET))
    one = ensemble(recipe.model, batch, TARGET, [("rgb", "depth")])
    many = ensemble(recipe.model, batch, TARGET, [("rgb", "depth")] * 3)
    assert one.answer.shape == (2, 4, 16, 3)
    torch.testing.assert_close(many.answer, one.answer, rtol=0, atol=1e-6)
    assert one.spread.max() == 0
    total = one.answer.sum(dim=-1)
    torch.testing.assert_close(total, torch.ones_like(total))
    single = recipe.model.reconstruct(batch, targets=[TARGET]).restored[TARGET].values
    whole = ensemble(recipe.model, batch, TARGET, [SOURCES]).answer.argmax(dim=-1)
    assert torch.equal(single.long(), whole)


def test_the_mean_of_members_is_never_worse_than_their_mean_loss() -> None:
    """Jensen: the log-loss of the mean probability is at most the mean log-loss."""
    recipe = built()
    batch = put(recipe, *(sample(seed) for seed in range(5)))
    truth = recipe.model.tokenize(batch).modalities[TARGET].values[..., None]
    subsets = subsets_of(SOURCES)
    assert len(subsets) == 7
    members = [ensemble(recipe.model, batch, TARGET, [s]).answer.gather(3, truth) for s in subsets]
    mean = ensemble(recipe.model, batch, TARGET, subsets)
    assert mean.spread.max() > 1e-3
    losses = torch.stack([-member.log().mean() for member in members])
    assert -mean.answer.gather(3, truth).log().mean() < losses.mean()


def test_an_ensemble_never_reads_what_it_answers() -> None:
    recipe = built()
    with_it = ensemble(recipe.model, put(recipe, sample(1)), TARGET, [("rgb", TARGET)])
    without = ensemble(recipe.model, put(recipe, sample(1, TARGET)), TARGET, [("rgb",)])
    assert torch.equal(with_it.answer, without.answer)
    values = ensemble(recipe.model, put(recipe, sample(1)), "edges", [("rgb",), ("depth",)])
    assert values.answer.shape == (1, 4, 16)
    with pytest.raises(ValueError, match="has none of the modalities depth"):
        ensemble(recipe.model, put(recipe, sample(1, "depth")), TARGET, [("depth",)])


def test_a_student_of_the_colours_alone_comes_nearer_to_its_teacher() -> None:
    teacher, student = built().model, built().model
    for parameter in student.parameters():
        nn.init.normal_(parameter, std=0.05)
    recipe = built()
    batch = put(recipe, *(sample(seed, TARGET) for seed in range(2)))
    subsets = [("depth", "rgb"), ("rgb",)]
    objective = Distillation(teacher, TARGET, ("rgb",), subsets)
    assert not list(objective.parameters())
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    losses = []
    for _ in range(4):
        loss = objective(student, batch, Step())[TARGET].value()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    wanted = ensemble(teacher, batch, TARGET, subsets).answer
    floor = -(wanted * wanted.log()).sum(dim=-1).mean().item()
    assert losses[-1] >= floor - 1e-5
    assert all(p.grad is None for p in cast(Any, teacher).parameters())
