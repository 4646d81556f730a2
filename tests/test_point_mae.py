"""Point-MAE: the published counts, weights under the published names, and a baseline to beat."""

import pytest
import torch
from torch import Tensor

import multimask
from multimask import Step, Uniform, collate
from multimask.checkpoints.layouts import point_mae as layout
from multimask.masking.rules import Rule
from multimask.methods.point_mae import point_mae
from multimask.modalities.point_operators import chamfer
from multimask.modalities.point_rules import NearestBlock
from multimask.modalities.points import PointGroups


def published() -> dict[str, tuple[int, ...]]:
    """All entries of a pre-training checkpoint: name and shape."""
    made: dict[str, tuple[int, ...]] = {"mask_token": (1, 1, 384)}

    def linear(name: str, *shape: int, bias: bool = True) -> None:
        made[f"{name}.weight"] = shape
        if bias:
            made[f"{name}.bias"] = shape[:1]

    def norm(name: str, width: int, batch: bool = False) -> None:
        entries = ["weight", "bias"] + (["running_mean", "running_var"] if batch else [])
        made.update({f"{name}.{entry}": (width,) for entry in entries})
        if batch:
            made[f"{name}.num_batches_tracked"] = ()

    linear("increase_dim.0", 96, 384, 1)
    for place in ("decoder_pos_embed", "MAE_encoder.pos_embed"):
        linear(f"{place}.0", 128, 3)
        linear(f"{place}.2", 384, 128)
    net = "MAE_encoder.encoder"
    linear(f"{net}.first_conv.0", 128, 3, 1)
    norm(f"{net}.first_conv.1", 128, batch=True)
    linear(f"{net}.first_conv.3", 256, 128, 1)
    linear(f"{net}.second_conv.0", 512, 512, 1)
    norm(f"{net}.second_conv.1", 512, batch=True)
    linear(f"{net}.second_conv.3", 384, 512, 1)
    blocks = [f"MAE_encoder.blocks.blocks.{i}" for i in range(12)]
    for block in blocks + [f"MAE_decoder.blocks.{i}" for i in range(4)]:
        norm(f"{block}.norm1", 384)
        norm(f"{block}.norm2", 384)
        linear(f"{block}.attn.qkv", 1152, 384, bias=False)
        linear(f"{block}.attn.proj", 384, 384)
        linear(f"{block}.mlp.fc1", 1536, 384)
        linear(f"{block}.mlp.fc2", 384, 1536)
    norm("MAE_encoder.norm", 384)
    norm("MAE_decoder.norm", 384)
    return made


