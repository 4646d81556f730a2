"""Our training step of image MAE against transformers' ViTMAE: the same sums, paired.

Weights are copied, noise and pictures are the same, and the losses must agree to 1e-5 before
anything is timed. A step is forward, backward and optimiser, in fp32. Each side has a process of
its own, and their rounds alternate A B A B; a ratio above 1 says that ours is faster.

"as shipped" is what users of each side get: ours with the fused optimiser and the allocator
setting of our launcher (`multimask.training.memory`), theirs with torch's own choices. "same for
both" gives theirs the fused optimiser and the allocator setting, too.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from einops import rearrange
from paired import Side, timed  # beside this file
from paired import Step as TrainingStep
from torch import Tensor, nn
from torch.nn import functional as F

from multimask.cli.flags import run
from multimask.masking import Ratio
from multimask.methods.mae import mae
from multimask.methods.recipe import Recipe
from multimask.modalities.image import ImagePatches
from multimask.nn.positions import sincos
from multimask.tokens import Batch, Masking, Part, Step


@dataclass(frozen=True)
class Case:
    """Picture and patch in pixels; width, depth and heads of encoder and decoder; samples."""

    size: int
    patch: int
    encoder: tuple[int, int, int]
    decoder: tuple[int, int, int]
    batch: int

    @property
    def grid(self) -> tuple[int, int]:
        return self.size // self.patch, self.size // self.patch


CASES = {
    "tiny-32": Case(32, 4, (192, 12, 3), (128, 2, 4), batch=32),
    "small-224": Case(224, 16, (384, 12, 6), (512, 8, 16), batch=8),
    "base-224": Case(224, 16, (768, 12, 12), (512, 8, 16), batch=4),
}
SMALLEST = Case(4, 2, (4, 1, 1), (4, 1, 1), batch=1)  # for what imports take


@dataclass(frozen=True)
class Config:
    """Time our image MAE against transformers' ViTMAE, the same sums on both sides."""

    cases: Annotated[tuple[str, ...], f"which of {', '.join(CASES)}"] = tuple(CASES)
    rounds: Annotated[int, "pairs of rounds; medians are over them"] = 7
    steps: Annotated[int, "training steps in a round"] = 2
    batch: Annotated[int, "samples a step; 0 takes the case's own"] = 0
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
                Side(built, ("ours", case, batch, True), True, ("ours", SMALLEST, 1, True)),
                Side(
                    built,
                    ("theirs", case, batch, not shipped),
                    not shipped,
                    ("theirs", SMALLEST, 1, not shipped),
                ),
            ]
            ours, theirs = timed(sides, config.rounds, config.steps, config.threads)
            ratios = [b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True)]
            print(
                f"{name:11s} {label:14s} {statistics.median(ours.seconds):7.3f}  "
                f"{statistics.median(theirs.seconds):9.3f}   {statistics.median(ratios):.3f} "
                f"({min(ratios):.3f} - {max(ratios):.3f})   {ours.peak:.0f} / {theirs.peak:.0f}",
                flush=True,
            )


def built(side: Literal["ours", "theirs"], case: Case, batch: int, fused: bool) -> TrainingStep:
    """A step of one side over the same pictures, with the same weights."""
    recipe = ours_built(case)
    images, noise = images_and_noise(case, batch)
    model = recipe.model if side == "ours" else theirs_built(case, recipe)
    # None is what users of torch get: it chooses
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=1e-4,
        weight_decay=0.05,
        fused=True if fused else None,
    )
    loss_of = (
        ours_loss(recipe, images, noise) if side == "ours" else theirs_loss(model, images, noise)
    )

    def step() -> float:
        loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


# --- the two sides --------------------------------------------------------------------------------


def ours_loss(recipe: Recipe, images: Tensor, noise: Tensor) -> Callable[[], Tensor]:
    def loss() -> Tensor:
        size = len(images)
        ids = tuple(str(row) for row in range(size))
        parts = {"photo": Part(images, torch.arange(size))}
        batch = Batch(size, ids, {}, parts, from_noise(noise))  # theirs sorts noise each step, too
        return recipe.objective(recipe.model, batch, Step())["photo"].value()

    return loss


