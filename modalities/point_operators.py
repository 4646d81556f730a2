"""Operators on point clouds: farthest points, nearest neighbours, balls, chamfer distance.

Clouds are `(b, n, d)`; `lengths (b,)` says how many points of each are real (ragged clouds are
padded behind). The contract is pytorch3d's: squared distances, farthest point sampling begins at
point 0, and the same fillers where there is nothing. Back ends (pytorch3d, a KD-tree, plain torch)
are chosen once and logged; `backend="tree"` or MULTIMASK_POINT_BACKEND=tree force one.
Gradients reach both clouds through the gathered points; indices have none.

>>> line = torch.tensor([[[0.0], [1.0], [2.0], [10.0]]])
>>> farthest_points(line, 4).tolist()
[[0, 3, 2, 1]]
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multimask.modalities.point_backends import DENSE, Tree, choose, filled
from multimask.modalities.point_search import nearest_squares

Clouds = Float[Tensor, "b n d"]
Queries = Float[Tensor, "b q d"]
Lengths = Int[Tensor, " b"]
Norm = Literal["l1", "l2"]


def farthest_points(
    points: Clouds, count: int, lengths: Lengths | None = None, backend: str | None = None
) -> Int[Tensor, "b c"]:
    """Indices of `count` points, each the farthest from those before it, beginning at point 0.

    Ties go to the lower index. A cloud of fewer points gives all of them, then -1.
    Unlike Point-MAE's kernel no point is passed over for lying near the origin.
    """
    check(points, lengths, "farthest_points")
    if count < 1:
        raise ValueError(f"farthest_points: count={count} must be at least 1.")
    index = choose(backend, points.device).farthest(points, count, lengths)
    there = torch.arange(count, device=points.device)
    have = torch.full((len(points),), points.shape[1], device=points.device)
    have = have if lengths is None else lengths
    if lengths is None and count <= points.shape[1]:
        return index
    return index.masked_fill(there >= have[:, None], -1)


def knn(
    queries: Queries,
    points: Clouds,
    k: int,
    query_lengths: Lengths | None = None,
    lengths: Lengths | None = None,
    backend: str | None = None,
) -> tuple[Float[Tensor, "b q k"], Int[Tensor, "b q k"]]:
    """Squared distances and indices of the k nearest points, nearest first.

    Both are 0 for queries that do not exist and behind the last point of clouds smaller than k.
    """
    check_pair(queries, points, query_lengths, lengths, k, "knn")
    found = choose(backend, points.device).nearest(queries, points, k, query_lengths, lengths)
    index = filled(found, k, 0)
    there = exists(queries, points, k, query_lengths, lengths)
    if there is not None:
        index = index.masked_fill(~there, 0)
    distances = squared(queries, points, index)
    return (distances if there is None else distances * there), index


def ball_query(
    queries: Queries,
    points: Clouds,
    k: int,
    radius: float,
    query_lengths: Lengths | None = None,
    lengths: Lengths | None = None,
    backend: str | None = None,
) -> tuple[Float[Tensor, "b q k"], Int[Tensor, "b q k"]]:
    """Squared distances and indices of the first k points (by index) nearer than `radius`.

    Where there are fewer, the index is -1 and the distance 0.
    """
    check_pair(queries, points, query_lengths, lengths, k, "ball_query")
    if not radius > 0:
        raise ValueError(f"ball_query: radius={radius} must be positive.")
    index = choose(backend, points.device).within(queries, points, k, radius, lengths)
    there = exists(queries, points, k, query_lengths, lengths)
    if there is not None:
        index = index.masked_fill(~there, -1)
    found = index >= 0
    return squared(queries, points, index.clamp(min=0)) * found, index


def chamfer(
    x: Clouds,
    y: Float[Tensor, "b m d"],
    x_lengths: Lengths | None = None,
    y_lengths: Lengths | None = None,
    norm: Norm = "l2",
    backend: str | None = None,
) -> Float[Tensor, " b"]:
    """Chamfer distance of each pair of clouds, not averaged over the batch.

    "l2": mean squared distance from x to its nearest in y plus the same from y to x (pytorch3d's
    default). "l1": half the sum of the two mean distances (Point-MAE's CDL1).

    >>> a, b = torch.zeros(1, 1, 3), torch.tensor([[[1.0, 0, 0], [0, 2, 0]]])
    >>> chamfer(a, b), chamfer(a, b, norm="l1")
    (tensor([3.5000]), tensor([1.2500]))
    """
    learns = torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)
    if (
        not learns
        and x_lengths is None
        and y_lengths is None
        and x.is_cpu
        and is_small(x, y, backend)
    ):
        check_pair(x, y, None, None, 1, "chamfer")
        return chamfer_of(*nearest_squares(x, y), norm=norm)
    forth, back = nearest_pairs(x, y, x_lengths, y_lengths, backend)
    return chamfer_of(
        squared(x, y, forth[..., None])[..., 0],
        squared(y, x, back[..., None])[..., 0],
        x_lengths,
        y_lengths,
        norm,
    )


def is_small(x: Tensor, y: Tensor, backend: str | None) -> bool:
    """Whether all distances of two batches on the CPU are cheaper than a search."""
    sizes = (x.shape[-2], y.shape[-2])
    return isinstance(choose(backend, x.device), Tree) and 0 < min(sizes) <= max(sizes) <= DENSE


def nearest_pairs(
    x: Clouds,
    y: Float[Tensor, "b m d"],
    x_lengths: Lengths | None = None,
    y_lengths: Lengths | None = None,
    backend: str | None = None,
) -> tuple[Int[Tensor, "b n"], Int[Tensor, "b m"]]:
    """For every point the index of the nearest in the other cloud; 0 for points of no cloud."""
    check_pair(x, y, x_lengths, y_lengths, 1, "chamfer")
    if x_lengths is None and y_lengths is None and not (x.shape[1] and y.shape[1]):
        raise ValueError(
            f"chamfer: clouds of {x.shape[1]} and {y.shape[1]} points; neither may be empty."
        )
    finder = choose(backend, x.device)
    with torch.no_grad():
        forth = finder.nearest(x, y, 1, x_lengths, y_lengths)[..., 0]
        back = finder.nearest(y, x, 1, y_lengths, x_lengths)[..., 0]
    if x_lengths is not None:
        forth = forth.masked_fill(~real(x, x_lengths), 0)
    if y_lengths is not None:
        back = back.masked_fill(~real(y, y_lengths), 0)
    return forth, back


def chamfer_of(
    forth: Float[Tensor, "b n"],
    back: Float[Tensor, "b m"],
    x_lengths: Lengths | None = None,
    y_lengths: Lengths | None = None,
    norm: Norm = "l2",
) -> Float[Tensor, " b"]:
    """The distance from both directions' squared distances."""
    if norm not in ("l1", "l2"):
        raise ValueError(f"chamfer: norm={norm!r} must be 'l1' or 'l2'.")
    sides = []
    for distances, lengths in ((forth, x_lengths), (back, y_lengths)):
        if norm == "l1":  # the root has no slope at 0: such pairs get none
            apart = distances > 0
            distances = torch.where(apart, distances, 1).sqrt() * apart
        if lengths is None:
            sides.append(distances.mean(dim=1))
        else:
            kept = torch.arange(distances.shape[1], device=distances.device) < lengths[:, None]
            sides.append((distances * kept).sum(dim=1) / lengths.clamp(min=1))
    return (sides[0] + sides[1]) * (0.5 if norm == "l1" else 1.0)


def take(points: Float[Tensor, "b n c"], index: Int[Tensor, "b ..."]) -> Float[Tensor, "b ... c"]:
    """The points at these indices, cloud by cloud."""
    flat = index.flatten(1)
    picked = points.gather(1, flat[..., None].expand(-1, -1, points.shape[-1]))
    return picked.unflatten(1, index.shape[1:]) if index.ndim > 2 else picked


def squared(
    queries: Queries, points: Clouds, index: Int[Tensor, "b q k"]
) -> Float[Tensor, "b q k"]:
    """Squared distances from each query to its indexed points, by differences, axis by axis."""
    if not (torch.is_grad_enabled() and (queries.requires_grad or points.requires_grad)):
        return squared_plainly(queries, points, index)
    flat, total = index.flatten(1), None
    for mine, theirs in zip(queries.unbind(-1), points.unbind(-1), strict=True):
        apart = theirs.gather(1, flat).view_as(index) - mine[..., None]
        total = apart * apart if total is None else torch.addcmul(total, apart, apart)
    return torch.zeros(index.shape, device=index.device) if total is None else total


def squared_plainly(
    queries: Queries, points: Clouds, index: Int[Tensor, "b q k"]
) -> Float[Tensor, "b q k"]:
    """The same without gradients: picked from one row an axis, in place, three times as fast."""
    b, n, d = points.shape
    rows = torch.arange(0, b * n, n, device=index.device)[:, None, None]
    flat = (index + rows if b > 1 else index).flatten()
    axes, total = points.permute(2, 0, 1).reshape(d, b * n), None
    for mine, theirs in zip(queries.unbind(-1), axes, strict=True):
        apart = theirs.index_select(0, flat).view(index.shape).sub_(mine[..., None])
        total = apart.mul_(apart) if total is None else total.addcmul_(apart, apart)
    return queries.new_zeros(index.shape) if total is None else total


def real(points: Tensor, lengths: Tensor) -> Tensor:
    return torch.arange(points.shape[1], device=points.device) < lengths[:, None]


def exists(
    queries: Tensor, points: Tensor, k: int, query_lengths: Tensor | None, lengths: Tensor | None
) -> Tensor | None:
    """Which of `(b, q, k)` answers stand for something; None when all do."""
    there = None
    if lengths is not None or k > points.shape[1]:
        most = torch.full((len(points),), points.shape[1], device=points.device)
        have = most if lengths is None else lengths
        there = torch.arange(k, device=points.device) < have[:, None, None]
        there = there.expand(-1, queries.shape[1], -1)
    if query_lengths is not None:
        asked = real(queries, query_lengths)[..., None].expand(-1, -1, k)
        there = asked if there is None else there & asked
    return there


def check(points: Tensor, lengths: Tensor | None, who: str) -> None:
    if points.ndim != 3:
        raise ValueError(f"{who}: expected clouds (b, n, d), found shape {tuple(points.shape)}.")
    if lengths is not None and lengths.shape != (len(points),):
        raise ValueError(
            f"{who}: {len(points)} clouds came with lengths of shape {tuple(lengths.shape)}; "
            "every cloud needs one."
        )


def check_pair(
    x: Tensor, y: Tensor, x_lengths: Tensor | None, y_lengths: Tensor | None, k: int, who: str
) -> None:
    check(x, x_lengths, who)
    check(y, y_lengths, who)
    if len(x) != len(y) or x.shape[2] != y.shape[2]:
        raise ValueError(
            f"{who}: {tuple(x.shape)} and {tuple(y.shape)} differ in batch or dimension."
        )
    if k < 1:
        raise ValueError(f"{who}: k={k} must be at least 1.")
