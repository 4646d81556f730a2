"""MultiMAE: equal to a plain restatement, its closed forms, its weights' layout both ways."""

import math
import runpy
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from multimask import load
from multimask.checkpoints.layouts import multimae as layout
from multimask.methods.bm_mae import bm_mae
from multimask.methods.multimae import multimae
from multimask.methods.recipe import Recipe
from multimask.modalities.depth_maps import DepthMaps
from multimask.modalities.image import ImagePatches
from multimask.modalities.label_maps import LabelMaps
from multimask.modalities.volume import VolumePatches
from multimask.modality import collate
from multimask.tokens import Batch, Sample, Step

ROOT = Path(__file__).parents[1]
PLAIN = runpy.run_path(str(ROOT / "experiments" / "benchmarks" / "multimae_plain.py"))
INPUTS = {"depth": 1, "rgb": 3, "semseg": -5}


def built(
    size: int = 32, patch: int = 8, classes: int = 5, stride: int = 4, **sizes: Any
) -> Recipe:
    torch.manual_seed(0)
    tokenizers: Any = {
        "rgb": ImagePatches(size, patch),
        "depth": DepthMaps(size, patch),
        "semseg": LabelMaps(classes, size, patch, stride),
    }
    small: Any = {"width": 24, "depth": 2, "heads": 2, "decoder_width": 16, "decoder_heads": 2}
    return multimae(tokenizers, **(sizes or small))


