"""Our training step of VideoMAE against transformers' VideoMAE: the same sums, paired.

Weights are copied, masks and clips are the same, and the losses must agree to 1e-5 before anything
is timed. A step is forward, backward and optimiser, in fp32. Each side has a process of its own,
and their rounds alternate A B A B; a ratio above 1 says that ours is faster.

"as shipped" is what users of each side get: ours with the fused optimiser and the allocator
setting of our launcher (`multimask.training.memory`), theirs with torch's own choices. "same for
both" gives theirs the fused optimiser and the allocator setting, too.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
from paired import Side, Step, timed  # beside this file
from torch import Tensor, nn

from multimask import tokens
from multimask.checkpoints.layouts import hf_videomae
from multimask.cli.flags import run
from multimask.masking import Context
from multimask.methods.recipe import Recipe
from multimask.methods.videomae import videomae
from multimask.modalities.video import Tubelets
from multimask.tokens import Batch, Masking, Part, slots_of


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


@dataclass(frozen=True)
class Config:
    """Time our VideoMAE against transformers', the same sums on both sides."""

    cases: Annotated[tuple[str, ...], f"which of {', '.join(CASES)}"] = ("small-224",)
    rounds: Annotated[int, "pairs of rounds; medians are over them"] = 7
    steps: Annotated[int, "training steps in a round"] = 2
    batch: Annotated[int, "clips a step; 0 takes the case's own"] = 0
    threads: Annotated[int, "CPU threads; 0 leaves torch's own choice"] = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.cases if name not in CASES]
        if unknown:
            raise ValueError(f"no case is named {', '.join(unknown)}; cases are {', '.join(CASES)}")
        if min(self.rounds, self.steps) < 1:
            raise ValueError("rounds and steps must be at least 1")


def main(config: Config) -> None:
    threads = config.threads or torch.get_num_threads()
    print(f"torch {torch.__version__}, {threads} threads; ratio = theirs / ours")
    print("case        compared        ours s   theirs s   ratio (min - max)       peak MiB above")
    for name in config.cases:
        case = CASES[name]
        batch = config.batch or case.batch
        for label, shipped in (("as shipped", True), ("same for both", False)):
            sides = [
                Side(built, ("ours", case, batch, True), keep=True),
                Side(built, ("theirs", case, batch, not shipped), keep=not shipped),
            ]
            ours, theirs = timed(sides, config.rounds, config.steps, config.threads)
            ratios = [b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True)]
            print(
                f"{name:11s} {label:14s} {statistics.median(ours.seconds):7.3f}  "
                f"{statistics.median(theirs.seconds):9.3f}   {statistics.median(ratios):.3f} "
                f"({min(ratios):.3f} - {max(ratios):.3f})   {ours.peak:.0f} / {theirs.peak:.0f}",
                flush=True,
            )


def built(side: Literal["ours", "theirs"], case: Case, batch: int, fused: bool) -> Step:
    """A step of one side over its own copy of the same clips."""
    torch.manual_seed(0)
    recipe = ours_built(case)
    clips, masking = clips_and_masking(case, recipe, batch)
    model = recipe.model if side == "ours" else theirs_built(case, recipe)
    # None is what users of torch get: it chooses
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, weight_decay=0.05, fused=True if fused else None
    )
    loss_of = (
        ours_loss(recipe, clips, masking) if side == "ours" else theirs_loss(model, clips, masking)
    )

    def step() -> float:
        loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def ours_loss(recipe: Recipe, clips: Tensor, masking: Masking) -> Callable[[], Tensor]:
    size = len(clips)
    ids = tuple(str(row) for row in range(size))
    batch = Batch(size, ids, {}, {"video": Part(clips, torch.arange(size))}, masking)
    return lambda: recipe.objective(recipe.model, batch, tokens.Step())["video"].value()


def theirs_loss(model: nn.Module, clips: Tensor, masking: Masking) -> Callable[[], Tensor]:
    hidden = ~masking.visible
    return lambda: model(clips, bool_masked_pos=hidden).loss


def clips_and_masking(case: Case, recipe: Recipe, batch: int) -> tuple[Tensor, Masking]:
    clips = torch.rand(batch, case.frames, 3, case.size, case.size)
    grid = case.tubelets.grid
    count = case.tubelets.num_tokens
    exists = torch.ones(batch, count, dtype=torch.bool)
    context = Context(slots_of({"video": count}), {"video": grid}, complete=True)
    generators = tokens.Step().generators(map(str, range(batch)), "masking")
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
