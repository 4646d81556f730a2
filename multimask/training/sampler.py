"""Which samples make up which step: a function of seed and epoch, without state."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Generator
from torch.utils.data import Sampler

from multimask.tokens import sample_generator

Weights = Float64[np.ndarray, " n"]  # how often rows are drawn, up to a factor


@dataclass(frozen=True)
class Draw:
    """One reading of one sample: its randomness comes from its id and this epoch (where samples
    may be drawn more than once an epoch: this step). step: the optimiser step it is read for."""

    index: int
    epoch: int
    step: int = 0


def never() -> int:
    return 0


class EpochSampler(Sampler[list[Draw]]):
    """A permutation of the rows per epoch, cut into batches.

    `batch_size` samples make one optimiser step of all ranks together; a rank takes its share of
    each such batch. Samples left over at the end of an epoch are dropped. Iteration starts behind
    the batches that are trained already, as `trained` counts them when it begins; the length stays
    that of the full epoch. With `weights`, one a row, rows are drawn in proportion, and as many in
    all; every draw then has randomness of its own.

    >>> sampler = EpochSampler(np.arange(10), batch_size=4)
    >>> len(sampler), [draw.epoch for draw in next(iter(sampler))]
    (2, [0, 0, 0, 0])
    """

    def __init__(
        self,
        rows: Int[np.ndarray, " n"],
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        trained: Callable[[], int] = never,
        weights: Weights | None = None,
    ) -> None:
        if len(rows) < batch_size:
            raise ValueError(
                f"fit: {len(rows)} samples do not fill one batch of batch_size={batch_size}; "
                "lower batch_size or bring more samples."
            )
        if batch_size % world_size:
            raise ValueError(
                f"fit: batch_size={batch_size} cannot be shared among {world_size} ranks."
            )
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.rank, self.share = rank, batch_size // world_size
        self.trained, self.weights = trained, weights

    def __len__(self) -> int:
        return len(self.rows) // self.batch_size

    def __iter__(self) -> Iterator[list[Draw]]:
        # not a generator: where it starts is settled now, not when the first batch is asked for
        epoch, start = divmod(self.trained(), len(self))
        order = self.order(epoch)
        return (self.batch(order, epoch, number) for number in range(start, len(self)))

    def order(self, epoch: int) -> Int[np.ndarray, " n"]:
        generator = sample_generator(self.seed, epoch, "", "order")
        if self.weights is not None:
            return self.rows[dealt(self.weights, len(self), self.batch_size, generator).ravel()]
        return self.rows[torch.randperm(len(self.rows), generator=generator).numpy()]

    def batch(self, order: Int[np.ndarray, " n"], epoch: int, number: int) -> list[Draw]:
        start = number * self.batch_size + self.rank * self.share
        step = epoch * len(self) + number
        key = epoch if self.weights is None else step  # no step holds a sample twice
        return [Draw(int(index), key, step) for index in order[start : start + self.share]]


def dealt(
    weights: Weights, steps: int, batch_size: int, generator: Generator
) -> Int[np.ndarray, "steps batch"]:
    """The rows of an epoch's batches: each as often as its weight says, never twice in one batch.

    A row's share of all draws is met to less than one draw; which way it is rounded is drawn.

    >>> batches = dealt(np.array([2.0, 1.0, 1.0, 1.0, 1.0]), 3, 2, Generator().manual_seed(0))
    >>> np.bincount(batches.ravel()).tolist(), (batches[:, 0] != batches[:, 1]).all()
    ([2, 1, 1, 1, 1], np.True_)
    """
    count, total = len(weights), steps * batch_size
    order = torch.randperm(count, generator=generator).numpy()
    offset = float(torch.rand((), generator=generator, dtype=torch.float64))
    edges = np.cumsum(weights[order])
    edges = np.floor(edges * (total / edges[-1]) + offset)
    edges[-1] = total  # but for rounding, it is
    times = np.diff(edges, prepend=0).astype(np.int64)
    # a row's draws stand side by side and are dealt like cards, so no batch gets two of them
    rows = np.repeat(order, times).reshape(batch_size, steps).T
    return rows[torch.randperm(steps, generator=generator).numpy()]