def random_state(seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    state = {key: torch.randn(shape, generator=g) * 0.05 for key, shape in published().items()}
    for key in state:
        if key.endswith("running_var"):
            state[key] = state[key].abs() + 0.5
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
    return state


@pytest.fixture(scope="module")
def recipe() -> multimask.methods.Recipe:
    return point_mae({"points": PointGroups()})


def clouds(count: int, seed: int = 0) -> list[dict[str, object]]:
    g = torch.Generator().manual_seed(seed)
    points = torch.nn.functional.normalize(torch.randn(count, 1024, 3, generator=g), dim=-1)
    return [{"id": str(row), "points": cloud} for row, cloud in enumerate(points)]


def test_the_model_has_the_published_parameters(recipe: multimask.methods.Recipe) -> None:
    assert len(published()) == 209
    assert sum(p.numel() for p in recipe.model.parameters()) == 29_006_432
    named = {key for key, _ in recipe.model.named_parameters()}
    ends = ("encoder.", "adapters.points.net.", "adapters.points.position.")
    inside = [p for key, p in recipe.model.named_parameters() if key.startswith(ends)]
    assert sum(p.numel() for p in inside) == 21_825_024
    assert named


def test_published_weights_make_a_lossless_round_trip(recipe: multimask.methods.Recipe) -> None:
    state = random_state()
    assert layout.matches(state)
    missing, unexpected = recipe.model.load_state_dict(layout.to_ours(state), strict=False)
    assert missing == ["encoder.globals"]  # an empty table: Point-MAE has no class token
    assert not unexpected
    back = layout.to_theirs(recipe.model)
    assert back.keys() == state.keys()
    assert all(back[key].equal(state[key]) for key in state)
    wrapped = {f"module.{key}": value for key, value in state.items()}
    assert layout.matches(wrapped)
    assert layout.to_ours(wrapped).keys() == layout.to_ours(state).keys()


def test_other_weights_are_told_apart() -> None:
    assert not layout.matches([])
    assert not layout.matches(["cls_token", "blocks.blocks.0.norm1.weight"])
    assert not layout.matches([*published(), "cls_head_finetune.0.weight"])
    with pytest.raises(ValueError, match=r"'MAE_encoder\.extra' is no entry"):
        layout.to_ours({"MAE_encoder.extra": torch.zeros(1)})
    two = point_mae({"a": PointGroups(), "b": PointGroups()}, depth=1, decoder_depth=1)
    with pytest.raises(ValueError, match="holds one modality, the model has a, b"):
        layout.to_theirs(two.model)


def test_outputs_equal_a_restatement_with_the_same_weights(
    recipe: multimask.methods.Recipe,
) -> None:
    """Written from the paper's description, on the published names, in eval mode."""
    state, model = random_state(1), recipe.model.eval()
    model.load_state_dict(layout.to_ours(state), strict=False)
    batch = collate(clouds(2), model.tokenizers)
    tokens = model.tokenize(batch)
    masker = recipe.objective.masker
    step = Step().generators(batch.sample_ids, "masking")
    masking = masker(tokens.exists, step, model.context(tokens))
    with torch.no_grad():
        features = model.decode(tokens, model.encode_visible(tokens, masking), masking)
        made = model.predict(tokens, features, masking)["points"][0]
        part = tokens.modalities["points"]
        wanted = restated(state, part.values, part.coords, masking.ids, masking.decoded_ids)
    torch.testing.assert_close(made, wanted, rtol=1e-5, atol=1e-5)


def restated(
    s: dict[str, Tensor], values: Tensor, centres: Tensor, ids: Tensor, asked: Tensor
) -> Tensor:
    import torch.nn.functional as F

    def linear(name: str, x: Tensor) -> Tensor:
        weight = s[f"{name}.weight"]
        return F.linear(x, weight.squeeze(-1), s.get(f"{name}.bias"))

    def batch_norm(name: str, x: Tensor) -> Tensor:
        mean, var = s[f"{name}.running_mean"], s[f"{name}.running_var"]
        return (x - mean) / (var + 1e-5).sqrt() * s[f"{name}.weight"] + s[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (384,), s[f"{name}.weight"], s[f"{name}.bias"])

    def mlp(name: str, x: Tensor) -> Tensor:
        return linear(f"{name}.2", F.gelu(linear(f"{name}.0", x)))

    def block(name: str, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        qkv = linear(f"{name}.attn.qkv", norm(f"{name}.norm1", x)).view(b, n, 3, 6, 64)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = ((q / 8) @ k.transpose(-2, -1)).softmax(-1) @ v
        x = x + linear(f"{name}.attn.proj", mixed.transpose(1, 2).reshape(b, n, 384))
        y = norm(f"{name}.norm2", x)
        return x + linear(f"{name}.mlp.fc2", F.gelu(linear(f"{name}.mlp.fc1", y)))

    def at(x: Tensor, index: Tensor) -> Tensor:
        return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))

    net = "MAE_encoder.encoder"
    x = values.unflatten(-1, (32, 3))
    x = batch_norm(f"{net}.first_conv.1", linear(f"{net}.first_conv.0", x)).relu()
    x = linear(f"{net}.first_conv.3", x)
    x = torch.cat((x.amax(2, keepdim=True).expand_as(x), x), dim=-1)
    x = batch_norm(f"{net}.second_conv.1", linear(f"{net}.second_conv.0", x)).relu()
    x = at(linear(f"{net}.second_conv.3", x).amax(2), ids)
    position = mlp("MAE_encoder.pos_embed", at(centres, ids))
    for i in range(12):
        x = block(f"MAE_encoder.blocks.blocks.{i}", x + position)
    x = norm("MAE_encoder.norm", x)
    both = torch.cat((at(centres, ids), at(centres, asked)), dim=1)
    position = mlp("decoder_pos_embed", both)
    x = torch.cat((x, s["mask_token"].expand(len(x), asked.shape[1], -1)), dim=1)
    for i in range(4):
        x = block(f"MAE_decoder.blocks.{i}", x + position)
    x = norm("MAE_decoder.norm", x[:, -asked.shape[1] :])
    return linear("increase_dim.0", x).flatten(0, 1)


