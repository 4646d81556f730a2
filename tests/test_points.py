"""Point groups: what a token holds, what pictures show, and what data is refused."""

from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor

from multimask import BadSample, MaskedModel, Masker, Part, Ratio, Reconstruction, Step, collate
from multimask.evaluation import reconstruction_error
from multimask.masking import Context
from multimask.modalities.point_adapter import GroupAdapter, MiniPointNet
from multimask.modalities.point_rules import NearestBlock
from multimask.modalities.points import PointGroups
from multimask.testing import check_modality
from multimask.tokens import Tokens

GROUPS = PointGroups(8, group_size=6)


def sphere(count: int, seed: int = 0, batch: int = 1) -> Tensor:
    g = Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(batch, count, 3, generator=g), dim=-1)


def cut(clouds: Tensor | list[Tensor], groups: PointGroups = GROUPS) -> Tokens:
    return groups(Part(clouds, torch.arange(len(clouds))))


def small(groups: PointGroups = GROUPS, **adapter: object) -> MaskedModel:
    torch.manual_seed(0)
    adapters = {"cloud": GroupAdapter(groups, 48, 32, **adapter)}  # type: ignore[arg-type]
    return MaskedModel({"cloud": groups}, width=48, depth=2, decoder_width=32, adapters=adapters)


@pytest.mark.parametrize("features", [0, 2])
def test_clouds_keep_the_contract(features: int) -> None:
    clouds = [torch.cat((cloud, torch.rand(64, features)), -1) for cloud in sphere(64, batch=3)]
    check_modality(replace(GROUPS, features=features), clouds)


# --- the tokenizer --------------------------------------------------------------------------------


def test_a_group_is_its_centre_and_the_nearest_points() -> None:
    tokens = cut(torch.tensor([[[0.0, 0, 0], [1, 0, 0], [5, 0, 0], [5, 2, 0]]]), PointGroups(2, 2))
    assert tokens.coords.tolist() == [[[0, 0, 0], [5, 2, 0]]]  # point 0, then the farthest
    assert tokens.values.tolist() == [[[0, 0, 0, 1, 0, 0], [0, 0, 0, 0, -2, 0]]]


def test_untokenize_gives_points_of_the_cloud() -> None:
    cloud = sphere(64)
    (points,) = GROUPS.untokenize(cut(cloud))
    apart = torch.cdist(points, cloud[0], compute_mode="donot_use_mm_for_euclid_dist")
    assert apart.amin(1).max() < 1e-6
    assert len(apart.argmin(1).unique()) == len(points)  # none of them twice


def test_groups_of_the_points_of_all_groups_are_the_groups() -> None:
    whole = PointGroups(16, group_size=12)
    tokens = cut(sphere(300, batch=4) * 40 + 7, whole)
    clouds = whole.untokenize(tokens)
    assert len({len(cloud) for cloud in clouds}) > 1
    again = cut(clouds, whole)
    torch.testing.assert_close(again.coords, tokens.coords, rtol=0, atol=1e-4)
    torch.testing.assert_close(again.values, tokens.values, rtol=0, atol=1e-4)


def test_moving_the_cloud_moves_centres_only() -> None:
    cloud = (sphere(64) * 256).round() / 256  # so that sums are exact
    here, there = cut(cloud), cut(cloud + 4)
    assert there.coords.equal(here.coords + 4)
    assert there.values.equal(here.values)


def test_the_order_of_points_does_not_matter_but_for_the_first() -> None:
    cloud = sphere(64)
    shuffle = torch.cat((torch.zeros(1).long(), 1 + torch.randperm(63, generator=Generator())))
    here, there = cut(cloud), cut(cloud[:, shuffle])
    assert there.coords.equal(here.coords)
    assert there.values.equal(here.values)


def test_a_ragged_batch_is_cut_as_its_clouds_alone() -> None:
    clouds = [sphere(40, 1)[0], sphere(25, 2)[0], sphere(64, 3)[0]]
    together = cut(GROUPS.collate(clouds))
    for row, cloud in enumerate(clouds):
        alone = cut(cloud[None])
        assert together.values[row].equal(alone.values[0])
        assert together.coords[row].equal(alone.coords[0])


def test_features_come_along_as_they_are() -> None:
    cloud = torch.cat((sphere(64), torch.rand(1, 64, 2, generator=Generator())), dim=-1)
    groups = replace(GROUPS, features=2)
    points = groups.untokenize(cut(cloud, groups))[0]
    apart = torch.cdist(points, cloud[0], compute_mode="donot_use_mm_for_euclid_dist")
    assert apart.amin(1).max() < 1e-6


