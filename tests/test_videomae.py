"""VideoMAE and VideoMAE V2: published counts, closed forms, and parity with transformers."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from multimask.checkpoints import load
from multimask.checkpoints.layouts import hf_videomae
from multimask.checkpoints.layouts import videomae as official
from multimask.masking import Context, Masker, Ratio, RunningCell, Tube
from multimask.methods.videomae import videomae
from multimask.methods.videomae_v2 import DualRatio, videomae_v2
from multimask.modalities.video import IMAGENET_MEAN, IMAGENET_STD, Tubelets
from multimask.model import MaskedModel
from multimask.tokens import Batch, Masking, Part, Step, slots_of

FRAMES, SIZE, PATCH, SAMPLES = 8, 32, 8, 2
BOX = (2, PATCH, PATCH)
SMALL: dict[str, Any] = {
    "width": 48,
    "depth": 2,
    "heads": 4,
    "decoder_width": 24,
    "decoder_depth": 2,
    "decoder_heads": 2,
}


def tubelets() -> Tubelets:
    return Tubelets(FRAMES, SIZE, PATCH)


def batch(masking: Masking | None = None, seed: int = 0) -> Batch:
    clips = torch.rand(
        SAMPLES, FRAMES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)
    )
    part = Part(clips, torch.arange(SAMPLES))
    return Batch(SAMPLES, ("a", "b"), {}, {"video": part}, masking)


def paper_masking(masker: Masker, samples: int = 3) -> Masking:
    """A masking of the paper's lattice, 8 x 14 x 14."""
    grid = (8, 14, 14)
    exists = torch.ones(samples, 1568, dtype=torch.bool)
    context = Context(slots_of({"video": 1568}), {"video": grid}, complete=True)
    return masker(exists, Step().generators(map(str, range(samples)), "masking"), context)


# --- counts ---------------------------------------------------------------------------------------


def test_tubes_hide_176_of_196_places_in_every_slice() -> None:
    masking = paper_masking(Masker(Tube(), Ratio(0.9, "hidden")))
    hidden = rearrange(~masking.visible, "b (t p) -> b t p", t=8)
    assert (hidden.sum(dim=2) == 176).all()
    assert torch.equal(hidden, hidden[:, :1].expand_as(hidden))
    assert masking.ids.shape == (3, 160)
    assert masking.decoded_ids.shape == (3, 1408)


def test_tubes_are_spread_evenly_over_places() -> None:
    hidden = ~paper_masking(Masker(Tube(), Ratio(0.9, "hidden")), samples=600).visible
    share = hidden[:, :196].float().mean(dim=0)
    assert (share - 176 / 196).abs().max() < 0.07  # five standard deviations


def test_dual_masking_sees_160_decodes_784_and_scores_704() -> None:
    recipe = videomae_v2({"video": Tubelets()}, arch="tiny", depth=1, decoder_depth=1)
    masking = paper_masking(recipe.objective.masker)
    assert masking.ids.shape == (3, 160)
    assert masking.decoded_ids.shape == (3, 784)
    assert masking.target.sum(dim=1).tolist() == [704] * 3


def test_the_running_cell_keeps_every_place_in_half_of_the_slices() -> None:
    masking = paper_masking(Masker(Tube(), DualRatio(), decoded=RunningCell()), samples=64)
    dropped = rearrange(~masking.decoded, "b (t p) -> b t p", t=8)
    assert (dropped.sum(dim=1) == 4).all()
    assert len({tuple(pattern.flatten().tolist()) for pattern in dropped}) == 4


def test_the_running_cell_is_the_published_queue() -> None:
    masking = paper_masking(Masker(Tube(), DualRatio(), decoded=RunningCell()), samples=8)
    published = [published_running_cell(start) for start in range(4)]
    for decoded in masking.decoded:
        assert any(torch.equal(~decoded, pattern) for pattern in published)