def test_38_of_64_groups_are_hidden(recipe: multimask.methods.Recipe) -> None:
    description = recipe.model.describe(recipe.objective.masker)
    assert (description.visible, description.decoded) == (26, 38)
    assert description.effective_ratio == 38 / 64


def test_answering_the_centre_scores_what_the_published_code_prints(
    recipe: multimask.methods.Recipe,
) -> None:
    tokens = PointGroups()(collate(clouds(8), recipe.model.tokenizers).parts["points"])
    values = tokens.values.flatten(0, 1)
    error = recipe.model.adapter("points").error(torch.zeros_like(values), values)
    assert error.mean().item() == pytest.approx(0.064, abs=0.003)
    groups = values.view(-1, 32, 3)
    torch.testing.assert_close(error, chamfer(torch.zeros_like(groups), groups))


@pytest.mark.parametrize("rule", [Uniform(), NearestBlock()])
@pytest.mark.parametrize("visible_only", [False, True])
def test_a_tiny_one_learns_spheres(rule: Rule, visible_only: bool) -> None:
    torch.manual_seed(0)
    groups = PointGroups(16, group_size=16)
    recipe = point_mae(
        {"points": groups},
        width=48,
        depth=2,
        heads=3,
        decoder_depth=1,
        drop_path=0.0,
        embed_visible_only=visible_only,
        rule=rule,
    )
    model, optimiser = recipe.model.train(), torch.optim.AdamW(recipe.model.parameters(), 2e-3)
    losses, zero = [], 0.0
    for index in range(60):
        batch = collate(
            [{**c, "points": c["points"][:256]} for c in clouds(8, seed=index)],  # type: ignore[index]
            model.tokenizers,
        )
        if not zero:
            values = model.tokenize(batch).modalities["points"].values.flatten(0, 1)
            zero = model.adapter("points").error(torch.zeros_like(values), values).mean().item()
        loss = recipe.objective(model, batch, Step(index=index))["points"].value()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.5 * zero


def test_a_saved_one_comes_back(tmp_path: object) -> None:
    recipe = point_mae({"points": PointGroups(16, 8)}, width=48, depth=1, heads=3, decoder_depth=1)
    recipe.model.save(str(tmp_path))
    back = multimask.load(str(tmp_path))
    batch = collate(clouds(2), back.tokenizers)
    assert back.encode(batch).tokens.equal(recipe.model.eval().encode(batch).tokens)


def test_a_missing_cloud_is_no_error() -> None:
    from multimask.modalities.image import ImagePatches

    recipe = point_mae({"points": PointGroups(16, 8)}, width=48, depth=1, heads=3, decoder_depth=1)
    model = multimask.MaskedModel(
        {"points": PointGroups(16, 8), "rgb": ImagePatches(16, 4)},
        recipe.model.encoder,
        decoder_width=32,
    ).train()
    samples = [{"id": "a", "rgb": torch.rand(3, 16, 16)}, {"id": "b", "rgb": torch.rand(3, 16, 16)}]
    terms = multimask.Reconstruction(multimask.Masker(budget=multimask.Count(8)))(
        model, collate(samples, model.tokenizers), Step()
    )
    assert terms["points"].count == 0
    sum(term.value() for term in terms.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in model.adapters["points"].parameters())
