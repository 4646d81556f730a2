"""Our training step of VideoMAE against transformers' VideoMAE: the same sums, paired.

Weights are copied, masks and clips are the same, and the losses must agree to 1e-5 before anything
is timed. A step is forward, backward and optimiser, in fp32. Rounds alternate A B A B in one
process; a ratio above 1 says that ours is faster.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import torch
from torch import Tensor, nn

from multimask.checkpoints.layouts import hf_videomae
from multimask.cli.flags import run
from multimask.masking import Context
from multimask.methods.recipe import Recipe
from multimask.methods.videomae import videomae
from multimask.modalities.video import Tubelets
from multimask.tokens import Batch, Masking, Part, Step, slots_of


@dataclass(frozen=True)
class Case:
    """Sizes of one model: frames, picture, patch (pixels), encoder and decoder (width, depth,
    heads)."""

    frames: int
    size: int
    patch: int
    encoder: tuple[int, int, int]
    decoder: tuple[int, int, int]
    batch: int

    @property
    def tubelets(self) -> Tubelets:
        return Tubelets(self.frames, self.size, self.patch, mean=0.0, std=1.0)


CASES = {
    "tiny-32": Case(8, 32, 8, (96, 4, 3), (48, 2, 3), 8),
    "small-224": Case(16, 224, 16, (384, 12, 6), (192, 4, 3), 2),
    "base-224": Case(16, 224, 16, (768, 12, 12), (384, 4, 6), 2),
}


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Config:
    """Time our VideoMAE against transformers', the same sums on both sides."""

    cases: Annotated[tuple[str, ...], f"which of {', '.join(CASES)}"] = ("small-224",)
    rounds: Annotated[int, "pairs of rounds; medians are over them"] = 7
    steps: Annotated[int, "training steps in a round"] = 2
    batch: Annotated[int, "clips a step; 0 takes the case's own"] = 0
    threads: Annotated[int, "CPU threads; 0 leaves torch's own choice"] = 0
    clock: Annotated[
        Literal["wall", "cpu"], "what is timed; cpu (of all threads) stands noise of other programs"
    ] = "wall"

    def __post_init__(self) -> None:
        unknown = [name for name in self.cases if name not in CASES]
        if unknown:
            raise ValueError(f"no case is named {', '.join(unknown)}; cases are {', '.join(CASES)}")
        if min(self.rounds, self.steps) < 1:
            raise ValueError("rounds and steps must be at least 1")


def main(config: Config) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; ratio = theirs / ours")
    print("case        optimiser          ours s   theirs s   ratio (min - max)")
    for name in config.cases:
        for label, fused in (("theirs at default", False), ("fused on both", True)):
            ours, theirs = timed(CASES[name], fused, config)
            ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
            print(
                f"{name:11s} {label:17s} {statistics.median(ours):7.3f}  "
                f"{statistics.median(theirs):9.3f}   {statistics.median(ratios):.3f} "
                f"({min(ratios):.3f} - {max(ratios):.3f})",
                flush=True,
            )


def timed(case: Case, fused: bool, config: Config) -> tuple[list[float], list[float]]:
    """Seconds a step of each round. Ours has the fused optimiser always: it is our default."""
    torch.manual_seed(0)
    recipe = ours_built(case)
    our_step = ours_step(recipe)
    their_step = theirs_step(theirs_built(case, recipe), fused)
    data = clips_and_masking(case, recipe, config.batch or case.batch)
    first = our_step(*data), their_step(*data)
    difference = abs(first[0] - first[1])
    assert difference < 1e-5, f"not the same sums: losses {first} differ by {difference:.1e}"
    times: tuple[list[float], list[float]] = ([], [])
    clock = CLOCKS[config.clock]
    for _ in range(config.rounds):
        for step, seconds in zip((our_step, their_step), times, strict=True):
            start = clock()
            for _ in range(config.steps):
                step(*data)
            seconds.append((clock() - start) / config.steps)
    return times


Step_ = Callable[[Tensor, Masking], float]


def ours_step(recipe: Recipe) -> Step_:
    optimizer = torch.optim.AdamW(recipe.model.parameters(), lr=1e-4, weight_decay=0.05, fused=True)

    def step(clips: Tensor, masking: Masking) -> float:
        size = len(clips)
        ids = tuple(str(row) for row in range(size))
        batch = Batch(size, ids, {}, {"video": Part(clips, torch.arange(size))}, masking)
        loss = recipe.objective(recipe.model, batch, Step())["video"].value()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def theirs_step(model: nn.Module, fused: bool) -> Step_:
    how: dict[str, Any] = {"fused": True} if fused else {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05, **how)

    def step(clips: Tensor, masking: Masking) -> float:
        loss = model(clips, bool_masked_pos=~masking.visible).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def clips_and_masking(case: Case, recipe: Recipe, batch: int) -> tuple[Tensor, Masking]:
    clips = torch.rand(batch, case.frames, 3, case.size, case.size)
    grid = case.tubelets.grid
    count = case.tubelets.num_tokens
    exists = torch.ones(batch, count, dtype=torch.bool)
    context = Context(slots_of({"video": count}), {"video": grid}, complete=True)
    generators = Step().generators(map(str, range(batch)), "masking")
    return clips, recipe.objective.masker(exists, generators, context)


def ours_built(case: Case) -> Recipe:
    width, depth, heads = case.encoder
    decoder_width, decoder_depth, decoder_heads = case.decoder
    return videomae(
        {"video": case.tubelets},
        width=width,
        depth=depth,
        heads=heads,
        decoder_width=decoder_width,
        decoder_depth=decoder_depth,
        decoder_heads=decoder_heads,
    )


def theirs_built(case: Case, recipe: Recipe) -> nn.Module:
    """Their model with our weights and the official epsilon of 1e-6."""
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    width, depth, heads = case.encoder
    decoder_width, decoder_depth, decoder_heads = case.decoder
    config = VideoMAEConfig(
        image_size=case.size,
        patch_size=case.patch,
        num_frames=case.frames,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        decoder_hidden_size=decoder_width,
        decoder_num_hidden_layers=decoder_depth,
        decoder_num_attention_heads=decoder_heads,
        decoder_intermediate_size=4 * decoder_width,
        layer_norm_eps=1e-6,
        use_mean_pooling=False,
    )
    model = VideoMAEForPreTraining(config)
    model.decoder.norm.eps = 1e-6
    state = cast(dict[str, Tensor], recipe.model.state_dict())
    model.load_state_dict(hf_videomae.to_theirs(state, case.tubelets.box, in_memory=True))
    return model.train()


if __name__ == "__main__":
    raise SystemExit(run(main, Config))
