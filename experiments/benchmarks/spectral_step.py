"""Whole steps on 12 bands x 64 x 64, patch 8, band tokens, ratio .75: ours against a plain
restatement that embeds every token with a convolution, gathers and un-shuffles.

Two plain ones: as usually written (attention written out, default AdamW), and with the fused
attention and fused AdamW that ours uses, so that only the method of stepping differs. Same widths
and depths. "ours, cross" is another model: a decoder in which hidden tokens ask visible ones only
(CrossMAE), for what that saves. Steps are run in turn; the median of the paired ratios is printed.

    python experiments/benchmarks/spectral_step.py --pairs 15
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from multimask.masking import Masker, Ratio, Uniform
from multimask.methods.mae import mae
from multimask.modalities.spectral import SpectralPatches
from multimask.modality import collate
from multimask.nn.blocks import Attention, Block
from multimask.tokens import Step

NM = (443.0, 490.0, 560.0, 665.0, 705.0, 740.0, 783.0, 842.0, 865.0, 945.0, 1610.0, 2190.0)
BANDS, SIZE, PATCH, RATIO = 12, 64, 8, 0.75
WIDTH, DEPTH, HEADS, DECODER_WIDTH, DECODER_DEPTH, DECODER_HEADS = 192, 12, 3, 128, 2, 4


class WrittenOut(Attention):
    """Attention as most repositories write it: scores, softmax, product."""

    def forward(self, x: Tensor, attend: Tensor | None = None, last: int | None = None) -> Tensor:
        size, count, width = x.shape
        split = self.qkv(x).reshape(size, count, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        mixed = scores.softmax(dim=-1) @ value
        return self.proj(mixed.transpose(1, 2).reshape(size, count, width))


class Plain(nn.Module):
    """A channel MAE as usually written: embed all, add positions, shuffle, gather, un-shuffle,
    decode and predict everything, score what was hidden."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        count = BANDS * (SIZE // PATCH) ** 2
        self.embed = nn.Conv3d(1, WIDTH, (1, PATCH, PATCH), stride=(1, PATCH, PATCH))
        self.position = nn.Parameter(torch.randn(1, count, WIDTH) * 0.02)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.enter = nn.Linear(WIDTH, DECODER_WIDTH)
        self.hidden = nn.Parameter(torch.zeros(1, 1, DECODER_WIDTH))
        self.decoder_position = nn.Parameter(torch.randn(1, count + 1, DECODER_WIDTH) * 0.02)
        self.decoder = nn.ModuleList(
            Block(DECODER_WIDTH, DECODER_HEADS) for _ in range(DECODER_DEPTH)
        )
        self.decoder_norm = nn.LayerNorm(DECODER_WIDTH)
        self.leave = nn.Linear(DECODER_WIDTH, PATCH * PATCH)
        if not fused:
            for blocks, width, heads in (
                (self.blocks, WIDTH, HEADS),
                (self.decoder, DECODER_WIDTH, DECODER_HEADS),
            ):
                for block in blocks:
                    block.attn = WrittenOut(width, heads)

    def forward(self, cubes: Tensor) -> Tensor:
        x = self.embed(cubes[:, None]).flatten(2).transpose(1, 2) + self.position
        size, count, _ = x.shape
        kept = int(count * (1 - RATIO))
        order = torch.rand(size, count).argsort(dim=1)
        back = order.argsort(dim=1)
        x = x.gather(1, order[:, :kept, None].expand(-1, -1, WIDTH))
        x = torch.cat((self.token.expand(size, -1, -1), x), dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.enter(self.norm(x))
        filled = torch.cat((x[:, 1:], self.hidden.expand(size, count - kept, -1)), dim=1)
        filled = filled.gather(1, back[..., None].expand(-1, -1, DECODER_WIDTH))
        x = torch.cat((x[:, :1], filled), dim=1) + self.decoder_position
        for block in self.decoder:
            x = block(x)
        answers = self.leave(self.decoder_norm(x))[:, 1:]
        wanted = cubes.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).flatten(1, 3).flatten(2)
        mean, var = wanted.mean(dim=2, keepdim=True), wanted.var(dim=2, keepdim=True)
        error = (answers - (wanted - mean) / (var + 1e-6).sqrt()).square().mean(dim=2)
        hidden = (back >= kept).to(error.dtype)
        return (error * hidden).sum() / hidden.sum()


def ours(cubes: Tensor, decoder: str = "joint") -> Callable[[int], None]:
    patches = SpectralPatches(size=SIZE, patch=PATCH, bands=BANDS, wavelengths=NM)
    recipe = mae(
        {"cube": patches}, width=WIDTH, depth=DEPTH, heads=HEADS, decoder_width=DECODER_WIDTH,
        decoder_depth=DECODER_DEPTH, decoder_heads=DECODER_HEADS, decoder=decoder,
    )  # fmt: skip
    recipe.objective.masker = Masker(Uniform(), Ratio(RATIO))
    optimizer = torch.optim.AdamW(recipe.model.parameters(), fused=True)
    samples = [{"id": str(row), "cube": cube} for row, cube in enumerate(cubes)]

    def step(index: int) -> None:
        batch = collate(samples, recipe.model.tokenizers)
        loss = recipe.objective(recipe.model, batch, Step(0, 0, index))["cube"].value()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def plain(cubes: Tensor, fused: bool) -> Callable[[int], None]:
    model = Plain(fused)
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused)

    def step(index: int) -> None:
        loss = model(torch.stack(list(cubes)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def seconds(step: Callable[[int], None], index: int) -> float:
    start = time.perf_counter()
    step(index)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    cubes = torch.rand(chosen.batch_size, BANDS, SIZE, SIZE)
    steps = {
        "ours": ours(cubes),
        "ours, cross": ours(cubes, "hidden-only"),
        "plain": plain(cubes, fused=False),
        "plain, fused": plain(cubes, fused=True),
    }
    for step in steps.values():
        step(0)
        step(1)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for pair in range(chosen.pairs):
        for name in sorted(steps, reverse=bool(pair % 2)):
            times[name].append(seconds(steps[name], pair))
    for name, taken in times.items():
        ratios = [a / b for a, b in zip(taken, times["ours"], strict=True)]
        low, high = min(ratios), max(ratios)
        print(
            f"{name:13} {1e3 * statistics.median(taken):8.1f} ms a step of {chosen.batch_size}; "
            f"{statistics.median(ratios):.2f} x ours ({low:.2f} to {high:.2f} in {len(ratios)})"
        )


if __name__ == "__main__":
    main()
