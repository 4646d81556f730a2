"""The model's promises: nothing hidden is seen, and nobody notices the order or the neighbours."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from multimask.masking import Count, Masker, Ratio
from multimask.modality import collate
from multimask.model import MaskedModel
from multimask.nn.adapters import Target
from multimask.nn.decoders import HiddenDecoder, JointDecoder
from multimask.objectives import Reconstruction
from multimask.tokens import Batch, Masking, Part, Sample, Step, TokenBatch
from small_models import (
    DAY,
    KINDS,
    MASKER,
    MIXED,
    NIGHT,
    Readings,
    build,
    sample,
    tokens_and_masking,
)

SLOTS = {"day": range(0, 6), "log": range(6, 12), "night": range(12, 16)}


def answers(
    model: MaskedModel, samples: Sequence[Sample], masker: Masker = MASKER
) -> dict[str, dict[str, Tensor]]:
    """Per sample id and modality: the answers for what it was asked, in slot order."""
    tokens, masking = tokens_and_masking(model, samples, masker)
    features = model.decode(tokens, model.encode_visible(tokens, masking), masking)
    told: dict[str, dict[str, Tensor]] = {str(one["id"]): {} for one in samples}
    for name, (prediction, _, at) in model.predict(tokens, features, masking).items():
        rows, slots = at // masking.decoded_ids.shape[1], masking.decoded_ids.flatten()[at]
        for row, one in enumerate(samples):
            mine = (rows == row) & masking.asked.flatten()[at]
            told[str(one["id"])][name] = prediction[mine][slots[mine].argsort()]
    return told


def assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert set(one) == set(other)
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-9)


OPTIONS: dict[str, dict[str, Any]] = {
    "joint": {},
    "hidden-only": {"decoder": HiddenDecoder},
    "hidden-only, self-attention": {
        "decoder": lambda *a: HiddenDecoder(*a, self_attention=True),
    },
    "joint, places every, no globals": {
        "decoder": lambda *a: JointDecoder(*a, places="every", use_globals=False),
    },
    "mask tokens inside": {"keeps_hidden": True},
    "mask tokens inside, hidden-only": {"keeps_hidden": True, "decoder": HiddenDecoder},
    "mask tokens inside, no decoder": {"keeps_hidden": True, "decoder": False},
    "three globals last, places every": {
        "globals_at": "last", "num_globals": 3, "places": "every",
    },
    "no globals, no norm, scaled": {
        "num_globals": 0, "final_norm": False, "layer_scale": 0.5, "qkv_bias": False,
    },
}  # fmt: skip
DROPPING = {name: how for name, how in OPTIONS.items() if "keeps_hidden" not in how}
models = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
# an encoder that keeps mask tokens sees that something is hidden, and nothing of what is absent
dropping = pytest.mark.parametrize("options", DROPPING.values(), ids=DROPPING)


# --- nothing hidden is seen -----------------------------------------------------------------------


def with_other_hidden_values(
    tokens: TokenBatch, masking: Masking, model: MaskedModel
) -> TokenBatch:
    changed = {}
    for name, part in tokens.modalities.items():
        where = model.slots[name]
        shown = masking.visible[:, where.start : where.stop][part.rows][..., None]
        changed[name] = replace(part, values=torch.where(shown, part.values, 7.0))
    return replace(tokens, modalities=changed)


@models
def test_what_is_hidden_changes_nothing_bit_for_bit(options: dict[str, Any]) -> None:
    model = build(**options)
    tokens, masking = tokens_and_masking(model, MIXED)
    other = with_other_hidden_values(tokens, masking, model)
    one, two = (model.encode_visible(t, masking) for t in (tokens, other))
    assert torch.equal(one.tokens, two.tokens)
    assert torch.equal(one.globals, two.globals)
    features = [model.decode(t, latents, masking) for t, latents in ((tokens, one), (other, two))]
    assert torch.equal(*features)


@models
def test_what_is_visible_changes_its_own_sample(options: dict[str, Any]) -> None:
    model = build(**options)
    tokens, masking = tokens_and_masking(model, MIXED)
    day = tokens.modalities["day"]
    row = int(masking.visible[:, SLOTS["day"].start : SLOTS["day"].stop].any(dim=1).nonzero()[0])
    values = day.values + (day.rows == row)[:, None, None].float()
    other = replace(tokens, modalities={**tokens.modalities, "day": replace(day, values=values)})
    one, two = (model.encode_visible(t, masking).mean() for t in (tokens, other))
    changed = (one != two).any(dim=1).tolist()
    assert changed == [index == row for index in range(len(MIXED))]


# --- order and neighbours -------------------------------------------------------------------------


@models
def test_a_sample_does_not_notice_the_others(options: dict[str, Any]) -> None:
    model = build(**options)
    together, latents = answers(model, MIXED), model.encode(collate(MIXED, KINDS)).mean()
    for row, one in enumerate(MIXED):
        assert_same(answers(model, [one])[one["id"]], together[one["id"]])
        alone = model.encode(collate([one], KINDS)).mean()
        torch.testing.assert_close(alone[0], latents[row], rtol=0, atol=1e-9)


@models
def test_the_order_of_samples_changes_nothing(options: dict[str, Any]) -> None:
    model = build(**options)
    forth, back = answers(model, MIXED), answers(model, MIXED[::-1])
    for one in MIXED:
        assert_same(forth[one["id"]], back[one["id"]])


def test_the_order_of_modalities_changes_nothing() -> None:
    one, other = build(KINDS), build(dict(reversed(KINDS.items())))
    assert one.slots == other.slots == SLOTS
    assert_same(cast(Any, one.state_dict()), cast(Any, other.state_dict()))
    turned = [dict(reversed(s.items())) for s in MIXED]
    for name, told in answers(one, MIXED).items():
        assert_same(told, answers(other, turned)[name])


def test_the_order_of_tokens_changes_nothing() -> None:
    model = build()
    tokens, masking = tokens_and_masking(model, MIXED)
    turned = Masking(masking.ids.flip(1), masking.decoded_ids, masking.exists, decoded_padded=True)
    one, other = (model.encode_visible(tokens, m) for m in (masking, turned))
    torch.testing.assert_close(one.tokens, other.tokens.flip(1), rtol=0, atol=1e-9)
    features = [model.decode(tokens, x, m) for x, m in ((one, masking), (other, turned))]
    torch.testing.assert_close(*features, rtol=0, atol=1e-9)


@dropping
def test_absent_is_the_same_as_hidden_completely(options: dict[str, Any]) -> None:
    model = build(**options)
    whole = sample("day", "night", "log", seed=3)  # its log has all six rows
    absent = {name: value for name, value in whole.items() if name != "night"}
    tokens, _ = tokens_and_masking(model, [whole])
    only_shown = Masking(torch.arange(12)[None], torch.arange(12, 16)[None], tokens.exists)
    hidden = model.encode_visible(tokens, only_shown)
    lacking = model.encode(collate([absent], model.tokenizers))
    torch.testing.assert_close(hidden.tokens, lacking.tokens, rtol=0, atol=1e-9)
    torch.testing.assert_close(hidden.globals, lacking.globals, rtol=0, atol=1e-9)


def test_tokens_that_do_not_exist_may_hold_anything() -> None:
    """The padding of `log` is NaN, and stays where it is."""
    model = build()
    for told in answers(model, MIXED, Masker(budget=Count(4, 12), ragged=True)).values():
        assert all(value.isfinite().all() for value in told.values())
    assert model.encode(collate(MIXED, KINDS)).mean().isfinite().all()


# --- fast paths equal plain ones ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["day", "night", "log"])
@pytest.mark.parametrize("target", [Target(), Target("patch")])
def test_embedding_some_tokens_is_embedding_all_and_picking(name: str, target: Target) -> None:
    adapter = build(target=target).adapter(name)
    values, coords = (
        torch.randn(9, KINDS[name].token_dim).double(),
        torch.rand(9, KINDS[name].coord_dim),
    )
    some = torch.tensor([7, 0, 7, 3])
    every = adapter.embed(values, coords)
    torch.testing.assert_close(adapter.embed(values[some], coords[some]), every[some])
    assert adapter.embed(values[:0], coords[:0]).shape == (0, 24)


@pytest.mark.parametrize("places", ["once", "every"])
@pytest.mark.parametrize("samples", [MIXED, MIXED[:1]], ids=["some lacking", "complete"])
def test_the_last_block_of_the_decoder_may_skip_who_is_not_asked(
    places: str, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(decoder=lambda *a: JointDecoder(*a, places=places))
    tokens, masking = tokens_and_masking(model, samples)
    latents = model.encode_visible(tokens, masking)
    short = model.decode(tokens, latents, masking)
    last = cast(Any, model.decoder).blocks[-1]
    whole = last.forward

    def all_then_some(x: Tensor, attend: Tensor | None, last: int) -> Tensor:
        assert last == masking.decoded_ids.shape[1]
        return whole(x, attend)[:, -last:]

    monkeypatch.setattr(last, "forward", all_then_some)
    torch.testing.assert_close(short, model.decode(tokens, latents, masking), rtol=0, atol=1e-9)


def test_where_the_globals_stand_changes_nothing() -> None:
    first, last = (build(num_globals=2, globals_at=place) for place in ("first", "last"))
    one, other = (m.encode(collate(MIXED, KINDS), taps=(0,)) for m in (first, last))
    torch.testing.assert_close(one.tokens, other.tokens, rtol=0, atol=1e-9)
    torch.testing.assert_close(one.globals, other.globals, rtol=0, atol=1e-9)
    torch.testing.assert_close(one.taps[0], other.taps[0], rtol=0, atol=1e-9)
    for name, told in answers(first, MIXED).items():
        assert_same(told, answers(last, MIXED)[name])


def test_places_every_adds_positions_before_each_block() -> None:
    model = build(places="every", num_globals=1)
    tokens, masking = tokens_and_masking(model, MIXED)
    encoder, picks = cast(Any, model.encoder), masking.picks
    assert picks is not None
    x = torch.cat((encoder.globals.expand(5, -1, -1), model.embed(tokens, picks, masking.ids)), 1)
    places = model.places(tokens, picks, masking.ids, masking.valid, decoder=False).position
    for block in encoder.blocks:
        x = block(x + torch.cat((torch.zeros(5, 1, 24), places), dim=1))
    found = model.encode_visible(tokens, masking)
    torch.testing.assert_close(found.tokens, encoder.norm(x)[:, 1:], rtol=0, atol=1e-9)


def test_a_masking_from_the_loader_is_used_as_it_is() -> None:
    model = build()
    _, masking = tokens_and_masking(model, MIXED)
    plain = replace(masking, picks=None, decoded_picks=None)
    terms = Reconstruction(MASKER)(model, replace(collate(MIXED, KINDS), masking=plain), Step(9))
    drawn = Reconstruction(MASKER)(model, collate(MIXED, KINDS), Step())
    for name, term in terms.items():
        assert torch.equal(term.total, drawn[name].total)


# --- gradients ------------------------------------------------------------------------------------


@models
@pytest.mark.parametrize(
    "samples", [MIXED, MIXED[2:3], MIXED[4:]], ids=["all", "one lacks two", "another lacks two"]
)
def test_every_weight_has_a_gradient_whatever_is_absent(
    options: dict[str, Any], samples: list[Sample]
) -> None:
    model = build(**options).train()
    terms = Reconstruction(MASKER)(model, collate(samples, KINDS), Step())
    torch.stack([term.value() for term in terms.values()]).sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without
    assert all(cast(Tensor, p.grad).isfinite().all() for p in model.parameters())
    absent = [name for name in KINDS if not any(name in s for s in samples)]
    assert all(terms[name].count == 0 and terms[name].value() == 0 for name in absent)
    for name, p in model.named_parameters():
        if any(f"adapters.{gone}." in name for gone in absent):
            assert (cast(Tensor, p.grad) == 0).all()


# --- what cannot be is said -----------------------------------------------------------------------


def test_mistakes_are_said_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"give at least one modality"):
        MaskedModel({})
    with pytest.raises(ValueError, match=r"'id' cannot name a modality"):
        MaskedModel({"id": DAY})
    with pytest.raises(ValueError, match=r"'log': its number of tokens varies; .*max_tokens"):
        MaskedModel({"log": Readings()})
    with pytest.raises(ValueError, match=r"adapters \['x'\] belong to no modality"):
        MaskedModel({"day": DAY}, adapters={"x": nn.Identity()})
    with pytest.raises(ValueError, match=r"Encoder: width=24 must be a multiple of heads=5"):
        MaskedModel({"day": DAY}, width=24, heads=5)
    model, large = build(), {"id": "x", "day": torch.rand(3, 16, 12)}
    with pytest.raises(ValueError, match=r"'day': 12 tokens, but the model was built with 6"):
        model.tokenize(Batch(1, ("x",), {}, {"day": Part(large["day"][None], torch.arange(1))}))
    with pytest.raises(ValueError, match=r"weights for dusk, which the model does not have"):
        Reconstruction(MASKER, weights={"dusk": 2.0})(model, collate(MIXED, KINDS), Step())
    with pytest.raises(ValueError, match=r"no global tokens; use 'mean'"):
        build(num_globals=0).encode(collate(MIXED, KINDS)).pooled("global")


def test_latents_are_found_by_slot() -> None:
    model = build()
    tokens, masking = tokens_and_masking(model, MIXED)
    latents = model.encode_visible(tokens, masking)
    asked = torch.arange(16).expand(5, 16)
    found = latents.at(asked)
    assert torch.equal(found.gather(1, masking.ids[..., None].expand(-1, -1, 24)), latents.tokens)
    assert (found[~masking.visible] == 0).all()


def test_the_description_counts_what_is_there() -> None:
    model = build({"day": DAY, "night": NIGHT})
    told = model.describe(Masker(budget=Ratio(0.6)))
    assert told.tokens == {"day": 6, "night": 4}
    assert (told.visible, told.decoded, told.effective_ratio) == (4, 6, 0.6)
    assert sum(told.parameters.values()) == sum(p.numel() for p in model.parameters())
    # two blocks; a multiply-add is two; the class token makes five of four visible ones
    linear, attention = 5 * 24 * (3 * 24 + 24 + 2 * 96), 2 * 5 * 5 * 24
    assert told.flops["encoder"] == 2 * 2 * (linear + attention)
    seen, sizes = shown_and_asked(model), {"day": 48, "night": 16}
    ends = sum(sizes[n] * (24 * shown + 16 * asked) for n, (shown, asked) in seen.items())
    assert told.flops["adapters"] == 2 * ends
    assert told.encoder_share + told.decoder_share < 1


def shown_and_asked(model: MaskedModel) -> dict[str, tuple[int, int]]:
    """How many tokens `describe` hides, by modality."""
    exists = torch.ones(1, 10, dtype=torch.bool)
    tokens = model.tokenize(collate([sample("day", "night")], model.tokenizers))
    masker = Masker(budget=Ratio(0.6))
    found = masker(exists, Step().generators(["sample"], "masking"), model.context(tokens))
    return {
        name: (
            int(found.visible[:, w.start : w.stop].sum()),
            int(found.target[:, w.start : w.stop].sum()),
        )
        for name, w in model.slots.items()
    }
