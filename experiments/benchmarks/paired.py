"""Two sides of a comparison, each in a process of its own, whose rounds alternate A B A B.

So neither side gets the other's memory, caches or allocator settings, and drift of a busy machine
meets both alike.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from multimask.training.memory import keep_freed_memory

Step = Callable[[], float]
"""One training step; returns its loss."""


@dataclass(frozen=True)
class Side:
    """`build(*arguments)`, a function of a module's top level, makes the step in the side's
    process; `keep` tells its allocator to keep freed memory, as our launcher does. `first`: the
    arguments of a small step that is built and made before memory is counted, for its imports."""

    build: Callable[..., Step]
    arguments: tuple[Any, ...]
    keep: bool
    first: tuple[Any, ...] | None = None


@dataclass(frozen=True)
class Timing:
    """Seconds a step of each round, and peak memory in MiB above what imports took."""

    seconds: list[float]
    peak: float


def timed(sides: Sequence[Side], rounds: int, steps: int, threads: int = 0) -> list[Timing]:
    """Time the sides in turn. Their first losses must agree to 1e-5: the same sums or nothing."""
    seconds: list[list[float]] = [[] for _ in sides]
    with _processes(sides, threads) as pipes:
        first = [pipe.recv() for pipe in pipes]
        difference = max(first) - min(first)
        assert difference < 1e-5, f"not the same sums: losses {first} differ by {difference:.1e}"
        for _ in range(rounds):
            for pipe, list_ in zip(pipes, seconds, strict=True):
                pipe.send(steps)
                list_.append(pipe.recv())
        peaks = []
        for pipe in pipes:
            pipe.send(0)
            peaks.append(pipe.recv())
    return [Timing(list_, peak) for list_, peak in zip(seconds, peaks, strict=True)]


@contextmanager
def _processes(sides: Sequence[Side], threads: int) -> Iterator[list[Connection]]:
    context = get_context("spawn")
    pipes, workers = [], []
    for side in sides:
        here, there = context.Pipe()
        worker = context.Process(target=_serve, args=(there, side, threads), daemon=True)
        worker.start()
        there.close()
        pipes.append(here)
        workers.append(worker)
    try:
        yield pipes
    finally:
        for pipe, worker in zip(pipes, workers, strict=True):
            pipe.close()
            worker.join()


def _serve(pipe: Connection, side: Side, threads: int) -> None:
    """Say the first loss, then answer numbers of steps with seconds; zero ends it with the peak."""
    if threads:
        torch.set_num_threads(threads)
    if side.keep:
        keep_freed_memory()
    if side.first is not None:
        side.build(*side.first)()
    before = resident("VmRSS")
    step = side.build(*side.arguments)
    pipe.send(step())
    while asked := pipe.recv():
        start = time.perf_counter()
        for _ in range(asked):
            step()
        pipe.send((time.perf_counter() - start) / asked)
    pipe.send(resident("VmHWM") - before)


def resident(which: str) -> float:
    """MiB: VmRSS now, VmHWM at most. (`ru_maxrss` would count the parent's, too.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{which}:"))
    return int(line.split()[1]) / 1024
