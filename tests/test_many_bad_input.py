"""What is wrong with samples of several modalities is said in one sentence, and training goes on
where it can."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from multimask import Masker, Uniform, fit
from multimask.masking import Fixed
from multimask.methods.multimae import multimae
from multimask.methods.recipe import Recipe
from multimask.modalities.image import ImagePatches
from multimask.modalities.label_maps import LabelMaps
from multimask.modality import Tokenizer, collate
from multimask.objectives import Reconstruction
from multimask.tokens import Sample

MAPS: dict[str, Tokenizer] = {"rgb": ImagePatches(8, 4), "seg": LabelMaps(3, 8, 4)}


def rows(**lacks: Sequence[str]) -> list[Sample]:
    """Eight samples s0 .. s7; `s3=("seg",)` lacks one."""
    draw = torch.Generator().manual_seed(0)
    made = []
    for number in range(8):
        whole = {
            "rgb": torch.rand(3, 8, 8, generator=draw),
            "seg": torch.randint(3, (8, 8), generator=draw),
        }
        gone = lacks.get(f"s{number}", ())
        made.append({"id": f"s{number}"} | {n: v for n, v in whole.items() if n not in gone})
    return made


def built(**arguments: Any) -> Recipe:
    torch.manual_seed(0)
    sizes = {"width": 12, "depth": 1, "heads": 2}
    decoder = {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}
    return multimae(MAPS, **sizes, **decoder, **arguments)


def trained(samples: Sequence[Sample], recipe: Recipe, **how: Any) -> Any:
    return fit(
        recipe.model, recipe.objective, samples, epochs=1, batch_size=4, progress=False, **how
    )


def test_a_row_without_any_modality_is_left_out_and_named() -> None:
    found = trained(rows(s3=("rgb", "seg")), built())
    assert [name for name, _ in found.skipped] == ["s3"]
    assert "has none of the model's modalities ['rgb', 'seg']" in found.skipped[0][1]


def test_a_modality_that_is_never_present_trains_nothing_and_can_still_be_asked_for() -> None:
    recipe, samples = built(), rows(**{f"s{n}": ("seg",) for n in range(8)})
    adapter: Any = recipe.model.adapter("seg")
    before = {n: w.clone() for n, w in adapter.named_parameters()}
    assert not trained(samples, recipe, weight_decay=0.0).skipped
    for name, weight in adapter.named_parameters():
        assert torch.equal(weight, before[name]), name
    batch = collate(samples[:2], MAPS)
    answer = recipe.model.reconstruct(batch, targets=["seg"]).restored["seg"].values
    assert answer.shape == (2, 4, 16)


def test_ids_that_occur_twice_are_refused() -> None:
    samples = rows()
    samples[2]["id"] = "s5"
    with pytest.raises(ValueError, match="the id 's5' occurs twice; ids must differ"):
        trained(samples, built())


def test_labels_outside_the_classes_leave_their_sample_out() -> None:
    samples = rows()
    samples[2]["seg"][0, 0] = 7
    found = trained(samples, built())
    assert [name for name, _ in found.skipped] == ["s2"]
    assert r"expected classes 0..2 or 255, found [7] in 1 pixels" in found.skipped[0][1]


@pytest.mark.parametrize("fixed", [False, True])
def test_a_budget_beyond_what_a_row_has_is_lowered_for_all_and_said(
    fixed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = built(visible=7)
    if fixed:
        masker = Masker(Uniform(), Fixed({"rgb": 2, "seg": 4}))
        recipe = Recipe(recipe.model, Reconstruction(masker), recipe.training)
    assert not trained(rows(s2=("seg",)), recipe).skipped
    asked = 6 if fixed else 7
    assert f"3 tokens stay visible instead of {asked}: 1 of 8 rows have only 4" in caplog.text
    assert "(first 's2', which lacks seg)" in caplog.text


def test_a_budget_beyond_all_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"visible=9 and decoded=8 must both lie in 1\.\.8"):
        trained(rows(), built(visible=9))
