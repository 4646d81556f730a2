"""Line charts: axes, ticks, legend, drawn with Pillow at three times the size and reduced."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL.Image import Resampling, fromarray
from PIL.ImageDraw import Draw
from PIL.ImageFont import load_default

# Okabe and Ito's colours, told apart by colour-blind readers; the palest left out
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
FINE = 3  # drawn this many times larger: smooth lines
SIZE = (760, 430)  # width and height
MARGINS = (64, 40, 18, 44)  # left, top, right, bottom

Line = Sequence[tuple[float | int, float | int]]


def curves(
    series: Mapping[str, Line],
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    log: bool = False,
    log_x: bool = False,
) -> UInt8[np.ndarray, "h w 3"]:
    """Named lines of (x, y) in one chart. `log` makes the y axis logarithmic, `log_x` the x axis.

    What is not finite (and with `log` not positive) is left out; a line of one value is a dot.
    """
    lines = {name: drawable(line, log, log_x) for name, line in series.items()}
    xs = [x for line in lines.values() for x, _ in line]
    ys = [y for line in lines.values() for _, y in line]
    chart = Chart(span(xs), span(ys), log, all(x == int(x) for x in xs), log_x)
    chart.axes(title, x_label, y_label)
    for index, (name, line) in enumerate(lines.items()):
        chart.line(line, COLOURS[index % len(COLOURS)])
        chart.entry(index, name, COLOURS[index % len(COLOURS)])
    return chart.picture()


def drawable(line: Line, log: bool, log_x: bool = False) -> list[tuple[float, float]]:
    return [
        (math.log10(x) if log_x else float(x), math.log10(y) if log else float(y))
        for x, y in line
        if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log) and (x > 0 or not log_x)
    ]


def span(values: Sequence[float]) -> tuple[float, float]:
    """Smallest and largest, never equal."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low == high:
        half = abs(low) * 0.05 or 0.5
        return low - half, high + half
    return low, high


def ticks(low: float, high: float, wanted: int = 6, least: float = 0.0) -> list[float]:
    """Round numbers from low to high, 1, 2 or 5 times a power of ten apart, at least `least`.

    >>> ticks(0, 1, 5)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / rough)))
    step = max(step, least)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Exponents to mark: powers of ten, also 2 and 5 times them, or plain round numbers, whichever
    gives enough of them."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1,), (1, 2, 5)):
        found = [power + math.log10(factor) for power in powers for factor in factors]
        inside = [exponent for exponent in found if low <= exponent <= high]
        if len(inside) >= 4:
            return inside
    return [math.log10(y) for y in ticks(10**low, 10**high) if y > 0]


class Chart:
    """A sheet with a frame whose inside shows x and y spans."""

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        log: bool,
        whole: bool,
        log_x: bool = False,
    ) -> None:
        self.x, self.log, self.whole = x, log, whole  # whole: x counts something
        self.log_x = log_x
        air = 0.04 * (y[1] - y[0])
        self.y = (y[0] - air, y[1] + air)
        left, top, right, bottom = MARGINS
        self.left, self.top = left * FINE, top * FINE
        self.right, self.bottom = (SIZE[0] - right) * FINE, (SIZE[1] - bottom) * FINE
        self.sheet = fromarray(np.full((SIZE[1] * FINE, SIZE[0] * FINE, 3), 255, np.uint8))
        self.pen = Draw(self.sheet)
        self.font, self.large = load_default(12 * FINE), load_default(15 * FINE)
        self.legend = self.left

    def across(self, x: float) -> float:
        return self.left + (x - self.x[0]) / (self.x[1] - self.x[0]) * (self.right - self.left)

    def up(self, y: float) -> float:
        return self.bottom - (y - self.y[0]) / (self.y[1] - self.y[0]) * (self.bottom - self.top)

    def axes(self, title: str, x_label: str, y_label: str) -> None:
        pen, font, ink = self.pen, self.font, "#333333"
        for y in log_ticks(*self.y) if self.log else ticks(*self.y):
            at, text = self.up(y), f"{10**y if self.log else y:.4g}"
            pen.line((self.left, at, self.right, at), fill="#e6e6e6", width=FINE)
            pen.text((self.left - 6 * FINE, at), text, fill=ink, font=font, anchor="rm")
        marks = ticks(*self.x, wanted=8, least=float(self.whole))
        for x in log_ticks(*self.x) if self.log_x else marks:
            at, text = self.across(x), f"{10**x if self.log_x else x:.6g}"
            pen.line((at, self.bottom, at, self.bottom + 4 * FINE), fill=ink, width=FINE)
            pen.text((at, self.bottom + 7 * FINE), text, fill=ink, font=font, anchor="mt")
        pen.line((self.left, self.top, self.left, self.bottom), fill=ink, width=FINE)
        pen.line((self.left, self.bottom, self.right, self.bottom), fill=ink, width=FINE)
        pen.text((self.left, 8 * FINE), y_label, fill=ink, font=font, anchor="lt")
        middle, low = (self.left + self.right) / 2, (SIZE[1] - 6) * FINE
        pen.text((middle, low), x_label, fill=ink, font=font, anchor="ms")
        pen.text((middle, 6 * FINE), title, fill="black", font=self.large, anchor="mt")

    def line(self, values: Sequence[tuple[float, float]], colour: str) -> None:
        dots = [(self.across(x), self.up(y)) for x, y in values]
        if len(dots) > 1:
            self.pen.line(dots, fill=colour, width=2 * FINE, joint="curve")
        if len(dots) <= 40:
            radius = 2.5 * FINE
            for x, y in dots:
                self.pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    def entry(self, index: int, name: str, colour: str) -> None:
        """One legend entry, right of the one before."""
        x, y = self.legend, self.top - 9 * FINE
        self.pen.line((x, y, x + 16 * FINE, y), fill=colour, width=3 * FINE)
        self.pen.text((x + 21 * FINE, y), name, fill="#333333", font=self.font, anchor="lm")
        self.legend = x + (36 * FINE) + int(self.font.getlength(name))

    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        return np.asarray(self.sheet.resize(SIZE, Resampling.LANCZOS))
