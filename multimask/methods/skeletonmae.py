"""SkeletonMAE: graph-based masked autoencoder (Yan et al., ICCV 2023), masked joints on a graph.

Differs from MAE: every frame is a graph of joints; hidden are whole body parts, which stay in the
graph as a learned token; three GIN layers encode, one decodes; the target is the joint's own linear
embedding (detached here: the paper does not say, and without it the embeddings may collapse); the
loss is a re-weighted cosine error per frame. No official code exists; what the paper leaves open
follows its stated ancestor GraphMAE (Hou et al., KDD 2022), but for re-masking.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from multimask.masking import Masker
from multimask.methods.recipe import Recipe
from multimask.modality import Tokenizer
from multimask.model import MaskedModel
from multimask.objectives import Objective
from multimask.plugins import load
from multimask.tokens import Batch, Latents, Step, Term, TokenBatch

# Adam 1.5e-4, batch 1024, 50 epochs; weight decay and schedule are not given in the paper
TRAINING = {"lr": 1.5e-4, "betas": (0.9, 0.999), "weight_decay": 0.0, "warmup": 0.0}


def skeletonmae(
    modalities: Mapping[str, Tokenizer],
    *,
    parts: Sequence[Sequence[str]] | None = None,
    masker: Masker | None = None,
    beta: float = 2.0,
    width: int = 64,
    hidden: int | None = None,
    depth: int = 3,
    decoder_depth: int = 1,
    conv: str = "gin",
    aim: str = "embedded",
    position: type | None = None,
    remask: bool = False,
) -> Recipe:
    """Build SkeletonMAE over ready tokenizers that share one topology, with the paper's defaults.

    Args:
        parts: sets of body parts, of equal size; every sample hides one of them. By default the
            one set of all that lies on the right, right arm and right leg: the paper's best.
            masker: any other masker, then `parts` is not used.
        beta: power of the cosine error.
        width: D of the joint embeddings and D_h of the graph layers (the paper gives the first,
            64). hidden: of the layers' MLP. conv: "gin", or "gcn" of the paper's ablation.
        aim, position: see the part "cosine".
        remask: set codes of hidden joints to zero before the decoder, as GraphMAE does and this
            paper does not say. One decoding layer then tells nothing to a joint whose neighbours
            are all hidden, as the end of a hidden limb is.
    """
    topologies = {id(topology): topology for topology in map(topology_of, modalities.values())}
    topology = next(iter(topologies.values()), None)
    if topology is None or any(other != topology for other in topologies.values()):
        raise ValueError("skeletonmae: all modalities must share one topology, at least one.")
    encoder = load("parts", "graph")(topology, width, depth, hidden, conv)
    decoder = load("parts", "graph-decoder")(
        topology, width, width, decoder_depth, hidden, conv, remask
    )
    adapters = {
        name: load("parts", "cosine")(tokenizer, width, width, aim, position)
        for name, tokenizer in modalities.items()
    }
    model = MaskedModel(modalities, encoder, decoder, adapters)
    chosen = masker or part_masker(topology, parts)
    return Recipe(model, ReweightedCosine(chosen, beta), TRAINING)


def part_masker(topology: Any, parts: Sequence[Sequence[str]] | None) -> Masker:
    if parts is None and not topology.right_parts:
        raise ValueError(
            "skeletonmae: no body part of this skeleton is known to be on the right; name what to "
            f"hide, parts=[...] of {', '.join(topology.parts)}, or give a masker."
        )
    chosen = (topology.right_parts,) if parts is None else parts
    return load("parts", "part-masker")(topology, *chosen)


def topology_of(tokenizer: Tokenizer) -> Any:
    topology = getattr(tokenizer, "topology", None)
    if topology is None:
        raise ValueError(f"skeletonmae: {type(tokenizer).__name__} has no topology of joints.")
    return topology


class Collapse(RuntimeError):
    """All latents point the same way: nothing more will be learnt."""


class ReweightedCosine(Objective):
    """Per graph with n scored nodes `sum of (error / n) ** beta`, averaged over graphs.

    The error is the adapter's (`judged`), `1 - cos`; nodes whose target has no direction are not
    scored. A graph is a run of nodes along the last axis of the lattice: a body's frame. For beta =
    2 this is the mean of squared errors over n.

    `after_step` asserts that latents differ: their spread (the standard deviation of unit vectors
    over the batch, 0 when all are parallel) is looked at every `check_every` steps.

    Raises: Collapse when the spread is below `least_spread`.
    """

    spread: Tensor

    def __init__(
        self,
        masker: Masker,
        beta: float = 2.0,
        least_spread: float = 1e-3,
        check_every: int = 20,
    ) -> None:
        super().__init__()
        if beta <= 0 or check_every < 1:
            raise ValueError(
                f"ReweightedCosine: beta={beta} and check_every={check_every} must be positive."
            )
        self.masker, self.beta = masker, beta
        self.least_spread, self.check_every, self.steps = least_spread, check_every, 0
        self.register_buffer("spread", torch.ones(()), persistent=False)

    def forward(self, model: MaskedModel, batch: Batch, step: Step) -> dict[str, Term]:
        tokens = model.tokenize(batch)
        masking = model.picked(tokens, self.masking(model, tokens, batch, step))
        latents = model.encode_visible(tokens, masking)
        if (self.steps + 1) % self.check_every == 0:  # `after_step` will look at it
            self.spread = spread_of(latents)
        features = model.decode(tokens, latents, masking)
        asked = masking.asked.flatten()
        slots = masking.decoded_ids.flatten()
        num_decoded = max(masking.decoded_ids.shape[1], 1)
        terms = {}
        for name, (prediction, values, at) in model.predict(tokens, features, masking).items():
            adapter: Any = model.adapter(name)
            error, directed = adapter.judged(prediction, values)
            scored = asked.index_select(0, at) & directed
            nodes, graphs = graph_size(tokens, name)
            place = (slots.index_select(0, at) - model.slots[name].start) // nodes
            graph = (at // num_decoded) * graphs + place
            terms[name] = reweighted(error, scored, graph, batch.size * graphs, self.beta)
        return terms

    def after_step(self, model: MaskedModel) -> None:
        self.steps += 1
        if self.steps % self.check_every:
            return
        spread = float(self.spread)
        if not spread >= self.least_spread:  # also when it is NaN
            raise Collapse(
                f"SkeletonMAE: after {self.steps} steps the latents' spread is {spread:.2g}, below "
                f"{self.least_spread:g}: they all point one way (collapse). Lower the learning "
                "rate, hide fewer joints, or use aim='values'."
            )


def reweighted(error: Tensor, scored: Tensor, graph: Tensor, graphs: int, beta: float) -> Term:
    """RCE: total over graphs, and how many graphs have a scored node."""
    size = error.new_zeros(graphs).index_add(0, graph, scored.to(error.dtype))
    shares = error / size.index_select(0, graph).clamp(min=1)
    total = (shares.clamp(min=0) ** beta * scored).sum()  # rounding may go below 0
    return Term(total, (size > 0).sum().to(error.dtype))


def graph_size(tokens: TokenBatch, name: str) -> tuple[int, int]:
    """Nodes a graph and graphs a sample."""
    slots = len(tokens.slots[name])
    part = tokens.modalities.get(name)
    nodes = slots if part is None or part.grid is None else part.grid[-1]
    return nodes, -(-slots // nodes)


@torch.no_grad()
def spread_of(latents: Latents) -> Tensor:
    """Standard deviation of unit latents over all tokens, over its value for directions spread
    evenly: 1 for those, 0 when all are parallel."""
    unit = F.normalize(latents.tokens.flatten(0, 1).float(), dim=-1)
    if latents.valid is not None:
        weight = latents.valid.flatten().to(unit.dtype)[:, None]
        mean = (unit * weight).sum(dim=0) / weight.sum().clamp(min=1)
    else:
        mean = unit.mean(dim=0)
    return (1 - mean.square().sum()).clamp(min=0).sqrt()
