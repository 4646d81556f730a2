"""The loops behind the point back ends: farthest points and nearest neighbours, in blocks that stay
in a core's cache, over a few threads.
"""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

BLOCK = 2**16  # numbers worked on at a time, so that they stay in a core's cache
T = TypeVar("T")
R = TypeVar("R")


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
