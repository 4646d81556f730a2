"""SkeletonMAE: the graph layers and the re-weighted cosine loss, against closed forms."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from multimask.masking import Masker, Ratio
from multimask.methods.skeletonmae import Collapse, ReweightedCosine, skeletonmae
from multimask.modalities.prelu import PReLU
from multimask.modalities.skeleton import SkeletonJoints
from multimask.modalities.skeleton_adapter import CosineAdapter
from multimask.modalities.skeleton_geometric import GeometricEncoder, graphs
from multimask.modalities.skeleton_graph import GraphEncoder, GraphLayer
from multimask.modalities.skeleton_masking import part_masker
from multimask.modalities.skeleton_topologies import COCO17, NTU25, TOPOLOGIES, Topology, topology
from multimask.modality import collate
from multimask.model import MaskedModel
from multimask.objectives import Reconstruction
from multimask.tokens import Batch, Masking, Step

TOKENIZER = SkeletonJoints(COCO17, frames=3, dims=2)


def batch_of(data: Tensor, tokenizer: SkeletonJoints = TOKENIZER) -> Batch:
    samples = [{"id": str(row), "pose": clip} for row, clip in enumerate(data)]
    return collate(samples, {"pose": tokenizer})


def clips(count: int = 2, frames: int = 3, joints: int = 17, dims: int = 2) -> Tensor:
    return torch.randn(count, 1, frames, joints, dims, generator=torch.Generator().manual_seed(0))


# --- the loss -------------------------------------------------------------------------------------


class Answers(nn.Module):
    """A decoder that says what it is told, to look at the loss alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.said = torch.zeros(0)

    def forward(self, latents: object, visible: object, decoded: object) -> Tensor:
        return self.said


def loss_of(turn: str, scale: float = 1.0, beta: float = 2.0) -> tuple[float, int]:
    """Loss per frame when every answer is the target, at right angles to it, or its opposite."""
    answers = Answers(2)
    adapter = CosineAdapter(TOKENIZER, 16, 2, aim="values")
    model = MaskedModel(
        {"pose": TOKENIZER}, GraphEncoder(COCO17, 16), answers, adapters={"pose": adapter}
    )
    masker = part_masker(COCO17, ("right_arm", "right_leg"))
    objective = ReweightedCosine(masker, beta)
    batch = batch_of(clips() * scale)
    tokens = model.tokenize(batch)
    masking = objective.masking(model, tokens, batch, Step())
    true = tokens.modalities["pose"].values.gather(
        1, masking.decoded_ids[..., None].expand(-1, -1, 2)
    )
    right = torch.stack((-true[..., 1], true[..., 0]), dim=-1)
    answers.said = {"perfect": true, "opposite": -true, "orthogonal": right}[turn] * 7.0
    term = objective(model, batch, Step())["pose"]
    return float(term.value()), int(term.count)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_the_loss_has_its_closed_forms_at_any_scale(scale: float) -> None:
    n = 4  # hidden joints a frame
    frames = 2 * 3
    assert loss_of("perfect", scale) == (pytest.approx(0, abs=1e-9), frames)
    assert loss_of("orthogonal", scale) == (pytest.approx(1 / n, rel=1e-5), frames)
    assert loss_of("opposite", scale) == (pytest.approx(4 / n, rel=1e-5), frames)


def test_beta_one_is_the_plain_mean() -> None:
    assert loss_of("orthogonal", beta=1.0)[0] == pytest.approx(1.0, rel=1e-5)


def test_joints_without_a_direction_or_a_value_are_not_scored() -> None:
    model = skeletonmae({"pose": TOKENIZER}, width=16, aim="values").model
    objective = ReweightedCosine(part_masker(COCO17, ("right_arm",)))
    data = clips(1)
    data[0, 0, 0, 8] = 0  # a hidden joint at the centre
    data[0, 0, 1, [8, 10]] = torch.nan  # no hidden joint is known in this frame
    term = objective(model, batch_of(data), Step())["pose"]
    assert int(term.count) == 2  # frames
    prediction, values, at = answers_of(model, data, objective.masker)
    adapter = model.adapter("pose")
    error = adapter.error(prediction, values)
    assert error[at == at.min()].item() == 0  # slot 8 of frame 0 comes first
    assert error.isfinite().all()


