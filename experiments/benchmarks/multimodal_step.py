"""Training steps over several modalities: ours against plain restatements, and with data missing.

`multimae` (pictures, depth, labels) and `bm-mae` (four contrasts) are timed against modules that
embed everything and then gather, with copied weights and equal maskings; losses must agree to 1e-5
before anything is timed. A step is forward, backward and optimiser, in fp32. Each side has a
process of its own, and their rounds alternate A B A B. "as shipped" is what users of each side
get: ours with the fused optimiser and the allocator setting of our launcher
(`multimask.training.memory`), theirs with torch's own choices; "same for both" gives theirs the two
as well.

`missing` times our own step on complete batches and on batches of which each modality is removed
with chance one half, the number of visible tokens being the same, in one process.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Annotated, Any, Literal

import torch
from bm_mae_plain import PlainBMMAE, load_ours
from multimae_plain import PlainMultiMAE
from paired import resident
from torch import Tensor, nn

from multimask.checkpoints.layouts import multimae as layout
from multimask.cli.flags import run
from multimask.masking import Count
from multimask.methods.bm_mae import bm_mae
from multimask.methods.multimae import multimae
from multimask.methods.recipe import Recipe
from multimask.modalities.depth_maps import DepthMaps
from multimask.modalities.image import ImagePatches
from multimask.modalities.label_maps import LabelMaps
from multimask.modalities.volume import VolumePatches
from multimask.modality import collate
from multimask.packing import with_picks
from multimask.tokens import Batch, Step
from multimask.training.memory import keep_freed_memory

CONTRASTS = ("flair", "t1", "t1ce", "t2")
SIZES = {"base": (768, 12, 12), "small": (384, 12, 6), "tiny": (192, 4, 3)}
Case = Literal["multimae", "bm-mae", "missing"]


@dataclass(frozen=True)
class Config:
    """Time steps over several modalities."""

    cases: Annotated[tuple[str, ...], "of multimae, bm-mae, missing"] = ("multimae",)
    arch: Annotated[Literal["base", "small", "tiny"], "encoder"] = "base"
    image_size: Annotated[int, "pixels, or voxels of bm-mae, a side; 0 takes the paper's"] = 0
    batch: Annotated[int, "samples a step"] = 2
    rounds: Annotated[int, "pairs of rounds; medians are over them"] = 3
    threads: Annotated[int, "CPU threads; 0 leaves torch's own choice"] = 0
    memory: Annotated[Literal["", "complete", "missing"], "only report peak memory of a step"] = ""


def main(config: Config) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.memory:
        recipe, batch, _ = missing(config, config.memory == "missing")
        ours(recipe, batch)()
        print(round(resident("VmHWM")))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {config}")
    for case in config.cases:
        if case == "missing":
            with_and_without(config)
            continue
        for shipped in (True, False):
            with process(case, 0, shipped, config) as mine, process(case, 1, shipped, config) as it:
                first = mine.recv(), it.recv()
                assert abs(first[0] - first[1]) < 1e-5 * max(1, abs(first[0])), f"losses {first}"
                what = "as shipped" if shipped else "same for both"
                show(case, what, config, asking(mine), asking(it))
                for side in (mine, it):
                    side.send(False)


@contextmanager
def process(case: str, side: int, shipped: bool, config: Config) -> Iterator[Connection]:
    """Ours (0) or theirs (1) at work; says its first loss, then takes a step whenever asked."""
    context = get_context("spawn")
    here, there = context.Pipe()
    worker = context.Process(target=serve, args=(there, case, side, shipped, config), daemon=True)
    worker.start()
    there.close()
    yield here
    worker.join()


def serve(pipe: Connection, case: str, side: int, shipped: bool, config: Config) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)
    if side == 0 or not shipped:
        keep_freed_memory()
    pair = {"multimae": multimae_pair, "bm-mae": bm_mae_pair}[case](config, not shipped)
    step = pair[side]
    del pair  # the other side's weights
    pipe.send(step())
    while pipe.recv():
        step()
        pipe.send(True)


def asking(side: Connection) -> Callable[[], Any]:
    def step() -> None:
        side.send(True)
        side.recv()

    return step


def show(case: str, what: str, config: Config, a: Callable[[], Any], b: Callable[[], Any]) -> None:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(config.rounds):
        for step, seconds in zip((a, b), times, strict=True):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
    ratios = [y / x for x, y in zip(*times, strict=True)]
    mine, theirs = (statistics.median(seconds) for seconds in times)
    ratio = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} - {max(ratios):.3f})"
    print(f"{case:9s} {what:18s} {mine:7.3f} s {theirs:7.3f} s  ratio {ratio}", flush=True)


def ours(recipe: Recipe, batch: Batch) -> Callable[[], float]:
    parameters = [*recipe.model.parameters(), *recipe.objective.parameters()]
    optimizer = torch.optim.AdamW(parameters, 1e-4, fused=True)

    def step() -> float:
        terms = recipe.objective(recipe.model, batch, Step())
        loss = torch.stack([term.value() for term in terms.values()]).sum()
        return stepped(loss, optimizer)

    return step


def plain(
    model: nn.Module, maps: dict[str, Tensor], visible: Tensor, fused: bool
) -> Callable[[], float]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 1e-4, fused=True if fused else None)
    return lambda: stepped(torch.stack(list(model(maps, visible).values())).sum(), optimizer)


def stepped(loss: Tensor, optimizer: torch.optim.Optimizer) -> float:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def drawn(recipe: Recipe, batch: Batch) -> Batch:
    """The batch with its masking, as the loader hands it over."""
    model = recipe.model
    tokens = model.tokenize(batch)
    generators = Step().generators(batch.sample_ids, "masking")
    masking = recipe.objective.masker(tokens.exists, generators, model.context(tokens))
    rows = {name: part.rows for name, part in tokens.modalities.items()}
    masking = with_picks(masking, model.slots, rows, model.num_tokens)
    return replace(batch, masking=masking)


# --- MultiMAE -------------------------------------------------------------------------------------


def multimae_recipe(config: Config) -> Recipe:
    size = config.image_size or 224
    tokenizers: Any = {
        "rgb": ImagePatches(size, 16),
        "depth": DepthMaps(size, 16),
        "semseg": LabelMaps(133, size, 16, stride=4),
    }
    torch.manual_seed(0)
    width, depth, heads = SIZES[config.arch]
    return multimae(tokenizers, width=width, depth=depth, heads=heads, normed=())


def maps_of(config: Config, row: int) -> dict[str, Tensor]:
    size = config.image_size or 224
    torch.manual_seed(row)
    labels = torch.randint(0, 133, (size // 4, size // 4))
    return {
        "rgb": torch.rand(3, size, size),
        "depth": torch.rand(size, size) + 1,
        "semseg": labels.repeat_interleave(4, 0).repeat_interleave(4, 1),
    }


def multimae_pair(config: Config, fused: bool) -> tuple[Callable[[], float], Callable[[], float]]:
    size, recipe = config.image_size or 224, multimae_recipe(config)
    samples: Any = [{"id": str(r), **maps_of(config, r)} for r in range(config.batch)]
    batch = drawn(recipe, collate(samples, recipe.model.tokenizers))
    inputs = {"depth": 1, "rgb": 3, "semseg": -133}
    theirs = PlainMultiMAE(inputs, size, 16, 4, SIZES[config.arch], (256, 2, 8))
    theirs.load_state_dict(layout.to_theirs(dict(recipe.model.state_dict())))
    depth: Any = recipe.model.tokenizers["depth"]
    maps = {
        "rgb": (batch.parts["rgb"].data - 0.5) / 0.5,
        "depth": depth.standardised(batch.parts["depth"].data)[:, None],
        "semseg": batch.parts["semseg"].data[:, 2::4, 2::4],
    }
    assert batch.masking is not None
    return ours(recipe, batch), plain(theirs, maps, batch.masking.visible, fused)


# --- BM-MAE ---------------------------------------------------------------------------------------


def bm_mae_pair(config: Config, fused: bool) -> tuple[Callable[[], float], Callable[[], float]]:
    size = config.image_size or 128
    tokenizers: Any = {name: VolumePatches(size, 16) for name in CONTRASTS}
    width, depth, heads = SIZES[config.arch]
    torch.manual_seed(0)
    recipe = bm_mae(tokenizers, width=width, depth=depth, heads=heads, mlp=2 * width)
    for name in CONTRASTS[1:]:  # theirs has one head for all
        head: Any = recipe.model.adapters[name]
        first: Any = recipe.model.adapters[CONTRASTS[0]]
        head.pred.load_state_dict(first.pred.state_dict())
    samples: Any = [
        {"id": str(r), **{n: torch.randn(1, size, size, size) for n in CONTRASTS}}
        for r in range(config.batch)
    ]
    batch = drawn(recipe, collate(samples, recipe.model.tokenizers))
    sizes = (width, depth, heads, 2 * width)
    theirs = PlainBMMAE(CONTRASTS, size, 16, sizes, (384, 3, 12, 1536))
    load_ours(theirs, recipe.model)
    scans = {name: batch.parts[name].data["data"] for name in CONTRASTS}
    assert batch.masking is not None
    return ours(recipe, batch), plain(theirs, scans, batch.masking.visible, fused)


# --- half of the modalities missing ---------------------------------------------------------------


def missing(config: Config, half: bool) -> tuple[Recipe, Batch, float]:
    """Recipe, batch and the share of decoded slots that hold nothing. Both ways as many tokens are
    visible as a sample of one modality allows."""
    recipe = multimae_recipe(config)
    total = sum(recipe.model.num_tokens.values())
    one = min(recipe.model.num_tokens.values())
    budget: Any = recipe.objective.masker.budget
    counts = Count(min(total // 6, int(0.75 * one)), total)
    recipe.objective.masker = replace(recipe.objective.masker, budget=replace(budget, of=counts))
    torch.manual_seed(1)
    samples: Any = []
    for row in range(config.batch):
        stays = torch.rand(3) < 0.5 if half else torch.ones(3, dtype=torch.bool)
        if not stays.any():
            stays[row % 3] = True
        maps = maps_of(config, row)
        kept = {n: maps[n] for n, here in zip(maps, stays.tolist(), strict=True) if here}
        samples.append({"id": str(row), **kept})
    batch = drawn(recipe, collate(samples, recipe.model.tokenizers))
    assert batch.masking is not None
    there = batch.masking.exists.gather(1, batch.masking.decoded_ids)
    return recipe, batch, 1 - float(there.double().mean())


def with_and_without(config: Config) -> None:
    complete, lacking = missing(config, False), missing(config, True)
    visible = [
        int(made[1].masking.visible.sum()) for made in (complete, lacking) if made[1].masking
    ]
    print(f"missing   visible tokens a step {visible[0]} and {visible[1]}, "
          f"decoder's filler share {complete[2]:.1%} and {lacking[2]:.1%}")  # fmt: skip
    steps = ours(*complete[:2]), ours(*lacking[:2])
    for step in steps:
        step()
    show("missing", "half : complete", config, steps[1], steps[0])
    peaks = {}
    for which in ("complete", "missing"):
        words = ["--memory", which, "--arch", config.arch, "--batch", str(config.batch)]
        words += ["--image-size", str(config.image_size)]
        command = [sys.executable, __file__, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[which] = int(done.stdout)
    print(f"missing   peak memory of a process, MiB: {peaks}")


if __name__ == "__main__":
    raise SystemExit(run(main, Config))