def sample(seed: int, *names: str, size: int = 32) -> Sample:
    torch.manual_seed(seed)
    labels = torch.randint(0, 5, (size // 4, size // 4))
    made = {
        "rgb": torch.rand(3, size, size),
        "depth": torch.rand(size, size) + 1,
        "semseg": labels.repeat_interleave(4, 0).repeat_interleave(4, 1),
    }
    return {"id": str(seed), **{name: made[name] for name in names or made}}


def put(recipe: Recipe, *samples: Sample) -> Batch:
    return collate(samples, recipe.model.tokenizers)


def shaken(recipe: Recipe) -> Recipe:
    for part in (recipe.model, recipe.objective):
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=0.1)
    return recipe


def states(recipe: Recipe) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return dict(recipe.model.state_dict()), dict(recipe.objective.state_dict())


def test_losses_and_gradients_are_those_of_the_plain_restatement() -> None:
    recipe = shaken(built())
    theirs = PLAIN["PlainMultiMAE"](INPUTS, 32, 8, 4, (24, 2, 2), (16, 2, 2), ("rgb",))
    theirs.load_state_dict(layout.to_theirs(*states(recipe), patch=(8, 8)))
    model, batch = recipe.model, put(recipe, sample(1), sample(2), sample(3))
    tokens = model.tokenize(batch)
    masking = recipe.objective.masking(model, tokens, batch, Step(4))
    assert (masking.visible.sum(dim=1) == 8).all()  # a sixth of 48
    maps = {
        "rgb": (batch.parts["rgb"].data - 0.5) / 0.5,
        "depth": cast(DepthMaps, model.tokenizers["depth"]).standardised(batch.parts["depth"].data),
        "semseg": batch.parts["semseg"].data[:, 2::4, 2::4],
    }
    maps["depth"] = maps["depth"][:, None]
    wanted = theirs(maps, masking.visible)
    found = {name: term.value() for name, term in recipe.objective(model, batch, Step(4)).items()}
    assert set(found) == set(wanted) == {"depth", "norm_rgb", "rgb", "semseg"}
    for name, value in wanted.items():
        assert found[name].item() == pytest.approx(value.item(), abs=1e-5), name
    torch.stack(list(found.values())).sum().backward()
    torch.stack(list(wanted.values())).sum().backward()
    mine = {k: p.grad for part in (model, recipe.objective) for k, p in part.named_parameters()}
    both = [{k: mine[k] for k in s if mine.get(k) is not None} for s in states(recipe)]
    grads = {k: p.grad for k, p in theirs.named_parameters() if p.grad is not None}
    for key in ("encoder.blocks.0.attn.qkv.weight", "encoder.globals"):
        other = grads[
            key.replace("encoder.blocks", "encoder").replace("encoder.globals", "global_tokens")
        ]
        torch.testing.assert_close(both[0][key], other.view_as(both[0][key]), rtol=1e-4, atol=1e-5)


def test_a_zero_answer_costs_767_of_768() -> None:
    recipe = built(size=32, patch=16)
    extra = cast(Any, recipe.objective).outputs["norm_rgb"]
    nn.init.zeros_(extra.pred.weight)
    terms = recipe.objective(recipe.model, put(recipe, sample(1), sample(2)), Step())
    assert terms["norm_rgb"].value().item() == pytest.approx(767 / 768, abs=2e-5)


def test_noise_in_hidden_tokens_changes_no_loss_of_others() -> None:
    """Answers are the same bits, so is the loss of every modality that was left alone."""
    recipe = shaken(built())
    model, batch = recipe.model, put(recipe, sample(1), sample(2))
    tokens = model.tokenize(batch)
    masking = model.picked(tokens, recipe.objective.masking(model, tokens, batch, Step()))
    before = model.decode(tokens, model.encode_visible(tokens, masking), masking)
    for name, where in tokens.slots.items():
        values = tokens.modalities[name].values
        hidden = ~masking.visible[:, where.start : where.stop]
        noise = torch.randn(values.shape) if values.is_floating_point() else 4 - values
        values[hidden] = noise[hidden]
    after = model.decode(tokens, model.encode_visible(tokens, masking), masking)
    assert torch.equal(after, before)


def test_a_sample_without_hidden_tokens_of_a_modality_drops_out_of_its_mean() -> None:
    recipe = shaken(built())
    model, objective = recipe.model, cast(Any, recipe.objective)
    batch = put(recipe, sample(1), sample(2), sample(3))
    tokens = model.tokenize(batch)
    masking = objective.masking(model, tokens, batch, Step())
    # sample 0 shows all of depth: slots 0..15
    from multimask.tokens import Masking

    k = 16
    ids = torch.stack([torch.arange(k), *(torch.arange(k) + 20 for _ in range(2))])
    shown = Masking(ids, masking.decoded_ids, masking.exists)
    from dataclasses import replace

    term = objective(model, replace(batch, masking=shown), Step())["depth"]
    others = replace(
        put(recipe, sample(2), sample(3)),
        masking=Masking(ids[1:], masking.decoded_ids[1:], masking.exists[1:]),
    )
    assert term.count == 2
    assert term.value().item() == pytest.approx(
        objective(model, others, Step())["depth"].value().item(), abs=1e-5
    )
    term.value().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_modality_that_nobody_has_costs_nothing() -> None:
    recipe = shaken(built())
    terms = recipe.objective(recipe.model, put(recipe, sample(1, "rgb"), sample(2, "rgb")), Step())
    assert terms["depth"].value() == 0
    torch.stack([term.value() for term in terms.values()]).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in recipe.model.parameters())


def test_the_papers_numbers_are_the_defaults() -> None:
    with torch.device("meta"):
        recipe = built(224, 16, 133, 4, arch="base")
    counts = {n: len(w) for n, w in recipe.model.slots.items()}
    assert counts == {"depth": 196, "rgb": 196, "semseg": 196}
    assert recipe.objective.masker.budget(588) == (98, 588)
    values = sum(p.numel() for part in (recipe.model, recipe.objective) for p in part.parameters())
    # one decoder table a modality is ours, one an output theirs; neither is trained
    tables = 3 * 768 * 196 + 4 * 256 * 196
    assert (values + tables) / 1e6 == pytest.approx(98.6, abs=0.1)
    assert recipe.training == {
        "lr": 1e-4, "lr_per": 256, "betas": (0.9, 0.95), "weight_decay": 0.05, "warmup": 0.025,
    }  # fmt: skip


def test_query_key_and_value_weights_start_as_matrices_of_their_own() -> None:
    weight = cast(Any, built().model.encoder).blocks[0].attn.qkv.weight
    bound = math.sqrt(6 / (24 + 24))
    assert weight.abs().max() <= bound
    assert weight.abs().max() > 0.95 * bound


# --- weights --------------------------------------------------------------------------------------


