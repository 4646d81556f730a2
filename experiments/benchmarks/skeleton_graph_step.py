"""Our SkeletonMAE step against the same network through torch_geometric's `Data` batching, paired.

Theirs is how graph code is usually written: one `Data` a clip (all frames, bones repeated), batched
into one large graph, `GINConv` gathering and scattering along every edge. Ours keeps the lattice:
all frames share one matrix of joints. Weights are copied, clips and hidden parts are the same, and
losses must agree to 1e-5 before anything is timed. A step is putting samples side by side, forward,
backward and fused Adam, fp32. Rounds alternate A B A B; a ratio above 1 says that ours is faster.
"""

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multimask.cli.flags import run
from multimask.methods.recipe import Recipe
from multimask.methods.skeletonmae import skeletonmae
from multimask.modalities.skeleton import SkeletonJoints
from multimask.modalities.skeleton_geometric import graphs
from multimask.modalities.skeleton_topologies import NTU25
from multimask.modality import collate
from multimask.tokens import Part, Sample, Step


@dataclass(frozen=True)
class Config:
    """Time our graph step against per-sample Data batching of the same network."""

    batch: Annotated[int, "clips a step"] = 256
    frames: Annotated[int, "frames of a clip, 25 joints each"] = 64
    width: Annotated[int, "of a joint's state"] = 64
    rounds: Annotated[int, "pairs of rounds; medians are over them"] = 5
    steps: Annotated[int, "steps in a round"] = 1
    threads: Annotated[int, "CPU threads; 0 leaves torch's own choice"] = 1

    def __post_init__(self) -> None:
        if min(self.batch, self.frames, self.width, self.rounds, self.steps) < 1:
            raise ValueError("batch, frames, width, rounds and steps must be at least 1")


def main(config: Config) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    tokenizer = SkeletonJoints(NTU25, frames=config.frames)
    recipe = skeletonmae({"pose": tokenizer}, width=config.width)
    clips = torch.randn(config.batch, 1, config.frames, 25, 3)
    ours = ours_step(recipe, [{"id": str(row), "pose": clip} for row, clip in enumerate(clips)])
    theirs = theirs_step(recipe, tokenizer, clips)
    first = ours(), theirs()
    difference = abs(first[0] - first[1])
    assert difference < 1e-5, f"not the same sums: losses {first} differ by {difference:.1e}"
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(config.rounds):
        for step, seconds in zip((ours, theirs), times, strict=True):
            start = time.perf_counter()
            for _ in range(config.steps):
                step()
            seconds.append((time.perf_counter() - start) / config.steps)
    ratios = [b / a for a, b in zip(*times, strict=True)]
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{config.batch} clips x {config.frames} frames x 25 joints, width {config.width}\n"
        f"first loss {first[0]:.6f} and {first[1]:.6f}\n"
        f"ours {statistics.median(times[0]):.3f} s, theirs {statistics.median(times[1]):.3f} s, "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
    )


def ours_step(recipe: Recipe, samples: list[Sample]) -> Callable[[], float]:
    model, objective = recipe.model, recipe.objective
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def step() -> float:
        batch = collate(samples, model.tokenizers)
        loss = objective(model, batch, Step())["pose"].value()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def theirs_step(recipe: Recipe, tokenizer: SkeletonJoints, clips: Tensor) -> Callable[[], float]:
    from torch_geometric.data import Batch

    network = Theirs(recipe)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=True)
    made = graphs(tokenizer(Part(clips, torch.arange(len(clips)))))
    hidden = torch.zeros(25, dtype=torch.bool)
    hidden[[joint for name in ("right_arm", "right_leg") for joint in NTU25.parts[name]]] = True
    for graph in made:
        graph.hidden = hidden.repeat(tokenizer.num_tokens // 25)

    def step() -> float:
        loss = network(Batch.from_data_list([*made]), int(hidden.sum()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


class Theirs(nn.Module):
    """The recipe's network over one large graph, its weights copied."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        model: Any = copy.deepcopy(recipe.model)
        self.proj, self.mask_token = model.adapters["pose"].proj, model.encoder.mask_token
        self.convs, self.after = convolutions(model.encoder.stack), model.encoder.stack.after
        self.embed, self.decoder = model.decoder.embed, convolutions(model.decoder.stack)

    def forward(self, graph: Any, hidden_joints: int) -> Tensor:
        embedded = self.proj(graph.x)
        target = embedded.detach()[graph.hidden]
        x = torch.where(graph.hidden[:, None], self.mask_token, embedded)
        for conv, after in zip(self.convs, self.after, strict=True):
            x = after(conv(x, graph.edge_index))
        x = self.embed(x) * ~graph.hidden[:, None]
        for conv in self.decoder:
            x = conv(x, graph.edge_index)
        error = 1 - F.cosine_similarity(x[graph.hidden], target, dim=-1)
        # frames hide equally many joints, so the sum over joints of (e / n) ** 2, averaged over
        # frames, is this
        return error.square().mean() / hidden_joints


def convolutions(stack: Any) -> nn.ModuleList:
    from torch_geometric.nn import GINConv

    made = nn.ModuleList()
    for layer in stack.layers:
        mlp = copy.deepcopy(layer.mlp)
        made.append(GINConv(mlp))
        mlp.load_state_dict(layer.mlp.state_dict())  # GINConv draws new ones when built
    return made


if __name__ == "__main__":
    raise SystemExit(run(main, Config))
