"""Decoders of one output each: as published where all is decoded, bounded and unbothered else."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from multimask.masking import Count, Dirichlet, Masker, Uniform
from multimask.modalities.image import ImagePatches
from multimask.modality import Tokenizer, collate
from multimask.model import MaskedModel
from multimask.nn.adapters import LinearAdapter, Target
from multimask.nn.encoders import Encoder
from multimask.nn.task_decoders import TaskDecoder, TaskDecoders
from multimask.objectives import Reconstruction
from multimask.objectives.outputs import ExtraOutput
from multimask.tokens import Sample, Step

MAPS: dict[str, Tokenizer] = {
    "edges": ImagePatches((8, 12), 4, channels=1),
    "heat": ImagePatches(8, 4, channels=2),
    "rgb": ImagePatches((8, 12), 4),
}  # 6, 4 and 6 tokens
NAMES = tuple(MAPS)


def build(**decoder: Any) -> MaskedModel:
    torch.manual_seed(0)
    adapters = {n: LinearAdapter(t, 24, 16, decoder_named=False) for n, t in MAPS.items()}
    model = MaskedModel(
        MAPS,
        Encoder(24, 2, 2, globals_at="last", final_norm=False),
        TaskDecoders(24, NAMES, 16, 2, 2, **decoder),
        adapters,
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


def sample(name: str, *modalities: str) -> Sample:
    torch.manual_seed(sum(map(ord, name)))
    made = {"edges": torch.rand(1, 8, 12), "heat": torch.rand(2, 8, 8), "rgb": torch.rand(3, 8, 12)}
    return {"id": name, **{key: made[key] for key in modalities or NAMES}}


def answers(model: MaskedModel, samples: list[Sample], masker: Masker) -> Any:
    batch = collate(samples, MAPS)
    tokens = model.tokenize(batch)
    generators = Step(1).generators(batch.sample_ids, "masking")
    masking = model.picked(tokens, masker(tokens.exists, generators, model.context(tokens)))
    latents = model.encode_visible(tokens, masking)
    return tokens, masking, latents, model.decode(tokens, latents, masking)


def plain(
    task: TaskDecoder, model: MaskedModel, name: str, tokens: Any, masking: Any, latents: Any
):
    """The published decoder, row by row: rebuild the whole sequence, cut queries and context."""
    made = []
    for row in range(tokens.size):
        whole = task.mask_token.expand(tokens.num_slots, -1).clone()
        whole[masking.ids[row]] = task.embed(latents.tokens[row])
        for each, where in tokens.slots.items():
            place = cast(Any, model.adapters[each]).decoder_position
            slots = torch.arange(len(where))
            here = place(torch.zeros(len(where), 2), slots, tokens.modalities[each].grid)
            whole[where.start : where.stop] += here + task.tasks[each]
        where = tokens.slots[name]
        query = whole[where.start : where.stop][None]
        context = torch.cat((whole[masking.ids[row]], task.embed(latents.globals[row])))[None]
        x = task.xattn(task.query_norm(query), task.context_norm(context))
        x = x + task.mlp(task.out_norm(x))
        for block in task.blocks:
            x = block(x)
        made.append(x[0])
    return torch.stack(made)


def test_answers_are_those_of_the_published_decoder() -> None:
    model = build()
    masker = Masker(Uniform(), Dirichlet(Count(5, 16)))
    found = answers(model, [sample("a"), sample("b"), sample("c")], masker)
    tokens, masking, latents, features = found
    in_order = torch.empty_like(features)
    in_order.scatter_(1, masking.decoded_ids[..., None].expand_as(features), features)
    for name, task in cast(TaskDecoders, model.decoder).tasks.items():
        where = tokens.slots[name]
        wanted = plain(cast(TaskDecoder, task), model, name, tokens, masking, latents)
        assert wanted.std() > 1e-3
        torch.testing.assert_close(in_order[:, where.start : where.stop], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("decoded", [16, 7, 3])
def test_batch_mates_and_what_they_lack_change_nothing(decoded: int) -> None:
    model, masker = build(), Masker(Uniform(), Dirichlet(Count(3, decoded)))
    mates = [sample("b", "heat", "rgb"), sample("a"), sample("c", "edges")]
    among = answers(model, mates, masker)[3]
    for row, mate in enumerate(mates):
        alone = answers(model, [mate], masker)
        scored = alone[1].asked[0]
        assert scored.any()
        torch.testing.assert_close(among[row][scored], alone[3][0][scored], rtol=0, atol=1e-6)


@pytest.mark.parametrize("decoded", [16, 5])
def test_noise_in_what_is_hidden_changes_no_bit(decoded: int) -> None:
    model, masker = build(), Masker(Uniform(), Dirichlet(Count(4, decoded)))
    tokens, masking, latents, before = answers(model, [sample("a"), sample("b")], masker)
    for name, where in tokens.slots.items():
        values = tokens.modalities[name].values
        hidden = ~masking.visible[:, where.start : where.stop]
        values[hidden] = torch.randn_like(values[hidden])
    latents = model.encode_visible(tokens, masking)
    assert torch.equal(model.decode(tokens, latents, masking), before)


def test_a_target_budget_asks_fewer_and_bounds_the_cost() -> None:
    model, asked = build(), []
    task = cast(TaskDecoders, model.decoder).tasks["rgb"]
    task.register_forward_hook(lambda module, given, made: asked.append(made.shape))
    for decoded in (16, 5):
        answers(model, [sample("a"), sample("b")], Masker(Uniform(), Count(4, decoded)))
    assert asked == [(2, 6, 16), (2, 5, 16)]


def test_only_rows_that_have_a_modality_are_decoded() -> None:
    model, asked = build(), []
    task = cast(TaskDecoders, model.decoder).tasks["heat"]
    task.register_forward_hook(lambda module, given, made: asked.append(made.shape))
    mates = [sample("a"), sample("b", "rgb"), sample("c", "rgb", "edges")]
    answers(model, mates, Masker(Uniform(), Count(3, 13)))
    answers(model, mates[1:], Masker(Uniform(), Count(3, 13)))
    assert asked == [(1, 4, 16), (0, 4, 16)]


def test_every_weight_takes_part_though_a_modality_is_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fused = nn.functional.scaled_dot_product_attention

    def of_some_rows(query: Tensor, *rest: Any, **how: Any) -> Tensor:
        assert len(query), "batch size must be positive"  # as a kernel of older torch says
        return fused(query, *rest, **how)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", of_some_rows)
    model = build().train()
    objective = Reconstruction(
        Masker(Uniform(), Count(3)),
        average="sample",
        outputs={
            "normed": ExtraOutput("rgb", 48, TaskDecoders(24, NAMES, 16, 1, 2, outputs=("rgb",)))
        },
        learnt=("rgb", "normed"),
    )
    batch = collate([sample("a", "rgb"), sample("b", "rgb", "edges")], MAPS)
    terms = objective(model, batch, Step())
    assert set(terms) == {"edges", "heat", "normed", "rgb"}
    torch.stack([term.value() for term in terms.values()]).sum().backward()
    for part in (model, objective):
        for name, weight in part.named_parameters():
            if "decoder_position" in name:
                continue
            assert weight.grad is not None, name
            assert weight.grad.isfinite().all(), name
    assert terms["heat"].count == 0
    assert terms["heat"].value() == 0


def test_an_extra_output_answers_normalised_values() -> None:
    """All zeros cost 47/48 for 48 numbers with an unbiased spread."""
    model = build()
    extra = ExtraOutput("rgb", 48, TaskDecoders(24, NAMES, 16, 1, 2, outputs=("rgb",)))
    nn.init.zeros_(extra.pred.weight)
    objective = Reconstruction(Masker(Uniform(), Count(5, 16)), outputs={"normed": extra})
    batch = collate([sample("a"), sample("b")], MAPS)
    terms = objective(model, batch, Step())
    assert terms["normed"].value().item() == pytest.approx(47 / 48, abs=1e-4)
    assert terms["normed"].count == terms["rgb"].count
    without = Reconstruction(Masker(Uniform(), Count(5, 16)))(model, batch, Step())
    for name, term in without.items():
        assert torch.equal(term.total, terms[name].total), "an output changes the others' terms"


def test_a_learnt_weight_is_the_papers_formula() -> None:
    model, batch = build(), collate([sample("a"), sample("b")], MAPS)
    masker = Masker(Uniform(), Count(5))
    plainly = Reconstruction(masker)(model, batch, Step())["rgb"].value()
    objective = Reconstruction(masker, learnt=("rgb",))
    assert objective(model, batch, Step())["rgb"].value() == plainly
    nn.init.constant_(objective.uncertainty["rgb"], 0.7)
    value = objective(model, batch, Step())["rgb"].value()
    assert value.item() == pytest.approx(plainly.item() * torch.tensor(-0.7).exp().item() + 0.7)
    with pytest.raises(ValueError, match="learnt for sound"):
        Reconstruction(masker, learnt=("sound",))(model, batch, Step())


def test_decoders_say_what_they_were_built_for() -> None:
    with pytest.raises(ValueError, match="must be among modalities"):
        TaskDecoders(24, ("a",), outputs=("b",))
    model = build()
    model.decoder = TaskDecoders(24, ("rgb",), 16, 1, 2)
    with pytest.raises(ValueError, match="built for modalities rgb"):
        answers(model, [sample("a")], Masker(Uniform(), Count(5)))


def test_a_model_with_task_decoders_comes_back_from_disk(tmp_path: Any) -> None:
    from multimask import load

    model, masker = build(), Masker(Uniform(), Count(4))
    model.save(tmp_path)
    again = load(tmp_path)
    samples = [sample("a"), sample("b")]
    assert torch.equal(answers(again, samples, masker)[3], answers(model, samples, masker)[3])


def test_heads_of_several_losses_train_together() -> None:
    model = build()
    absolute = LinearAdapter(MAPS["heat"], 24, 16, Target(), loss="absolute")
    prediction, values = torch.zeros(2, 32), torch.full((2, 32), 3.0)
    assert absolute.error(prediction, values).tolist() == [3.0, 3.0]
    model.adapters["heat"] = absolute
    terms = Reconstruction(Masker(Uniform(), Count(4)))(model, collate([sample("a")], MAPS), Step())
    assert all(term.value() > 0 for term in terms.values())
    assert isinstance(replace(terms["heat"]).total, Tensor)
