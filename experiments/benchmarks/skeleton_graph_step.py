"""Our SkeletonMAE step against the same network through torch_geometric's `Data` batching, paired.

Theirs is how graph code is usually written: one `Data` a clip (all frames, bones repeated), batched
into one large graph, `GINConv` gathering and scattering along every edge, torch's own PReLU. Ours
keeps the lattice: all frames share one matrix of joints, and PReLU has a quicker backward pass
(`--theirs-quick-prelu` gives it to theirs too). Weights are copied, clips and hidden parts are the
same, and losses must agree to 1e-5 before anything is timed. A step is putting samples side by
side, forward, backward and fused Adam, fp32. Rounds alternate A B A B; a ratio above 1 says that
ours is faster. Each side has a process of its own; ours keeps freed memory, as all our training
does (see `training/memory.py`), theirs runs as torch comes, or keeps it too with
`--theirs-keeps-memory`.

Reading is timed beside: NPY files of as many clips, cropped, centred and turned, by one process.
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multimask.cli.flags import run
from multimask.datasets.formats.skeletons import SkeletonReader
from multimask.datasets.table import Table
from multimask.methods.recipe import Recipe
from multimask.methods.skeletonmae import skeletonmae
from multimask.modalities.prelu import PReLU
from multimask.modalities.skeleton import SkeletonJoints
from multimask.modalities.skeleton_geometric import graphs
from multimask.modalities.skeleton_topologies import NTU25
from multimask.modality import collate
from multimask.tokens import Part, Sample, Step
from multimask.training.memory import keep_freed_memory

Side = Literal["ours", "theirs"]


@dataclass(frozen=True)
class Config:
    """Time our graph step against per-sample Data batching of the same network."""

    batch: Annotated[int, "clips a step"] = 256
    frames: Annotated[int, "frames of a clip, 25 joints each"] = 64
    width: Annotated[int, "of a joint's state"] = 64
    rounds: Annotated[int, "pairs of rounds; medians are over them"] = 5
    steps: Annotated[int, "steps in a round"] = 1
    threads: Annotated[int, "CPU threads; 0 leaves torch's own choice"] = 1
    theirs_keeps_memory: Annotated[bool, "their process too keeps freed memory"] = False
    theirs_quick_prelu: Annotated[bool, "their network too has our PReLU"] = False

    def __post_init__(self) -> None:
        if min(self.batch, self.frames, self.width, self.rounds, self.steps) < 1:
            raise ValueError("batch, frames, width, rounds and steps must be at least 1")


def main(config: Config) -> None:
    with process("ours", config) as ours, process("theirs", config) as theirs:
        first = asked(ours), asked(theirs)
        difference = abs(first[0][1] - first[1][1])
        assert difference < 1e-5, f"not the same sums: losses {first} differ by {difference:.1e}"
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(config.rounds):
            for side, seconds in zip((ours, theirs), times, strict=True):
                seconds.append(statistics.mean(asked(side)[0] for _ in range(config.steps)))
    ratios = [b / a for a, b in zip(*times, strict=True)]
    print(
        f"torch {torch.__version__}, {config.threads or torch.get_num_threads()} threads, "
        f"{config.batch} clips x {config.frames} frames x 25 joints, width {config.width}\n"
        f"first loss {first[0][1]:.6f} and {first[1][1]:.6f}\n"
        f"ours {statistics.median(times[0]):.3f} s, theirs {statistics.median(times[1]):.3f} s, "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
    )
    seconds, step = reading(config), statistics.median(times[0])
    print(
        f"reading {config.batch} clips {seconds:.3f} s, {seconds / step:.1%} of our step: what "
        "training waits with --workers 0; with one worker it is done meanwhile"
    )


def reading(config: Config) -> float:
    """Seconds in which one process reads a batch from files, augmented as for training."""
    tokenizer = SkeletonJoints(NTU25, frames=config.frames)
    reader = SkeletonReader.fitted(tokenizer, augment=True)
    with TemporaryDirectory() as folder:
        clips = np.random.default_rng(0).normal(size=(config.batch, 100, 25, 3))
        for row, clip in enumerate(clips.astype(np.float32)):
            np.save(f"{folder}/{row}.npy", clip)
        table = Table.from_folder(folder, "pose", reader)
        took = []
        for epoch in range(3):
            start = time.perf_counter()
            for row in range(len(table)):
                table.draw(row, torch.Generator().manual_seed(epoch))
            took.append(time.perf_counter() - start)
    return statistics.median(took)


@contextmanager
def process(side: Side, config: Config) -> Iterator[Connection]:
    """A process of its own for each side, since how the allocator is set belongs to one."""
    context = get_context("spawn")
    here, there = context.Pipe()
    worker = context.Process(target=serve, args=(there, side, config), daemon=True)
    worker.start()
    try:
        yield here
    finally:
        here.close()
        worker.join(timeout=10)
        worker.kill()


def asked(side: Connection) -> tuple[float, float]:
    """Seconds and loss of one step."""
    side.send("step")
    return side.recv()


def serve(pipe: Connection, side: Side, config: Config) -> None:
    if side == "ours" or config.theirs_keeps_memory:
        keep_freed_memory()  # as `multimask pretrain` and the experiments do
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    tokenizer = SkeletonJoints(NTU25, frames=config.frames)
    recipe = skeletonmae({"pose": tokenizer}, width=config.width)
    clips = torch.randn(config.batch, 1, config.frames, 25, 3)
    if side == "ours":
        step = ours_step(recipe, [{"id": str(row), "pose": clip} for row, clip in enumerate(clips)])
    else:
        step = theirs_step(recipe, tokenizer, clips, config.theirs_quick_prelu)
    while True:
        try:
            pipe.recv()
        except EOFError:  # all has been asked
            return
        start = time.perf_counter()
        loss = step()
        pipe.send((time.perf_counter() - start, loss))


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


def theirs_step(
    recipe: Recipe, tokenizer: SkeletonJoints, clips: Tensor, quick_prelu: bool
) -> Callable[[], float]:
    from torch_geometric.data import Batch

    network = Theirs(recipe)
    if not quick_prelu:
        use_torch_prelu(network)
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
        x = self.embed(x)
        for conv in self.decoder:
            x = conv(x, graph.edge_index)
        error = 1 - F.cosine_similarity(x[graph.hidden], target, dim=-1)
        # frames hide equally many joints, so the sum over joints of (e / n) ** 2, averaged over
        # frames, is this
        return error.square().mean() / hidden_joints


def use_torch_prelu(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, PReLU):
            theirs = nn.PReLU()
            theirs.load_state_dict(child.state_dict())
            setattr(module, name, theirs)
        else:
            use_torch_prelu(child)


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
