"""Our training step of 3-D MAE against MONAI's MaskedAutoEncoderViT: the same sums, paired.

96^3 voxels x 4 stacked channels by default. Weights are copied, kept tokens are the same, and the
losses (mean squared error over hidden patches; MONAI's class brings none) must agree to 1e-5 before
anything is timed. A step is forward, backward and optimiser, in fp32. Rounds alternate A B A B in
one process; a ratio above 1 says that ours is faster.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from einops import rearrange
from torch import Tensor

from multimask.checkpoints.layouts import monai_mae as layout
from multimask.cli.flags import run
from multimask.methods.monai_mae import monai_mae
from multimask.methods.recipe import Recipe
from multimask.modalities.volume import VolumePatches
from multimask.tokens import Batch, Masking, Part, Step


@dataclass(frozen=True)
class Config:
    """Time our 3-D MAE against MONAI's, the same sums on both sides."""

    image_size: Annotated[int, "voxels a side"] = 96
    patch: Annotated[int, "voxels a side of a patch"] = 16
    channels: Annotated[int, "stacked contrasts"] = 4
    width: Annotated[int, "encoder width; 768 is MONAI's default"] = 768
    depth: Annotated[int, "encoder depth; 12 is MONAI's default"] = 12
    batch: Annotated[int, "volumes a step"] = 1
    rounds: Annotated[int, "pairs of rounds; medians are over them"] = 5
    steps: Annotated[int, "training steps in a round"] = 1
    threads: Annotated[int, "CPU threads; 0 leaves torch's own choice"] = 0
    device: Annotated[str, "cpu or cuda"] = "cpu"


def main(config: Config) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {config.device}")
    print("optimiser            ours s   theirs s   ratio theirs / ours (min - max)")
    for label, fused in (("theirs at default", False), ("fused on both", True)):
        ours, theirs = timed(config, fused)
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        print(
            f"{label:18s} {statistics.median(ours):8.3f}  {statistics.median(theirs):9.3f}   "
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f} - {max(ratios):.3f})",
            flush=True,
        )


def timed(config: Config, fused: bool) -> tuple[list[float], list[float]]:
    """Seconds a step of each round. Ours has the fused optimiser always: it is our default."""
    our_step, their_step, data = both(config, fused)
    first = our_step(*data), their_step(*data)
    difference = abs(first[0] - first[1])
    assert difference < 1e-5, f"not the same sums: losses {first} differ by {difference:.1e}"
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(config.rounds):
        for step, seconds in zip((our_step, their_step), times, strict=True):
            start = time.perf_counter()
            for _ in range(config.steps):
                step(*data)  # ends by reading the loss, which waits for the device
            seconds.append((time.perf_counter() - start) / config.steps)
    return times


Step_ = Callable[[Tensor, Tensor], float]


def both(config: Config, fused: bool) -> tuple[Step_, Step_, tuple[Tensor, Tensor]]:
    from monai.networks.nets.masked_autoencoder_vit import MaskedAutoEncoderViT

    torch.manual_seed(0)
    size, patch, device = config.image_size, config.patch, torch.device(config.device)
    theirs = MaskedAutoEncoderViT(
        config.channels, size, patch, config.width, num_layers=config.depth
    )
    theirs = theirs.to(device)
    tokenizer = VolumePatches(size, patch, config.channels)
    recipe = monai_mae({"scan": tokenizer}, width=config.width, depth=config.depth)
    recipe.model.load_state_dict(layout.to_ours(theirs.state_dict(), axes="zyx"))
    recipe.model.to(device)
    tokens = tokenizer.num_tokens
    data = torch.randn(config.batch, config.channels, size, size, size, device=device)
    order = torch.stack([torch.randperm(tokens) for _ in range(config.batch)]).to(device)
    return ours_step(recipe), theirs_step(theirs, patch, fused), (data, order)


def ours_step(recipe: Recipe) -> Step_:
    optimizer = torch.optim.AdamW(recipe.model.parameters(), 1e-4, fused=True)

    def step(data: Tensor, order: Tensor) -> float:
        size, tokens = order.shape
        kept = tokens // 4
        exists = torch.ones_like(order, dtype=torch.bool)
        masking = Masking(order[:, :kept], order[:, kept:], exists)
        parts = {"scan": Part({"data": data}, torch.arange(size, device=data.device))}
        batch = Batch(size, tuple(map(str, range(size))), {}, parts, masking)
        loss = recipe.objective(recipe.model, batch, Step())["scan"].value()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def theirs_step(model: Any, patch: int, fused: bool) -> Step_:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 1e-4, fused=True if fused else None)

    def step(data: Tensor, order: Tensor) -> float:
        kept = order[:, : order.shape[1] // 4]
        rows = torch.arange(len(order), device=order.device)[:, None]

        def masking(x: Tensor, masking_ratio: float | None = None) -> tuple[Tensor, Tensor, Tensor]:
            hidden = torch.ones(x.shape[:2], dtype=torch.int, device=x.device)
            return x[rows, kept], kept, hidden.scatter(1, kept, 0)

        model._masking = masking
        answers, hidden = model(data)
        wanted = rearrange(
            data, "b c (z p) (y q) (x r) -> b (z y x) (p q r c)", p=patch, q=patch, r=patch
        )
        error = ((answers - wanted) ** 2).mean(-1)
        loss = (error * hidden).sum() / hidden.sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


if __name__ == "__main__":
    raise SystemExit(run(main, Config))