@pytest.mark.parametrize(
    ("cloud", "said"),
    [
        (torch.rand(4, 3), "a cloud has 4 points, but num_groups=8 and group_size=6 need"),
        (torch.rand(64, 4), r"expected a cloud of shape \(points, 3\).*found \(64, 4\)"),
        (torch.rand(64), r"found \(64,\)"),
        (torch.zeros(64, 3, dtype=torch.int64), "expected float coordinates, found torch.int64"),
        (torch.full((64, 3), torch.nan), "64 of 64 points are NaN or infinite"),
    ],
)
def test_a_cloud_that_breaks_the_contract_is_refused(cloud: Tensor, said: str) -> None:
    with pytest.raises(BadSample, match=said):
        GROUPS.collate([cloud])


@pytest.mark.parametrize("wrong", [{"num_groups": 0}, {"group_size": 0}, {"features": -1}])
def test_sizes_below_one_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        PointGroups(**wrong)  # type: ignore[arg-type]


# --- the picture ----------------------------------------------------------------------------------


def test_a_picture_shows_what_is_shown_from_two_sides() -> None:
    tokens = cut(sphere(200), PointGroups(32, 16))
    groups, shown = PointGroups(32, 16), torch.zeros(32, dtype=torch.bool)

    def inked(picture: object) -> int:
        return int((picture != 250).any(axis=-1).sum())  # type: ignore[union-attr, attr-defined]

    whole, none = groups.picture(tokens), groups.picture(tokens, shown)
    shown[:8] = True
    some = groups.picture(tokens, shown)
    assert whole.shape == (224, 448, 3)
    assert inked(none) == 0
    assert 0 < inked(some) < inked(whole)
    # what is drawn stands at the same place
    same = (some == whole).all(axis=-1) | (some == 250).all(axis=-1)
    assert same.mean() > 0.97


def test_wild_answers_do_not_break_a_picture() -> None:
    tokens = cut(sphere(64))
    wild = replace(tokens, values=torch.full_like(tokens.values, 1e30))
    assert (GROUPS.picture(wild) == 250).all()
    wild = replace(tokens, values=torch.full_like(tokens.values, torch.nan))
    assert (GROUPS.picture(wild) == 250).all()


# --- the adapter ----------------------------------------------------------------------------------


def test_the_small_net_does_not_notice_the_order_within_a_group() -> None:
    net = MiniPointNet(3, 16).eval()
    groups = torch.randn(5, 6, 3, generator=Generator())
    torch.testing.assert_close(net(groups), net(groups.flip(1)))


def test_the_small_net_is_the_published_one() -> None:
    """Against the same weights with the maximum laid beside every point, as in the paper."""
    net = MiniPointNet(3, 16).train()
    groups = torch.randn(5, 6, 3, generator=Generator(), requires_grad=True)
    made = net(groups)
    each = net.fc2(torch.relu(net.norm1(net.fc1(groups.flatten(0, 1))))).view(5, 6, 256)
    both = torch.cat((each.amax(1, keepdim=True).expand(-1, 6, -1), each), dim=-1).flatten(0, 1)
    wanted = net.fc4(torch.relu(net.norm2(net.fc3(both)))).view(5, 6, 16).amax(1)
    torch.testing.assert_close(made, wanted)


def test_all_groups_are_embedded_in_training_unless_visible_only() -> None:
    assert small().adapter("cloud").train().embeds_all  # type: ignore[attr-defined]
    assert not small().adapter("cloud").eval().embeds_all  # type: ignore[attr-defined]
    lean = small(embed_visible_only=True)
    assert not lean.adapter("cloud").train().embeds_all  # type: ignore[attr-defined]


def test_embedding_all_groups_or_the_visible_is_one_in_eval_mode() -> None:
    batch = collate(
        [{"cloud": sphere(64, s)[0], "id": str(s)} for s in range(3)], {"cloud": GROUPS}
    )
    model, masker = small().eval(), Masker(budget=Ratio(0.6, "hidden"))
    tokens = model.tokenize(batch)
    step = Step().generators(batch.sample_ids, "masking")
    masking = masker(tokens.exists, step, model.context(tokens))
    lean = model.encode_visible(tokens, masking).tokens
    model.adapters["cloud"].training = True  # embeds all; the batch statistics stay those stored
    assert model.adapters["cloud"].embeds_all
    torch.testing.assert_close(model.encode_visible(tokens, masking).tokens, lean)


