"""Point operators against the installed libraries that do the same, paired.

    python experiments/benchmarks/points_operators.py --rounds 3

Farthest points (64, 512, 1,024 of a cloud), k = 32 nearest neighbours and chamfer distance on
clouds of 32, 1,024, 8,192 and 100,000 points (batch 256, 32, 4, 1). A cell's ratio is the best
other library's time over ours: above 1 ours is faster. Libraries that are not installed are left
out; answers are compared once: distances to 1e-6 relative (chamfer, a mean of many, to 1e-5), and
how many of the farthest points are the usual loop's.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from multimask.modalities.point_operators import chamfer, farthest_points, knn, squared

SHAPES = ((256, 32), (32, 1024), (4, 8192), (1, 100_000))
COUNTS = (64, 512, 1024)
K = 32
TOO_MANY = 2e9  # distances that a dense library would have to hold or make


def have(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def usual_farthest(cloud: Tensor, count: int) -> Tensor:
    rows = torch.arange(len(cloud))
    chosen = torch.zeros(len(cloud), count, dtype=torch.long)
    nearest = torch.full(cloud.shape[:2], 1e10)
    last = torch.zeros(len(cloud), dtype=torch.long)
    for step in range(count):
        chosen[:, step] = last
        apart = ((cloud - cloud[rows, last][:, None]) ** 2).sum(dim=-1)
        closer = apart < nearest
        nearest[closer] = apart[closer]
        last = nearest.max(dim=-1)[1]
    return chosen


def farthest_others(cloud: Tensor, count: int) -> dict[str, Callable[[], Tensor]]:
    made = {"usual torch loop": lambda: usual_farthest(cloud, count)}
    if cloud.numel() * count > 2e8:
        made = {}
    if have("fpsample"):
        from fpsample import fps_sampling  # pyright: ignore[reportMissingImports]

        arrays = [c.numpy() for c in cloud]
        made["fpsample"] = lambda: torch.from_numpy(
            np.stack([fps_sampling(a, count, start_idx=0) for a in arrays]).astype(np.int64)
        )
    return made


def trees(asked: Tensor, cloud: Tensor, k: int) -> dict[str, Callable[[], Tensor]]:
    made: dict[str, Callable[[], Tensor]] = {}
    pairs = [(a.numpy(), c.numpy()) for a, c in zip(asked, cloud, strict=True)]
    if have("scipy"):
        from scipy.spatial import KDTree

        workers = torch.get_num_threads()
        made["scipy"] = lambda: torch.from_numpy(
            np.stack([KDTree(c).query(a, k, workers=workers)[1] for a, c in pairs])
        )
    if have("pykdtree"):
        from pykdtree.kdtree import KDTree as Fast  # pyright: ignore[reportMissingImports]

        made["pykdtree"] = lambda: torch.from_numpy(
            np.stack([Fast(c).query(a, k)[1].astype(np.int64) for a, c in pairs])
        )
    return made


def knn_others(cloud: Tensor) -> dict[str, Callable[[], Tensor]]:
    made = trees(cloud, cloud, K)
    if cloud.numel() * cloud.shape[1] < TOO_MANY:
        made["cdist + topk"] = lambda: torch.cdist(cloud, cloud).topk(K, largest=False).indices
    return made


def chamfer_others(x: Tensor, y: Tensor) -> dict[str, Callable[[], Tensor]]:
    def through(a: Callable[[], Tensor], b: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            forth, back = a().reshape(len(x), -1, 1), b().reshape(len(x), -1, 1)
            return squared(x, y, forth).mean((1, 2)) + squared(y, x, back).mean((1, 2))

        return run

    forth, back = trees(x, y, 1), trees(y, x, 1)
    made = {name: through(forth[name], back[name]) for name in forth}
    if x.numel() * x.shape[1] < TOO_MANY:

        def dense() -> Tensor:
            apart = torch.cdist(x, y).square()
            return apart.amin(dim=2).mean(1) + apart.amin(dim=1).mean(1)

        made["cdist + min"] = dense
    return made


def compare(
    what: str, ours: Callable[[], object], others: Mapping[str, Callable[[], object]], rounds: int
) -> None:
    times: dict[str, list[float]] = {name: [] for name in ("ours", *others)}
    for turn in range(rounds + 1):
        for name, call in (("ours", ours), *others.items()):
            start = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - start)
    middle = {name: statistics.median(taken) for name, taken in times.items()}
    rest = {name: t for name, t in middle.items() if name != "ours"}
    line = f"{what:46s} ours {middle['ours'] * 1e3:9.2f} ms"
    if rest:
        best = min(rest, key=lambda name: rest[name])
        pairs = zip(times[best], times["ours"], strict=True)
        ratio = statistics.median(a / b for a, b in pairs)
        line += f"   best other {rest[best] * 1e3:9.2f} ms ({best})   ratio {ratio:5.2f}"
    print(line, flush=True)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--threads", type=int, default=torch.get_num_threads())
    flags.add_argument("--only", choices=("farthest", "knn", "chamfer"))
    flags.add_argument("--sizes", type=int, nargs="*", default=[n for _, n in SHAPES])
    given = flags.parse_args()
    asked = (given.only,) if given.only else ("farthest", "knn", "chamfer")
    torch.set_num_threads(given.threads)
    generator = torch.Generator().manual_seed(0)
    for batch, n in SHAPES:
        if n not in given.sizes:
            continue
        x, y = (torch.rand(batch, n, 3, generator=generator) for _ in range(2))
        if "farthest" in asked:
            for count in (c for c in COUNTS if c <= n):
                farthest_cell(x, count, given.rounds)
        if "knn" in asked:
            others = knn_others(x)
            for name in others.keys() - {"cdist + topk"}:  # a matrix product: not exact
                found, wanted = knn(x, x, K)[0], squared(x, x, others[name]())
                torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0, msg=f"knn and {name}")
            compare(f"knn {batch} x {n}, k = {K}", lambda x=x: knn(x, x, K), others, given.rounds)
        if "chamfer" in asked:
            others = chamfer_others(x, y)
            for name in others.keys() - {"cdist + min"}:
                torch.testing.assert_close(chamfer(x, y), others[name](), rtol=1e-5, atol=0)
            what = f"chamfer {batch} x {n}"
            compare(what, lambda x=x, y=y: chamfer(x, y), others, given.rounds)


def farthest_cell(x: Tensor, count: int, rounds: int) -> None:
    others = farthest_others(x, count)
    what = f"farthest {x.shape[0]} x {x.shape[1]} -> {count}"
    if others:
        same = (farthest_points(x, count) == next(iter(others.values()))()).float().mean()
        what += f" ({same:.0%} the same)"
    compare(what, lambda: farthest_points(x, count), others, rounds)


if __name__ == "__main__":
    main()
