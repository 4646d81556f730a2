"""The model's promises: nothing hidden is seen, and nobody notices the order or the neighbours."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from multimask.masking import Block, Count, Masker, Ratio
from multimask.modalities.image import ImagePatches
from multimask.modality import Tokenizer, collate
from multimask.model import MaskedModel
from multimask.nn.adapters import Target
from multimask.nn.decoders import HiddenDecoder, JointDecoder
from multimask.nn.encoders import Encoder
from multimask.objectives import Reconstruction
from multimask.tokens import Batch, Masking, Part, Sample, Step, TokenBatch, Tokens


@dataclass(frozen=True)
class Readings:
    """A set: up to six rows of (time, pressure, heat), fewer are padded with NaN."""

    most: int = 6

    token_dim = 3
    coord_dim = 1
    num_tokens = None

    def collate(self, items: Sequence[Any]) -> Tensor:
        padded = torch.full((len(items), self.most, 3), torch.nan, dtype=items[0].dtype)
        for row, item in zip(padded, items, strict=True):
            row[: len(item)] = item
        return padded

    def valid(self, part: Part) -> Bool[Tensor, "r n"]:
        return ~part.data.isnan().any(dim=2)

    def __call__(self, part: Part) -> Tokens:
        return Tokens(part.data, part.data[..., :1], part.rows, self.valid(part))


DAY, NIGHT = ImagePatches((8, 12), 4), ImagePatches(8, 4, channels=1)
KINDS: dict[str, Tokenizer] = {"day": DAY, "night": NIGHT, "log": Readings()}
SLOTS = {"day": range(0, 6), "log": range(6, 12), "night": range(12, 16)}


def build(
    tokenizers: Mapping[str, Tokenizer] = KINDS,
    decoder: Callable[..., nn.Module] | bool = JointDecoder,
    target: Target = Target(),  # noqa: B008
    **encoder: Any,
) -> MaskedModel:
    torch.manual_seed(0)
    model = MaskedModel(
        tokenizers,
        Encoder(24, 2, 2, **encoder),
        decoder if isinstance(decoder, bool) else decoder(24, 16, 2, 2),
        target=target,
        max_tokens={"log": 6} if "log" in tokenizers else None,
    )
    with torch.no_grad():  # off the values that weights start from
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.double().eval()  # so that rounding hides nothing


def sample(*names: str, seed: int = 0) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    made = {
        "day": torch.rand(3, 8, 12, generator=generator, dtype=torch.double),
        "night": torch.rand(1, 8, 8, generator=generator, dtype=torch.double),
        "log": torch.rand(3 + seed % 4, 3, generator=generator, dtype=torch.double),
    }
    return {"id": f"s{seed}", **{name: made[name] for name in names}}


MIXED = [
    sample("day", "night", "log", seed=0),
    sample("day", "log", seed=1),
    sample("night", seed=2),
    sample("log", "night", seed=3),
    sample("day", seed=4),
]
MASKER = Masker(budget=Count(3, 12))


def tokens_and_masking(
    model: MaskedModel, samples: Sequence[Sample], masker: Masker = MASKER
) -> tuple[TokenBatch, Masking]:
    batch = collate(samples, model.tokenizers)
    tokens = model.tokenize(batch)
    generators = Step().generators(batch.sample_ids, "masking")
    return tokens, model.picked(tokens, masker(tokens.exists, generators, model.context(tokens)))


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


models = pytest.mark.parametrize(
    "options",
    [
        {},
        {"decoder": HiddenDecoder},
        {"decoder": lambda *a: HiddenDecoder(*a, self_attention=True)},
        {"decoder": lambda *a: JointDecoder(*a, places="every", use_globals=False)},
        {"keeps_hidden": True},
        {"keeps_hidden": True, "decoder": HiddenDecoder},
        {"keeps_hidden": True, "decoder": False},
        {"globals_at": "last", "num_globals": 3, "places": "every"},
        {"num_globals": 0, "final_norm": False, "layer_scale": 0.5, "qkv_bias": False},
    ],
    ids=[
        "joint",
        "hidden-only",
        "hidden-only, self-attention",
        "joint, places every, no globals",
        "mask tokens inside",
        "mask tokens inside, hidden-only",
        "mask tokens inside, no decoder",
        "three globals last, places every",
        "no globals, no norm, scaled",
    ],
)


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


@models
def test_absent_is_the_same_as_hidden_completely(options: dict[str, Any]) -> None:
    if options.get("keeps_hidden"):
        pytest.skip("this encoder sees a mask token where something is hidden")
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


# --- any size -------------------------------------------------------------------------------------


def test_encoding_mixed_native_sizes_is_encoding_one_by_one() -> None:
    model = build()
    sizes = [(8, 12), (16, 8), (8, 12), (4, 4), (16, 8)]
    samples = [sample("day", "night", seed=index) for index in range(5)]
    for one, (height, width) in zip(samples, sizes, strict=True):
        one["day"] = torch.rand(3, height, width, dtype=torch.double)
    del samples[2]["night"]
    whole = model.encode(collate(samples, KINDS), taps=(-1,))
    for row, one in enumerate(samples):
        alone = model.encode(collate([one], KINDS), taps=(-1,))
        count = alone.tokens.shape[1]
        torch.testing.assert_close(whole.tokens[row, :count], alone.tokens[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(whole.taps[0][row, :count], alone.taps[0][0], rtol=0, atol=1e-9)
        for pool in ("mean", "global"):
            mine, its = whole.pooled(pool)[row], alone.pooled(pool)[0]
            torch.testing.assert_close(mine, its, rtol=0, atol=1e-9)


def stripes(channels: int) -> Tensor:
    """96 x 160, where every pixel tells its row, column and channel."""
    rows, columns = torch.arange(96).double()[:, None] / 96, torch.arange(160).double() / 160
    return torch.stack([(0.9 * rows + 0.1 * columns + c / 7) / 2 for c in range(channels)])


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_wide_picture_is_trained_on_and_answered(channels: int) -> None:
    patches = ImagePatches((96, 160), 16, channels)
    model = build({"photo": patches}).train()
    objective = Reconstruction(Masker(Block(), Ratio(0.5)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch, losses = collate([{"id": "x", "photo": stripes(channels)}], model.tokenizers), []
    for index in range(25):
        loss = objective(model, batch, Step(0, index))["photo"].value()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2
    found = model.reconstruct(batch, objective.masker)
    assert model.training
    assert found.visible["photo"].sum() == 30
    picture = cast(Tensor, model.untokenize("photo", found.restored["photo"]))
    assert picture.shape == (1, channels, 96, 160)
    drawn = patches.picture(found.restored["photo"], found.visible["photo"][0])
    assert drawn.shape == (96, 160, 3)


class Knows(nn.Module):
    """An adapter that answers every token with its true values."""

    def __init__(self, inner: Any, truth: Tensor, leaks: bool) -> None:
        super().__init__()
        self.inner, self.truth, self.restoring_leaks = inner, truth, leaks
        for name in ("embed", "place", "decoder_place", "error"):
            setattr(self, name, getattr(inner, name))
        self.slots = torch.zeros(0, dtype=torch.long)

    def predict(self, features: Tensor) -> Tensor:
        return self.truth.index_select(0, self.slots)

    def restore(self, prediction: Tensor, values: Tensor) -> Tensor:
        return prediction


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_true_answers_give_back_the_picture(channels: int) -> None:
    """Rows, columns and channels land where they belong: hidden patches answered with their true
    values are the picture, and single pixels are those that were put in."""
    patches, image = ImagePatches((96, 160), 16, channels), stripes(channels)
    model = build({"photo": patches})
    batch = collate([{"id": "x", "photo": image}], model.tokenizers)
    tokens, masking = tokens_and_masking(model, [{"id": "x", "photo": image}], Masker())
    knows = Knows(model.adapters["photo"], tokens.modalities["photo"].values[0], leaks=False)
    knows.slots = masking.decoded_ids[0]
    model.adapters["photo"] = knows
    found = model.reconstruct(replace(batch, masking=masking))
    restored = cast(Tensor, model.untokenize("photo", found.restored["photo"]))[0]
    torch.testing.assert_close(restored, image, rtol=0, atol=1e-9)
    for channel, row, column in ((0, 0, 0), (0, 95, 0), (0, 0, 159), (channels - 1, 17, 130)):
        wanted = (0.9 * row / 96 + 0.1 * column / 160 + channel / 7) / 2
        assert restored[channel, row, column].item() == pytest.approx(wanted, abs=1e-6)
    drawn = patches.picture(found.restored["photo"])
    shown = [0, 0, 0] if channels == 1 else [0, 1, 2]
    for row, column in ((0, 0), (95, 0), (0, 159), (40, 120)):
        levels = [round(255 * image[c, row, column].item()) for c in shown]
        assert drawn[row, column].tolist() == levels
    blanked = patches.picture(found.tokens["photo"], found.visible["photo"][0])
    for row, column in ((0, 0), (95, 0), (0, 159), (40, 120)):
        slot = (row // 16) * 10 + column // 16
        levels = [round(255 * image[c, row, column].item()) for c in shown]
        assert blanked[row, column].tolist() == (
            levels if found.visible["photo"][0, slot] else [128, 128, 128]
        )


def test_only_what_was_hidden_is_answered() -> None:
    model = build()
    found = model.reconstruct(collate(MIXED, KINDS), Masker(budget=Count(3, 5)))
    for name, part in found.tokens.items():
        same = torch.isclose(found.restored[name].values, part.values, equal_nan=True).all(dim=2)
        assert torch.equal(~same, found.target[name][part.rows])
    assert sum(int(target.sum()) for target in found.target.values()) > 5
    assert found.leaks == ()


@pytest.mark.parametrize("unit", ["patch", "channel"])
def test_restoring_normalised_targets_is_told_as_a_leak(unit: Any) -> None:
    model = build({"day": DAY, "night": NIGHT}, target=Target(unit))
    found = model.reconstruct(collate([sample("day", "night", seed=1)], model.tokenizers), Masker())
    assert found.leaks == ("day", "night")
    hidden = found.target["day"][0]
    mean = (lambda x: x.mean(1)) if unit == "patch" else (lambda x: x.view(-1, 16, 3).mean(1))
    adapter = cast(Any, model.adapters["day"])
    nn.init.zeros_(adapter.pred.weight)
    nn.init.zeros_(adapter.pred.bias)
    answered = model.reconstruct(
        collate([sample("day", "night", seed=1)], model.tokenizers), Masker()
    )
    torch.testing.assert_close(
        mean(answered.restored["day"].values[0][hidden]),
        mean(answered.tokens["day"].values[0][hidden]),
    )


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