def answers_of(model: MaskedModel, data: Tensor, masker: object) -> tuple[Tensor, Tensor, Tensor]:
    tokens = model.tokenize(batch_of(data))
    masking = masker(tokens.exists, Step().generators(["0"], "masking"), model.context(tokens))  # type: ignore[operator]
    masking = model.picked(tokens, masking)
    features = model.decode(tokens, model.encode_visible(tokens, masking), masking)
    return model.predict(tokens, features, masking)["pose"]


def test_the_embedded_target_gets_no_gradient() -> None:
    adapter = CosineAdapter(TOKENIZER, 16, 16)
    values = torch.randn(5, 2)
    assert not adapter.target(values).requires_grad
    adapter.error(torch.randn(5, 16, requires_grad=True), values).sum().backward()
    assert adapter.proj.weight.grad is None


def test_an_exact_answer_is_restored_to_the_true_joint() -> None:
    torch.manual_seed(0)
    values = torch.randn(50, 2)
    embedded = CosineAdapter(TOKENIZER, 16, 16)
    found = embedded.restore(3.0 * embedded.target(values), values)
    torch.testing.assert_close(found, values, atol=1e-4, rtol=1e-4)
    assert not embedded.restoring_leaks
    # not by looking: other true values change nothing
    assert torch.equal(found, embedded.restore(3.0 * embedded.target(values), torch.zeros(50, 2)))
    direct = CosineAdapter(TOKENIZER, 16, 2, aim="values")
    torch.testing.assert_close(direct.restore(0.1 * values, values), values)
    assert direct.restoring_leaks


def test_collapse_is_said_and_healthy_training_is_not_stopped() -> None:
    torch.manual_seed(0)
    recipe = skeletonmae({"pose": TOKENIZER}, width=16)
    objective = recipe.objective
    assert isinstance(objective, ReweightedCosine)
    optimiser = torch.optim.Adam(recipe.model.parameters(), 1e-3)
    losses = []
    for index in range(60):
        value = objective(recipe.model, batch_of(clips(4)), Step(index=index))["pose"].value()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        objective.after_step(recipe.model)
        losses.append(value.item())
    assert losses[-1] < 0.7 * losses[0]
    assert float(objective.spread) > 0.01
    # all latents alike: the weights of the last layer vanish, its bias stays
    with torch.no_grad():
        encoder: Any = recipe.model.encoder
        last = encoder.stack.after[-1][0]
        last.weight.zero_()
        last.bias.fill_(1.0)
    objective.check_every = 1
    objective(recipe.model, batch_of(clips(4)), Step())
    with pytest.raises(Collapse, match=r"below 0\.001: they all point one way"):
        objective.after_step(recipe.model)


# --- graph layers ---------------------------------------------------------------------------------


def test_the_quick_prelu_is_torchs_own_in_both_directions() -> None:
    x = torch.randn(500, 700, generator=torch.Generator().manual_seed(0))  # several pieces of it
    seen = []
    for layer in (PReLU(), nn.PReLU()):
        values = x.clone().requires_grad_()
        out = layer(values)
        (out * x.roll(1)).sum().backward()
        seen.append((out, values.grad, layer.weight.grad))
    (ours, ours_x, ours_slope), (theirs, theirs_x, theirs_slope) = seen
    assert torch.equal(ours, theirs)
    assert torch.equal(ours_x, theirs_x)
    torch.testing.assert_close(ours_slope, theirs_slope, rtol=1e-4, atol=0.05)  # of 3.5e5 numbers
    assert PReLU().state_dict().keys() == nn.PReLU().state_dict().keys()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(PReLU()(x), nn.PReLU()(x))


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_a_gin_layer_is_a_plus_identity_times_x_and_equals_torch_geometric(name: str) -> None:
    from torch_geometric.nn import GINConv

    table = topology(name)
    x = torch.randn(3, len(table), 5)
    layer = GraphLayer(table, 5, 5, 5, "gin")
    wanted = (table.adjacency() + torch.eye(len(table))) @ x
    plain = torch.matmul(layer.matrix, x)
    torch.testing.assert_close(plain, wanted)
    theirs = GINConv(nn.Identity())
    for frame in range(3):
        torch.testing.assert_close(theirs(x[frame], table.edges()), wanted[frame])
    whole = GINConv(layer.mlp)(x[0], table.edges())
    torch.testing.assert_close(layer(x)[0], whole)