def test_no_rows_touch_no_statistics() -> None:
    model = small().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    made = model.adapter("cloud").embed(torch.zeros(0, GROUPS.token_dim), torch.zeros(0, 3))
    made.sum().backward()
    assert made.shape == (0, 48)
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())


def test_hidden_points_cannot_reach_the_latents() -> None:
    model = small().eval()
    tokens = model.tokenize(collate([{"cloud": sphere(64)[0]}], {"cloud": GROUPS}))
    masking = Masker(budget=Ratio(0.6, "hidden"))(
        tokens.exists, [Generator().manual_seed(1)], model.context(tokens)
    )
    part = tokens.modalities["cloud"]
    hidden = ~masking.visible[0]
    values, coords = part.values.clone(), part.coords.clone()
    values[0, hidden], coords[0, hidden] = 7.0, -7.0
    noisy = replace(tokens, modalities={"cloud": replace(part, values=values, coords=coords)})
    clean = model.encode_visible(tokens, masking).tokens
    assert model.encode_visible(noisy, masking).tokens.equal(clean)


def test_the_error_of_features_is_that_of_paired_points() -> None:
    groups = PointGroups(1, 2, features=1)
    adapter = GroupAdapter(groups, 8, 8, feature_weight=3.0)
    true = torch.tensor([[0.0, 0, 0, 1.0, 1, 0, 0, 2.0]])
    swapped = torch.tensor([[1.0, 0, 0, 2.0, 0, 0, 0, 1.0]])
    assert adapter.error(swapped, true).tolist() == [0]  # order within a group is no error
    off = torch.tensor([[0.0, 0, 0, 2.0, 1, 0, 0, 2.0]])
    assert adapter.error(off, true).tolist() == [3.0]  # 3 * (.5 + .5)


def test_what_is_measured_of_answers_is_the_chamfer_distance() -> None:
    samples = [{"cloud": sphere(64, seed)[0], "id": str(seed)} for seed in range(3)]
    model, masker = small().eval(), Masker(budget=Ratio(0.6, "hidden"))
    found = reconstruction_error(model, samples, masker).modalities["cloud"]
    batch = collate(samples, {"cloud": GROUPS})
    with torch.no_grad():
        term = Reconstruction(masker)(model, batch, Step())["cloud"]
    assert found.scale == "the adapter's own"
    assert found.error == pytest.approx(term.value().item(), rel=1e-5)


# --- the rule -------------------------------------------------------------------------------------


def test_a_block_is_what_lies_nearest_to_one_group() -> None:
    groups = PointGroups(64, 32)
    model = small(groups)
    tokens = model.tokenize(
        collate([{"cloud": sphere(1024, s)[0], "id": str(s)} for s in range(8)], {"cloud": groups})
    )
    masker = Masker(NearestBlock(), Ratio(0.6, counting="hidden"))
    assert not masker.content_free
    step = Step(seed=3).generators([str(s) for s in range(8)], "masking")
    masking = masker(tokens.exists, step, model.context(tokens))
    for row in range(8):
        places, visible = tokens.modalities["cloud"].coords[row], masking.visible[row]
        assert int((~visible).sum()) == 38
        apart = torch.cdist(places, places)
        # some hidden group is nearer to all hidden ones than to any visible one
        inside, outside = apart[:, ~visible].amax(1), apart[:, visible].amin(1)
        assert (inside <= outside)[~visible].any()


def test_a_block_needs_places_and_says_so() -> None:
    with pytest.raises(ValueError, match="needs the tokens' places"):
        NearestBlock()(torch.ones(1, 4, dtype=torch.bool), [Generator()], Context({"a": range(4)}))


def test_a_block_never_begins_at_a_token_that_is_not_there() -> None:
    exists = torch.tensor([[True, True, False, False]])
    model = small(PointGroups(4, 2))
    tokens = model.tokenize(collate([{"cloud": sphere(16)[0]}], {"cloud": PointGroups(4, 2)}))
    context = model.context(tokens)
    for seed in range(20):
        scores = NearestBlock()(exists, [Generator().manual_seed(seed)], context)
        assert sorted(scores[0, :2].tolist()) == [-0.5, 0.0]
