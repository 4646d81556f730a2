"""Who computes neighbours: pytorch3d, a KD-tree on the CPU, or plain torch on any device.

A back end only finds indices; distances are computed from them in one place
(`point_operators.squared`), so that all back ends answer with the same numbers. Clouds are
`(b, n, d)`; `lengths (b,)` says how many points of each row are real, None for all. What a back
end answers for points that do not exist does not matter: the operators overwrite it.
"""

import functools
import importlib.util
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

Name = Literal["pytorch3d", "tree", "torch"]
NAMES: tuple[Name, ...] = ("pytorch3d", "tree", "torch")
VARIABLE = "MULTIMASK_POINT_BACKEND"
DENSE = 128  # below this many points all distances are cheaper than a tree (measured)
BLOCK = 2**16  # numbers worked on at a time, so that they stay in a core's cache

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")


@runtime_checkable
class Backend(Protocol):
    def nearest(
        self, queries: Tensor, points: Tensor, k: int, counts: Tensor | None, lengths: Tensor | None
    ) -> Tensor:
        """Indices `(b, q, min(k, n))` of the nearest points, nearest first."""
        ...

    def within(
        self, queries: Tensor, points: Tensor, k: int, radius: float, lengths: Tensor | None
    ) -> Tensor:
        """Indices `(b, q, k)` of the first k points (by index) nearer than radius, -1 for none."""
        ...

    def farthest(self, points: Tensor, count: int, lengths: Tensor | None) -> Tensor:
        """Indices `(b, count)`, each farthest from those before it; begins at point 0."""
        ...


def choose(name: str | None, device: torch.device) -> Backend:
    """By argument, else by MULTIMASK_POINT_BACKEND, else the fastest there is for the device.

    Raises: ValueError for an unknown name, ImportError for one that is not installed.
    """
    return chosen(name or os.environ.get(VARIABLE) or "", device.type)


@functools.cache
def chosen(name: str, device: str) -> Backend:
    """Chosen once per name and kind of device, and logged then."""
    found = {
        "pytorch3d": importlib.util.find_spec("pytorch3d") is not None,
        "tree": importlib.util.find_spec("scipy") is not None,
        "torch": True,
    }
    if name and name not in NAMES:
        raise ValueError(f"point back end {name!r} is unknown; it is one of {', '.join(NAMES)}.")
    if name and not found[name]:
        needed = {"tree": "scipy"}.get(name, name)
        raise ImportError(f"point back end {name!r} was asked for, but {needed} is not installed.")
    fitting = [n for n in NAMES if found[n] and (device == "cpu" or n != "tree")]
    used = name or fitting[0]
    why = "asked for" if name else f"first of {', '.join(fitting)}"
    log.info("point operators on %s: back end %s (%s)", device, used, why)
    backends: dict[str, Callable[[], Backend]] = {
        "pytorch3d": Pytorch3d,
        "tree": Tree,
        "torch": Plain,
    }
    return backends[used]()