def test_a_gcn_layer_equals_torch_geometric() -> None:
    from torch_geometric.nn import GCNConv

    layer, theirs = GraphLayer(NTU25, 5, 5, 4, "gcn"), GCNConv(5, 4)
    linear: Any = layer.mlp
    with torch.no_grad():
        theirs.lin.weight.copy_(linear.weight)
        theirs.bias.copy_(linear.bias)
    x = torch.randn(2, 25, 5)
    for frame in range(2):
        ours = layer(x)[frame]
        torch.testing.assert_close(ours, theirs(x[frame], NTU25.edges()), atol=1e-5, rtol=1e-4)


def chain(n: int) -> Topology:
    return Topology(tuple(f"j{i}" for i in range(n)), tuple((i, i + 1) for i in range(n - 1)))


@pytest.mark.parametrize("depth", [1, 3])
def test_a_joint_hears_of_others_within_the_layers_and_of_no_further_ones(depth: int) -> None:
    table = chain(10)
    tokenizer = SkeletonJoints(table, frames=2, dims=2)
    torch.manual_seed(0)
    model = skeletonmae(
        {"pose": tokenizer}, parts=[list(table.parts)], masker=Masker(budget=Ratio(0.5)), width=16,
        depth=depth,
    ).model  # fmt: skip
    data = torch.randn(1, 1, 2, 10, 2)
    tokens = model.tokenize(batch_of(data, tokenizer))
    values = tokens.modalities["pose"].values.requires_grad_()
    hidden = torch.tensor([[0]])  # the end of the chain, in the first frame
    seen = torch.arange(1, 20)[None]
    masking = Masking(seen, hidden, tokens.exists)
    features = model.decode(tokens, model.encode_visible(tokens, masking), masking)
    (gradient,) = torch.autograd.grad(features.square().sum(), values)
    size = gradient[0].abs().sum(dim=-1)
    reach = depth + 1  # the decoder has one layer
    assert (size[1 : reach + 1] > 0).all()
    assert (size[reach + 1 : 10] == 0).all()
    assert (size[10:] == 0).all(), "no frame hears of another"
    assert size[0] == 0, "its own value is hidden"


