"""Point-MAE's training step against a plain torch restatement of the paper, paired.

    python experiments/benchmarks/points_step.py --batch 32 --rounds 5

Both do the same work on the same clouds (1,024 points, 64 groups of 32, ViT-S, 60 % hidden):
farthest points, neighbours, mini-PointNet, encoder, decoder, chamfer distance, backward, AdamW.
The restatement is written the usual way: a loop with boolean indexing, `cdist` and `topk`, 1x1
convolutions, attention spelled out. Rounds alternate; the median of the ratios is printed.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from multimask import Step, collate
from multimask.methods.point_mae import point_mae
from multimask.modalities.points import PointGroups

POINTS, GROUPS, SIZE, WIDTH, HIDDEN = 1024, 64, 32, 384, 38


class PlainBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, 6, 64).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * 64**-0.5).softmax(dim=-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(b, n, WIDTH))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))


class Plain(nn.Module):
    """Point-MAE as its paper describes it, nothing done for speed."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv1d(3, 128, 1), nn.BatchNorm1d(128), nn.ReLU(), nn.Conv1d(128, 256, 1)
        )
        self.second = nn.Sequential(
            nn.Conv1d(512, 512, 1), nn.BatchNorm1d(512), nn.ReLU(), nn.Conv1d(512, WIDTH, 1)
        )
        self.place, self.decoder_place = (
            nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, WIDTH)) for _ in range(2)
        )
        self.encoder = nn.ModuleList(PlainBlock() for _ in range(12))
        self.decoder = nn.ModuleList(PlainBlock() for _ in range(4))
        self.norm, self.decoder_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.head = nn.Conv1d(WIDTH, 3 * SIZE, 1)

    def forward(self, cloud: Tensor) -> Tensor:
        centres, groups = cut(cloud)
        b = len(cloud)
        flat = groups.reshape(-1, SIZE, 3).transpose(1, 2)
        each = self.first(flat)
        whole = each.amax(dim=2, keepdim=True).expand(-1, -1, SIZE)
        tokens = self.second(torch.cat((whole, each), dim=1)).amax(dim=2).reshape(b, GROUPS, WIDTH)
        hidden = torch.zeros(b, GROUPS, dtype=torch.bool)
        for row in hidden:
            row[torch.randperm(GROUPS)[:HIDDEN]] = True
        x = tokens[~hidden].reshape(b, -1, WIDTH)
        position = self.place(centres[~hidden].reshape(b, -1, 3))
        for block in self.encoder:
            x = block(x + position)
        x = self.norm(x)
        there, gone = (self.decoder_place(centres[m].reshape(b, -1, 3)) for m in (~hidden, hidden))
        position = torch.cat((there, gone), dim=1)
        x = torch.cat((x, self.mask_token.expand(b, HIDDEN, -1)), dim=1)
        for block in self.decoder:
            x = block(x + position)
        x = self.decoder_norm(x[:, -HIDDEN:])
        made = self.head(x.transpose(1, 2)).transpose(1, 2).reshape(-1, SIZE, 3)
        distances = torch.cdist(made, groups[hidden]).square()
        return distances.amin(dim=2).mean() + distances.amin(dim=1).mean()


def cut(cloud: Tensor) -> tuple[Tensor, Tensor]:
    rows = torch.arange(len(cloud))
    chosen = torch.zeros(len(cloud), GROUPS, dtype=torch.long)
    nearest = torch.full(cloud.shape[:2], 1e10)
    last = torch.zeros(len(cloud), dtype=torch.long)
    for step in range(GROUPS):
        chosen[:, step] = last
        apart = ((cloud - cloud[rows, last][:, None]) ** 2).sum(dim=-1)
        closer = apart < nearest
        nearest[closer] = apart[closer]
        last = nearest.max(dim=-1)[1]
    centres = cloud[rows[:, None], chosen]
    index = torch.cdist(centres, cloud).topk(SIZE, largest=False).indices
    return centres, cloud[rows[:, None, None], index] - centres[:, :, None]


def ours(batch: int, visible_only: bool, fused: bool) -> Callable[[Tensor], None]:
    recipe = point_mae({"points": PointGroups()}, embed_visible_only=visible_only, drop_path=0.0)
    model, objective = recipe.model.train(), recipe.objective
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05, fused=fused)

    def step(clouds: Tensor) -> None:
        samples = [{"id": str(i), "points": cloud} for i, cloud in enumerate(clouds)]
        loss = objective(model, collate(samples, model.tokenizers), Step())["points"].value()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def plain(fused: bool) -> Callable[[Tensor], None]:
    model = Plain()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05, fused=fused)

    def step(clouds: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        model(clouds).backward()
        optimiser.step()

    return step


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--batch", type=int, default=32)
    flags.add_argument("--rounds", type=int, default=5)
    flags.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = flags.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    clouds = torch.nn.functional.normalize(torch.randn(given.batch, POINTS, 3), dim=-1)
    steps = {
        "restatement, AdamW": plain(False),
        "restatement, fused AdamW": plain(True),
        "ours": ours(given.batch, False, True),
        "ours, visible only": ours(given.batch, True, True),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(given.rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step(clouds)
            if turn:  # the first is for warming up
                times[name].append(time.perf_counter() - start)
    for name, taken in times.items():
        print(f"{name:28s}{statistics.median(taken) * 1e3:9.1f} ms a step of {given.batch}")
    for theirs in list(steps)[:2]:
        for mine in list(steps)[2:]:
            ratios = [a / b for a, b in zip(times[theirs], times[mine], strict=True)]
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            print(f"{mine:20s} over {theirs:26s} {statistics.median(ratios):5.2f}x ({spread})")


if __name__ == "__main__":
    main()
