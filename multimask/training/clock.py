"""How fast training goes, validation and pictures left out."""

import time


class Clock:
    """`start` before an epoch's steps, `tick` after each, `end_epoch` for samples per second."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.seconds, self.steps = 0.0, 0  # of finished epochs
        self.started = self.ticked = 0.0
        self.ticks = 0

    def start(self) -> None:
        self.started = self.ticked = time.perf_counter()
        self.ticks = 0

    def tick(self) -> None:
        self.ticked = time.perf_counter()
        self.ticks += 1

    def end_epoch(self) -> float:
        """Samples per second of the epoch that ends."""
        seconds, steps = self.ticked - self.started, self.ticks
        self.seconds, self.steps = self.seconds + seconds, self.steps + steps
        return steps * self.batch_size / seconds if seconds else 0.0

    @property
    def speed(self) -> float:
        return self.steps * self.batch_size / self.seconds if self.seconds else 0.0