def test_weights_go_over_and_come_back_unchanged() -> None:
    recipe = shaken(built())
    model, objective = states(recipe)
    theirs = layout.to_theirs(model, objective, patch=(8, 8))
    assert layout.matches(theirs)
    again_model, again_objective = layout.to_ours(theirs)
    assert set(again_model) == set(model)
    assert set(again_objective) == set(objective)
    for mine, back in ((model, again_model), (objective, again_objective)):
        for key, value in mine.items():
            assert torch.equal(value, back[key]), key
    with pytest.raises(ValueError, match="not the keys"):
        layout.to_ours({"global_tokens": torch.zeros(1, 1, 4)})


@pytest.mark.slow
def test_the_official_file_has_351_tensors_of_98_million_values() -> None:
    recipe = built(224, 16, 133, 4, arch="base")
    theirs = layout.to_theirs(*states(recipe))
    assert len(theirs) == 351
    assert sum(v.numel() for v in theirs.values()) / 1e6 == pytest.approx(98.6, abs=0.1)
    plain = PLAIN["PlainMultiMAE"](
        {"depth": 1, "rgb": 3, "semseg": -133}, 224, 16, 4, (768, 12, 12), (256, 2, 8), ("rgb",)
    )
    assert {k: v.shape for k, v in plain.state_dict().items()} == {
        k: v.shape for k, v in theirs.items()
    }
    model, objective = layout.to_ours(theirs)
    for mine, back in zip(states(recipe), (model, objective), strict=True):
        assert all(torch.equal(value, back[key]) for key, value in mine.items())


def test_timm_weights_become_an_encoder_and_go_back() -> None:
    recipe = shaken(built())
    theirs = layout.to_theirs(*states(recipe), patch=(8, 8))
    timm = layout.to_timm(theirs)
    assert timm["pos_embed"].shape == (1, 17, 24)
    assert {key.split(".")[0] for key in timm} == {
        "cls_token",
        "pos_embed",
        "patch_embed",
        "blocks",
    }
    back = layout.from_timm(timm)
    for key, value in back.items():
        assert torch.equal(value, theirs[key]), key
    moved = dict(timm, pos_embed=timm["pos_embed"] + 1, cls_token=timm["cls_token"] - 1)
    again = layout.from_timm(moved)
    torch.testing.assert_close(again["global_tokens"], theirs["global_tokens"])


def test_a_file_of_theirs_is_found_and_loaded(tmp_path: Path) -> None:
    recipe = shaken(built())
    theirs = layout.to_theirs(*states(recipe), patch=(8, 8))
    torch.save({"model": theirs}, tmp_path / "multimae.pth")
    told: list[str] = []
    model = load(tmp_path / "multimae.pth", tell=told.append, heads=2, decoder_heads=2)
    assert "norm_rgb" in told[0]
    for key, value in recipe.model.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    model.export(tmp_path / "again.safetensors", layout="multimae")
    again = load(tmp_path / "again.safetensors", tell=None, heads=2, decoder_heads=2)
    batch = put(recipe, sample(1))
    wanted = recipe.model.eval().encode(put(recipe, sample(1, "depth", "semseg")))
    assert torch.equal(again.encode(batch, modalities=["depth", "semseg"]).tokens, wanted.tokens)


def test_a_bm_mae_file_is_found_and_loaded(tmp_path: Path) -> None:
    names = ("t1", "t1ce", "t2", "flair")
    sizes: Any = {"width": 48, "depth": 1, "heads": 2, "mlp": 24, "decoder_width": 24}
    sizes |= {"decoder_depth": 1, "decoder_heads": 2, "decoder_mlp": 24}
    model = bm_mae({name: VolumePatches(8, 4) for name in names}, **sizes).model.eval()
    for name in names[1:]:
        head = cast(Any, model.adapters[name]).pred
        head.load_state_dict(cast(Any, model.adapters["t1"]).pred.state_dict())
    model.export(tmp_path / "bmmae.pth", layout="bm-mae")
    again = load(tmp_path / "bmmae.pth", tell=None, heads=2, decoder_heads=2)
    batch = collate([{"id": "x", "t1": torch.randn(1, 8, 8, 8)}], model.tokenizers)
    assert torch.equal(again.encode(batch).tokens, model.encode(batch).tokens)