class Plain:
    """All distances, in blocks, by differences: never as a matrix product, whose rounding errors
    are those of the distance from the origin."""

    def nearest(
        self, queries: Tensor, points: Tensor, k: int, counts: Tensor | None, lengths: Tensor | None
    ) -> Tensor:
        k = min(k, points.shape[1])

        def find(near: Tensor) -> Tensor:
            return near.topk(k, largest=False).indices if k > 1 else near.argmin(-1, keepdim=True)

        return self.over_distances(find, queries, points, lengths)

    def within(
        self, queries: Tensor, points: Tensor, k: int, radius: float, lengths: Tensor | None
    ) -> Tensor:
        n = points.shape[1]
        index = torch.arange(n, device=points.device)

        def find(near: Tensor) -> Tensor:
            inside = torch.where(near < radius, index, n)
            first = inside.topk(min(k, n), largest=False).values
            return first.masked_fill(first == n, -1)

        return filled(self.over_distances(find, queries, points, lengths), k, -1)

    def over_distances(
        self,
        find: Callable[[Tensor], Tensor],
        queries: Tensor,
        points: Tensor,
        lengths: Tensor | None,
    ) -> Tensor:
        b, n, _ = points.shape
        step = max(1, 64 * BLOCK // max(b * n, 1))
        beyond = None
        if lengths is not None:
            beyond = (torch.arange(n, device=points.device) >= lengths[:, None])[:, None]
        answers = []
        for piece in queries.split(step, dim=1):
            near = torch.cdist(piece, points, compute_mode="donot_use_mm_for_euclid_dist")
            if beyond is not None:
                near = near.masked_fill(beyond, torch.inf)
            answers.append(find(near))
        return torch.cat(answers, dim=1)

    def farthest(self, points: Tensor, count: int, lengths: Tensor | None) -> Tensor:
        if points.device.type == "cpu":
            return farthest_on_cpu(points, count, lengths)
        return farthest_on_device(points, count, lengths)


class Tree:
    """KD-trees over the clouds of a batch: pykdtree where it is installed (about twice as fast),
    else scipy's. Small clouds are compared point by point."""

    def __init__(self) -> None:
        self.fast = importlib.util.find_spec("pykdtree") is not None

    def nearest(
        self, queries: Tensor, points: Tensor, k: int, counts: Tensor | None, lengths: Tensor | None
    ) -> Tensor:
        k = min(k, points.shape[1])
        if points.shape[1] <= DENSE:
            return on_cpu(nearest_dense, queries, points, k=k, lengths=lengths)

        whole = np.zeros((len(queries), queries.shape[1], k), dtype=np.int64)

        def one(task: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
            asked, cloud, answer = task
            have = min(k, len(cloud))
            if not len(asked) or not have:
                return
            if self.fast:
                from pykdtree.kdtree import KDTree  # pyright: ignore[reportMissingImports]

                # many neighbours: larger leaves, fewer descents (measured)
                index = KDTree(cloud, leafsize=32 if have >= 16 else 16).query(asked, have)[1]
            else:
                from scipy.spatial import KDTree

                tree = KDTree(cloud, compact_nodes=False, balanced_tree=False)
                index = tree.query(asked, have, workers=1 if len(points) > 1 else threads())[1]
            answer[: len(asked), :have] = index.reshape(len(asked), have)

        over(one, list(zip(rows(queries, counts), rows(points, lengths), whole, strict=True)))
        return torch.from_numpy(whole).to(points.device)

    def within(
        self, queries: Tensor, points: Tensor, k: int, radius: float, lengths: Tensor | None
    ) -> Tensor:
        from scipy.spatial import KDTree

        def one(pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
            asked, cloud = pair
            answer = np.full((len(asked), k), -1, dtype=np.int64)
            if not len(cloud):
                return answer
            # a little wider, then decided as everywhere else
            lists = KDTree(cloud).query_ball_point(asked, radius * (1 + 1e-5), return_sorted=True)
            for place, (point, inside) in enumerate(zip(asked, lists, strict=True)):
                index = np.asarray(inside, dtype=np.int64)
                apart = np.sqrt(((cloud[index] - point) ** 2).sum(axis=-1))
                first = index[apart < radius][:k]
                answer[place, : len(first)] = first
            return answer

        found = over(one, list(zip(rows(queries, None), rows(points, lengths), strict=True)))
        made = np.stack(found) if found else np.zeros((0, queries.shape[1], k), dtype=np.int64)
        return torch.from_numpy(made).to(points.device)

    def farthest(self, points: Tensor, count: int, lengths: Tensor | None) -> Tensor:
        return farthest_on_cpu(points, count, lengths)


class Pytorch3d:
    """pytorch3d's compiled operators (its `ops`; they know float32 only)."""

    def nearest(
        self, queries: Tensor, points: Tensor, k: int, counts: Tensor | None, lengths: Tensor | None
    ) -> Tensor:
        from pytorch3d.ops import knn_points  # pyright: ignore[reportMissingImports]

        a, b = queries.float().contiguous(), points.float().contiguous()
        k = min(k, points.shape[1])
        return knn_points(a, b, lengths1=counts, lengths2=lengths, K=k, return_sorted=True).idx

    def within(
        self, queries: Tensor, points: Tensor, k: int, radius: float, lengths: Tensor | None
    ) -> Tensor:
        from pytorch3d.ops import ball_query  # pyright: ignore[reportMissingImports]

        a, b = queries.float().contiguous(), points.float().contiguous()
        return ball_query(a, b, lengths2=lengths, K=k, radius=radius, return_nn=False).idx

    def farthest(self, points: Tensor, count: int, lengths: Tensor | None) -> Tensor:
        from pytorch3d.ops import (  # pyright: ignore[reportMissingImports]
            sample_farthest_points,
        )

        return sample_farthest_points(points.float().contiguous(), lengths=lengths, K=count)[1]


# --- the loops ------------------------------------------------------------------------------------


def farthest_on_cpu(points: Tensor, count: int, lengths: Tensor | None) -> Tensor:
    """Coordinate by coordinate, in place, as many clouds at a time as fit a core's cache."""
    cloud = points.detach().cpu().numpy()
    real = None if lengths is None else lengths.cpu().numpy()
    size = max(1, BLOCK // max(cloud.shape[1], 1))
    starts = range(0, len(cloud), size)
    found = over(
        lambda at: farthest_block(
            cloud[at : at + size], count, None if real is None else real[at : at + size]
        ),
        list(starts),
    )
    answer = np.concatenate(found) if found else np.zeros((0, count), dtype=np.int64)
    return torch.from_numpy(answer).to(points.device)


def farthest_block(cloud: np.ndarray, count: int, lengths: np.ndarray | None) -> np.ndarray:
    b, n, d = cloud.shape
    axes, row = np.ascontiguousarray(cloud.transpose(2, 0, 1)), np.arange(b)
    near = np.full((b, n), np.inf, dtype=cloud.dtype)
    if lengths is not None:
        near[np.arange(n) >= lengths[:, None]] = -1  # never the farthest
    square, apart = np.empty_like(near), np.empty_like(near)
    answer, last = np.zeros((b, count), dtype=np.int64), np.zeros(b, dtype=np.int64)
    for step in range(1, count):
        point = cloud[row, last]
        np.subtract(axes[0], point[:, :1], out=square)
        np.multiply(square, square, out=square)
        for axis in range(1, d):
            np.subtract(axes[axis], point[:, axis : axis + 1], out=apart)
            np.multiply(apart, apart, out=apart)
            np.add(square, apart, out=square)
        np.minimum(near, square, out=near)
        near.argmax(axis=1, out=last)
        answer[:, step] = last
    return answer


def farthest_on_device(points: Tensor, count: int, lengths: Tensor | None) -> Tensor:
    """The same loop for accelerators; it never waits for the device."""
    b, n, d = points.shape
    axes = points.detach().permute(2, 0, 1).contiguous()
    near = torch.full((b, n), torch.inf, dtype=points.dtype, device=points.device)
    if lengths is not None:
        near.masked_fill_(torch.arange(n, device=points.device) >= lengths[:, None], -1)
    square, apart = torch.empty_like(near), torch.empty_like(near)
    answer = torch.zeros(b, count, dtype=torch.long, device=points.device)
    last = answer[:, :1].clone()
    for step in range(1, count):
        torch.sub(axes[0], axes[0].gather(1, last), out=square).square_()
        for axis in range(1, d):
            torch.sub(axes[axis], axes[axis].gather(1, last), out=apart)
            square.add_(apart.square_())
        torch.minimum(near, square, out=near)
        last = near.argmax(dim=1, keepdim=True)
        answer[:, step : step + 1] = last
    return answer


def nearest_dense(
    queries: np.ndarray, points: np.ndarray, k: int, lengths: np.ndarray | None
) -> np.ndarray:
    """All distances of small clouds, a block of clouds at a time."""
    (b, q, d), n = queries.shape, points.shape[1]
    ask, axes = (np.ascontiguousarray(x.transpose(2, 0, 1)) for x in (queries, points))
    answer = np.zeros((b, q, k), dtype=np.int64)
    size = max(1, BLOCK // max(q * n, 1))
    for at in range(0, b, size):
        here = slice(at, at + size)
        square = ask[0, here, :, None] - axes[0, here, None]
        square *= square
        for axis in range(1, d):
            apart = ask[axis, here, :, None] - axes[axis, here, None]
            apart *= apart
            square += apart
        if lengths is not None:
            beyond = np.arange(n) >= lengths[here, None]
            square[np.broadcast_to(beyond[:, None], square.shape)] = np.inf
        answer[here] = smallest(square, k)
    return answer


def nearest_squares(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances of small clouds' points to the nearest of the other, both ways, on the CPU.

    The batch stands innermost, so that loops are long and minima are taken side by side.
    """
    (b, n, d), m = x.shape, y.shape[1]
    mine, theirs = (c.detach().permute(2, 1, 0).contiguous() for c in (x, y))
    forth, back = mine.new_empty(n, b), theirs.new_empty(m, b)
    size = max(16, 4 * BLOCK // max(n * m, 1))
    for at in range(0, b, size):
        here = slice(at, at + size)
        square = mine[0, :, None, here] - theirs[0, None, :, here]
        square.mul_(square)
        apart = torch.empty_like(square)
        for axis in range(1, d):
            torch.sub(mine[axis, :, None, here], theirs[axis, None, :, here], out=apart)
            square.addcmul_(apart, apart)
        forth[:, here], back[:, here] = square.amin(dim=1), square.amin(dim=0)
    return forth.T, back.T


def smallest(square: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k smallest along the last axis, smallest first, ties to the lower index."""
    if k == 1:
        return square.argmin(axis=-1)[..., None]
    if square.dtype != np.float32:
        return square.argsort(axis=-1, kind="stable")[..., :k]
    # bits of numbers above zero sort as they do: with the index below them, sorting is whole
    keys = square.view(np.int32).astype(np.int64) << 32 | np.arange(square.shape[-1])
    if k < square.shape[-1]:
        keys.partition(k - 1, axis=-1)
    return np.sort(keys[..., :k], axis=-1) & 0xFFFFFFFF


# --- helpers --------------------------------------------------------------------------------------


def threads() -> int:
    return torch.get_num_threads()


def over(call: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Map over a few threads: numpy's loops and the trees let go of the interpreter."""
    if len(items) < 2 or threads() == 1:
        return list(map(call, items))
    return list(pool(threads(), os.getpid()).map(call, items))


@functools.cache
def pool(size: int, process: int) -> ThreadPoolExecutor:
    """One pool a process: threads do not survive a fork."""
    return ThreadPoolExecutor(size, thread_name_prefix=f"neighbours-{process}")


def rows(clouds: Tensor, lengths: Tensor | None) -> Iterable[np.ndarray]:
    arrays = clouds.detach().cpu().numpy()
    if lengths is None:
        return list(arrays)
    return [array[:length] for array, length in zip(arrays, lengths.tolist(), strict=True)]


def on_cpu(
    find: Callable[..., np.ndarray],
    queries: Tensor,
    points: Tensor,
    *,
    lengths: Tensor | None,
    **kwargs: Any,
) -> Tensor:
    asked, cloud = queries.detach().cpu().numpy(), points.detach().cpu().numpy()
    real = None if lengths is None else lengths.cpu().numpy()
    return torch.from_numpy(find(asked, cloud, lengths=real, **kwargs)).to(points.device)


def filled(index: Tensor, k: int, value: int) -> Tensor:
    """Widened to k with a value."""
    if index.shape[-1] == k:
        return index
    return torch.nn.functional.pad(index, (0, k - index.shape[-1]), value=value)
