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
from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from multimask.modalities.point_search import (
    BLOCK,
    farthest_on_cpu,
    farthest_on_device,
    nearest_dense,
    over,
    threads,
)

Name = Literal["pytorch3d", "tree", "torch"]
NAMES: tuple[Name, ...] = ("pytorch3d", "tree", "torch")
VARIABLE = "MULTIMASK_POINT_BACKEND"
DENSE = 128  # below this many points all distances are cheaper than a tree (measured)

log = logging.getLogger(__name__)


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


# --- helpers --------------------------------------------------------------------------------------


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