def published_running_cell(start: int, ratio: float = 0.5) -> Tensor:
    """The paper's code: True where a token of 8 x 14 x 14 is not decoded."""
    ones = int(4 * ratio)
    queue = [True] * ones + [False] * (4 - ones)
    slices = []
    for time in range(8):
        cell = torch.tensor([queue[(k + start + time + 1) % 4] for k in range(4)])
        slices.append(cell.view(2, 2).repeat(7, 7).flatten())
    return torch.cat(slices)


# --- closed forms and invariances -----------------------------------------------------------------


def test_answers_of_zero_lose_511_of_512() -> None:
    recipe = videomae({"video": Tubelets(4, 32, 16)}, arch="tiny", depth=1, decoder_depth=1)
    for part in cast(nn.Linear, recipe.model.adapters["video"].pred).parameters():
        nn.init.zeros_(part)
    clips = torch.rand(2, 4, 3, 32, 32)
    given = Batch(2, ("a", "b"), {}, {"video": Part(clips, torch.arange(2))})
    loss = recipe.objective(recipe.model, given, Step())["video"].value()
    assert loss.item() == pytest.approx(511 / 512, abs=2e-5)


def test_hidden_pixels_do_not_reach_the_answers() -> None:
    model = videomae({"video": tubelets()}, **SMALL).model.eval()
    masking = small_masking(Masker(Tube(), Ratio(0.75, "hidden")))
    seen = rearrange(masking.visible, "b (t y x) -> b t y x", t=4, y=4, x=4)
    for axis, side in zip((1, 2, 3), BOX, strict=True):
        seen = seen.repeat_interleave(side, axis)
    first = batch(masking)
    other = torch.where(seen[:, :, None], first.parts["video"].data, 0.25)
    second = replace(first, parts={"video": Part(other, torch.arange(SAMPLES))})
    assert torch.equal(answers(model, first, masking), answers(model, second, masking))


def test_without_a_decoder_ratio_v2_is_videomae() -> None:
    torch.manual_seed(0)
    first = videomae({"video": tubelets()}, ratio=0.75, **SMALL)
    torch.manual_seed(0)
    second = videomae_v2({"video": tubelets()}, ratio=0.75, decoder_ratio=0.0, **SMALL)
    losses = [r.objective(r.model, batch(), Step())["video"].value() for r in (first, second)]
    for loss in losses:
        loss.backward()
    assert torch.equal(*losses)
    for (name, one), two in zip(
        first.model.named_parameters(), second.model.parameters(), strict=True
    ):
        assert torch.equal(cast(Tensor, one.grad), cast(Tensor, two.grad)), name


def test_decoded_tokens_that_were_seen_get_no_gradient() -> None:
    recipe = videomae_v2({"video": tubelets()}, ratio=0.75, **SMALL)
    model, kept = recipe.model, []
    predict = model.adapter("video").predict

    def watched(features: Tensor) -> Tensor:
        kept.append(predict(features))
        kept[-1].retain_grad()
        return kept[-1]

    model.adapters["video"].predict = watched  # type: ignore[assignment]
    masking = small_masking(recipe.objective.masker)
    recipe.objective(model, batch(masking), Step())["video"].total.backward()
    touched = (kept[0].grad != 0).any(dim=1)
    assert torch.equal(touched, masking.asked.flatten())
    assert 0 < masking.asked.sum() < masking.asked.numel()


def test_decoding_in_lattice_order_is_the_same() -> None:
    model = videomae({"video": tubelets()}, **SMALL).model.eval()
    masking = small_masking(Masker(Tube(), Ratio(0.75, "hidden")))
    everywhere = torch.arange(64).expand(SAMPLES, -1)
    order = masking.decoded_ids.argsort(dim=1)
    ordered = Masking(masking.ids, masking.decoded_ids.gather(1, order), masking.exists)
    first, second = (answers(model, batch(), m) for m in (masking, ordered))
    moved = first.view(SAMPLES, -1, 384).gather(1, order[..., None].expand(-1, -1, 384))
    torch.testing.assert_close(moved.flatten(0, 1), second, rtol=0, atol=1e-5)
    assert everywhere.shape == masking.exists.shape