def test_mirroring_the_body_mirrors_the_answers() -> None:
    torch.manual_seed(0)
    model = skeletonmae({"pose": TOKENIZER}, width=16).model.eval()
    mirror = torch.tensor(COCO17.mirror)
    data = clips(1)

    def answers(clip: Tensor, part: str) -> Tensor:
        tokens = model.tokenize(batch_of(clip))
        masker = part_masker(COCO17, (part,))
        masking = masker(tokens.exists, Step().generators(["0"], "m"), model.context(tokens))
        everywhere = torch.arange(51)[None]
        masking = Masking(masking.ids, everywhere, masking.exists)
        return model.decode(tokens, model.encode_visible(tokens, masking), masking).view(3, 17, -1)

    left = answers(data, "left_arm")
    right = answers(data[:, :, :, mirror], "right_arm")
    torch.testing.assert_close(left[:, mirror], right, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("remask", [False, True])
def test_the_end_of_a_hidden_limb_hears_of_what_is_seen_unless_it_is_remasked(remask: bool) -> None:
    """A wrist's one neighbour, the elbow, is hidden with it: re-masked, it tells nothing."""
    torch.manual_seed(0)
    model = skeletonmae({"pose": TOKENIZER}, width=16, remask=remask).model
    tokens = model.tokenize(batch_of(clips(1)))
    values = tokens.modalities["pose"].values.requires_grad_()
    masker = part_masker(COCO17, ("right_arm",))
    seen = masker(tokens.exists, Step().generators(["0"], "m"), model.context(tokens)).ids
    wrist, shoulder = (COCO17.joints.index(f"right_{name}") for name in ("wrist", "shoulder"))
    masking = Masking(seen, torch.tensor([[wrist]]), tokens.exists)
    features = model.decode(tokens, model.encode_visible(tokens, masking), masking)
    (gradient,) = torch.autograd.grad(features.square().sum(), values)
    assert bool(gradient[0, shoulder].abs().sum() > 0) is not remask


def test_remasked_the_decoder_reads_nothing_of_what_the_encoder_made_of_hidden_joints() -> None:
    torch.manual_seed(0)
    model = skeletonmae({"pose": TOKENIZER}, width=16, depth=1, remask=True).model.eval()
    tokens = model.tokenize(batch_of(clips(1)))
    masker = part_masker(COCO17, ("right_leg",))
    masking = masker(tokens.exists, Step().generators(["0"], "m"), model.context(tokens))
    latents = model.encode_visible(tokens, masking)
    wanted = model.decode(tokens, latents, masking)
    shown = masking.visible[..., None]
    spoilt = latents.tokens + torch.where(shown, 0.0, 5.0)
    again = model.decode(tokens, replace(latents, tokens=spoilt), masking)
    assert torch.equal(wanted, again)
    seen = model.decode(tokens, replace(latents, tokens=latents.tokens + 5.0 * shown), masking)
    assert not torch.allclose(wanted, seen)


def test_the_graph_encoder_refuses_another_skeleton() -> None:
    model = MaskedModel({"pose": TOKENIZER}, GraphEncoder(NTU25, 16), decoder=False)
    with pytest.raises(ValueError, match="a graph of 25 joints needs one that ends in 25"):
        model.encode(batch_of(clips()))


def test_two_modalities_must_share_a_topology() -> None:
    with pytest.raises(ValueError, match="share one topology"):
        skeletonmae({"a": TOKENIZER, "b": SkeletonJoints(NTU25)})


def test_two_cameras_pretrain_together_and_one_may_be_missing() -> None:
    torch.manual_seed(0)
    recipe = skeletonmae({"front": TOKENIZER, "side": TOKENIZER}, width=16)
    data = clips(3)
    samples = [
        {"id": "a", "front": data[0], "side": data[1]},
        {"id": "b", "front": data[2]},
    ]
    batch = collate(samples, recipe.model.tokenizers)
    terms = recipe.objective(recipe.model, batch, Step())
    assert {name: int(term.count) for name, term in terms.items()} == {"front": 6, "side": 3}


# --- torch_geometric ------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["GIN", "GCN", "GAT", "GraphSAGE"])
def test_networks_of_torch_geometric_serve_as_encoders(network: Any) -> None:
    torch.manual_seed(0)
    tokenizer = SkeletonJoints(COCO17, frames=3, dims=2, time_edges=True)
    model = MaskedModel(
        {"pose": tokenizer}, GeometricEncoder(network, 16, 2), decoder_width=16, decoder_depth=1,
        decoder_heads=2,
    )  # fmt: skip
    data = clips(2)
    data[0, 0, 1, 4] = torch.nan
    batch = batch_of(data, tokenizer)
    masker = Masker(budget=Ratio(0.5), ragged=True)
    term = Reconstruction(masker)(model, batch, Step())["pose"]
    term.value().backward()
    assert term.value().isfinite()
    model.eval()
    together = model.encode(batch).mean()
    for row in range(2):
        alone = model.encode(batch_of(data[row : row + 1], tokenizer)).mean()
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)


def test_an_encoder_over_edges_equals_the_lattice_encoder() -> None:
    from torch_geometric.nn import GINConv

    torch.manual_seed(0)
    encoder = GraphEncoder(COCO17, 16, depth=2)
    model = MaskedModel({"pose": TOKENIZER}, encoder, decoder=False).eval()
    convs = [GINConv(layer.mlp) for layer in encoder.stack.layers]  # type: ignore[union-attr]
    batch = batch_of(clips(2))  # only now: GINConv draws the weights that it is given anew
    wanted = model.encode(batch).tokens
    tokens = model.tokenize(batch).modalities["pose"]
    adapter: Any = model.adapter("pose")
    for row, graph in enumerate(graphs(tokens)):
        x = adapter.embed(graph.x, graph.pos)
        x = x + adapter.place(graph.pos, torch.arange(51), tokens.grid)
        for conv, after in zip(convs, encoder.stack.after, strict=True):
            x = after(conv(x, graph.edge_index))
        torch.testing.assert_close(x, wanted[row], atol=1e-5, rtol=1e-4)