def theirs_loss(model: nn.Module, images: Tensor, noise: Tensor) -> Callable[[], Tensor]:
    return lambda: model(images, noise=noise).loss


def from_noise(noise: Tensor) -> Masking:
    """The masking that MAE makes of this noise: small stays visible."""
    visible, _ = Ratio(0.75)(noise.shape[1])
    shuffled = noise.argsort(dim=1)
    exists = torch.ones_like(noise, dtype=torch.bool)
    return Masking(shuffled[:, :visible], shuffled[:, visible:], exists)


def images_and_noise(case: Case, batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, case.size, case.size, generator=generator)
    return images, torch.rand(batch, case.grid[0] * case.grid[1], generator=generator)


def ours_built(case: Case) -> Recipe:
    torch.manual_seed(0)
    width, depth, heads = case.encoder
    decoder_width, decoder_depth, decoder_heads = case.decoder
    return mae(
        {"photo": ImagePatches(case.size, case.patch, mean=0.0, std=1.0)},
        width=width,
        depth=depth,
        heads=heads,
        decoder_width=decoder_width,
        decoder_depth=decoder_depth,
        decoder_heads=decoder_heads,
    )


def theirs_built(case: Case, recipe: Recipe) -> nn.Module:
    """Their model, with the weights of ours."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    width, depth, heads = case.encoder
    decoder_width, decoder_depth, decoder_heads = case.decoder
    config = ViTMAEConfig(
        image_size=case.size,
        patch_size=case.patch,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        decoder_hidden_size=decoder_width,
        decoder_num_hidden_layers=decoder_depth,
        decoder_num_attention_heads=decoder_heads,
        decoder_intermediate_size=4 * decoder_width,
        layer_norm_eps=1e-6,
        mask_ratio=0.75,
        norm_pix_loss=True,
    )
    model = ViTMAEForPreTraining(config)
    model.load_state_dict(their_weights(case, recipe))
    return model.train()


def their_weights(case: Case, recipe: Recipe) -> dict[str, Tensor]:
    """Our weights in their names; the position tables, which they leave at zero, written out."""
    ours = {name: value.detach() for name, value in recipe.model.named_parameters()}
    kernel = ours["adapters.photo.proj.weight"]
    prefix = "vit.embeddings"
    theirs = {
        f"{prefix}.cls_token": ours["encoder.globals"][None],
        f"{prefix}.position_embeddings": table(case.grid, case.encoder[0]),
        f"{prefix}.patch_embeddings.projection.weight": rearrange(
            kernel, "w (y x c) -> w c y x", y=case.patch, x=case.patch
        ),
        f"{prefix}.patch_embeddings.projection.bias": ours["adapters.photo.proj.bias"],
        "decoder.mask_token": ours["decoder.mask_token"][None, None],
        "decoder.decoder_pos_embed": table(case.grid, case.decoder[0]),
    }
    modules = {
        "vit.layernorm": "encoder.norm",
        "decoder.decoder_embed": "decoder.embed",
        "decoder.decoder_norm": "decoder.norm",
        "decoder.decoder_pred": "adapters.photo.pred",
    }
    ends = (
        ("vit.layers", "encoder", case.encoder),
        ("decoder.decoder_layers", "decoder", case.decoder),
    )
    for their, our, (_, depth, _) in ends:
        for index in range(depth):
            for their_part, our_part in BLOCK.items():
                modules[f"{their}.{index}.{their_part}"] = f"{our}.blocks.{index}.{our_part}"
    for their, our in modules.items():
        for kind in ("weight", "bias"):
            if ".qkv" not in our:
                theirs[f"{their}.{kind}"] = ours[f"{our}.{kind}"]
                continue
            for part, third in zip("qkv", ours[f"{our}.{kind}"].chunk(3), strict=True):
                theirs[f"{their}.{part}_proj.{kind}"] = third
    return theirs


BLOCK = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention": "attn.qkv",
    "attention.o_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def table(grid: tuple[int, int], width: int) -> Tensor:
    return F.pad(sincos(grid, width), (0, 0, 1, 0))[None]  # the class token's row is zero


if __name__ == "__main__":
    raise SystemExit(run(main, Config))