def small_masking(masker: Masker) -> Masking:
    exists = torch.ones(SAMPLES, 64, dtype=torch.bool)
    context = Context(slots_of({"video": 64}), {"video": (4, 4, 4)}, complete=True)
    return masker(exists, Step().generators(("a", "b"), "masking"), context)


def answers(model: MaskedModel, given: Batch, masking: Masking) -> Tensor:
    tokens = model.tokenize(given)
    masking = model.picked(tokens, masking)
    features = model.decode(tokens, model.encode_visible(tokens, masking), masking)
    return model.predict(tokens, features, masking)["video"][0]


def test_a_saved_model_comes_back(tmp_path) -> None:
    recipe = videomae_v2({"video": tubelets()}, **SMALL)
    recipe.model.save(tmp_path)
    again = load(tmp_path)
    masking = small_masking(recipe.objective.masker)
    given = batch()
    assert torch.equal(answers(recipe.model.eval(), given, masking), answers(again, given, masking))


# --- parity with transformers ---------------------------------------------------------------------


class Pair:
    """Our VideoMAE and theirs, with the same weights, after a backward pass on the same clips."""

    def __init__(self) -> None:
        transformers = pytest.importorskip("transformers")
        torch.manual_seed(0)
        recipe = videomae({"video": tubelets()}, ratio=0.75, **SMALL)
        self.model = recipe.model
        config = transformers.VideoMAEConfig(
            image_size=SIZE,
            patch_size=PATCH,
            num_frames=FRAMES,
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=192,
            decoder_hidden_size=24,
            decoder_num_hidden_layers=2,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=96,
            layer_norm_eps=1e-6,
            use_mean_pooling=False,
        )
        self.theirs = transformers.VideoMAEForPreTraining(config)
        self.theirs.decoder.norm.eps = 1e-6  # fixed at 1e-5 in theirs, 1e-6 in the official code
        randomise(self.model)
        state = cast(dict[str, Tensor], self.model.state_dict())
        self.theirs.load_state_dict(hf_videomae.to_theirs(state, BOX, in_memory=True))
        masking = small_masking(recipe.objective.masker)
        ids = masking.decoded_ids.sort(dim=1).values  # theirs answers in lattice order
        self.masking = Masking(masking.ids, ids, masking.exists)
        self.batch = batch(self.masking)
        clips = self.batch.parts["video"].data
        mean, std = (torch.tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
        hidden = ~self.masking.visible
        self.answer = self.theirs((clips - mean) / std, bool_masked_pos=hidden)
        self.loss = recipe.objective(self.model, self.batch, Step())["video"].value()
        self.loss.backward()
        self.answer.loss.backward()

    def gradients(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        ours = {name: cast(Tensor, p.grad) for name, p in self.model.named_parameters()}
        renamed = hf_videomae.to_theirs(ours, BOX, in_memory=True)
        for name, parameter in self.theirs.named_parameters():
            yield name, renamed[name], cast(Tensor, parameter.grad)


def randomise(model: MaskedModel) -> None:
    """Move every weight, so that no bias or norm is left where it starts, but keys' biases."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
            if name.endswith("qkv.bias"):
                parameter.chunk(3)[1].zero_()


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair()


def test_the_loss_is_theirs(pair: Pair) -> None:
    torch.testing.assert_close(pair.loss, pair.answer.loss, rtol=0, atol=1e-5)


def test_the_answers_are_theirs(pair: Pair) -> None:
    ours = answers(pair.model, pair.batch, pair.masking)
    torch.testing.assert_close(ours, pair.answer.logits.flatten(0, 1), rtol=0, atol=1e-5)


def test_every_gradient_is_theirs(pair: Pair) -> None:
    compared = list(pair.gradients())
    assert len(compared) == 70
    for name, ours, theirs in compared:
        close = torch.allclose(ours, theirs, rtol=1e-4, atol=2e-6)
        assert close, f"{name}: differs by {(ours - theirs).abs().max():.2e}"


def test_their_file_becomes_ours_and_back_without_loss(pair: Pair, tmp_path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    pair.theirs.save_pretrained(tmp_path)
    theirs = safetensors.load_file(tmp_path / "model.safetensors")
    assert hf_videomae.matches(theirs)
    fresh = videomae({"video": tubelets()}, **SMALL).model
    fresh.load_state_dict(hf_videomae.to_ours(theirs))
    for name, value in pair.model.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name
    back = hf_videomae.to_theirs(cast(dict[str, Tensor], fresh.state_dict()), BOX)
    assert sorted(back) == sorted(theirs)
    assert all(torch.equal(back[key], theirs[key]) for key in theirs)


# --- the official layout --------------------------------------------------------------------------


def official_keys(depth: int, decoder_depth: int) -> list[str]:
    """The keys of a pre-training file, written out from the published model code."""
    keys = ["mask_token", "encoder.patch_embed.proj.weight", "encoder.patch_embed.proj.bias"]
    for end, count in (("encoder", depth), ("decoder", decoder_depth)):
        for i in range(count):
            keys += [
                f"{end}.blocks.{i}.{part}"
                for part in [
                    "norm1.weight",
                    "norm1.bias",
                    "attn.q_bias",
                    "attn.v_bias",
                    "attn.qkv.weight",
                    "attn.proj.weight",
                    "attn.proj.bias",
                    "norm2.weight",
                    "norm2.bias",
                    "mlp.fc1.weight",
                    "mlp.fc1.bias",
                    "mlp.fc2.weight",
                    "mlp.fc2.bias",
                ]
            ]
        keys += [f"{end}.norm.weight", f"{end}.norm.bias"]
    return [*keys, "encoder_to_decoder.weight", "decoder.head.weight", "decoder.head.bias"]


def test_the_official_key_list_is_exact() -> None:
    model = videomae({"video": tubelets()}, **SMALL).model
    theirs = official.to_theirs(cast(dict[str, Tensor], model.state_dict()), BOX)
    assert sorted(theirs) == sorted(official_keys(2, 2))
    assert theirs["encoder.patch_embed.proj.weight"].shape == (48, 3, *BOX)
    assert theirs["mask_token"].shape == (1, 1, 24)
    assert official.matches(theirs)
    assert not official.matches(list(theirs)[1:])


def test_the_official_round_trip_loses_nothing() -> None:
    model = videomae({"video": tubelets()}, **SMALL).model
    randomise(model)
    state = cast(dict[str, Tensor], model.state_dict())
    again = official.to_ours(official.to_theirs(state, BOX))
    assert sorted(again) == sorted(state)
    assert all(torch.equal(again[key], state[key]) for key in state)


def test_a_foreign_file_is_named_by_its_first_keys() -> None:
    model = videomae({"video": tubelets()}, **SMALL).model
    theirs = official.to_theirs(cast(dict[str, Tensor], model.state_dict()), BOX)
    lacking = {key: value for key, value in theirs.items() if key != "decoder.norm.bias"}
    with pytest.raises(ValueError, match=r"1 keys are missing \(first decoder.norm.bias\)"):
        official.to_ours(lacking)
    with pytest.raises(ValueError, match=r"1 are not theirs \(first head.weight\)"):
        official.to_ours(theirs | {"head.weight": torch.zeros(1)})
    several = videomae({"video": tubelets(), "depth": tubelets()}, **SMALL).model
    with pytest.raises(ValueError, match="the one modality 'video'"):
        official.to_theirs(cast(dict[str, Tensor], several.state_dict()), BOX)


# --- what dual masking saves ----------------------------------------------------------------------


def test_dual_masking_decodes_944_tokens_at_less_than_three_fifths_of_the_cost() -> None:
    kinds = {"video": Tubelets()}
    plain, dual = (make(kinds, arch="small", depth=1) for make in (videomae, videomae_v2))
    seen: list[int] = []
    decoder = cast(nn.Module, dual.model.decoder)
    decoder.blocks[0].register_forward_pre_hook(  # type: ignore[union-attr, index]
        lambda module, given: seen.append(given[0].shape[1])
    )
    costs = [
        recipe.model.describe(recipe.objective.masker).flops["decoder"] for recipe in (plain, dual)
    ]
    assert seen == [944]
    assert costs[1] < 0.6 * costs[0]
