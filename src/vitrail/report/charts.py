"""Curves over axes -> the geometry of a line chart: scales, ticks, paths. Pure; ``charts.html`` draws it as SVG.

All lengths are in SVG user units, about one CSS pixel at the width of a phone. The origin is the top left corner.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

WIDTH, HEIGHT = 350, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 36
MAX_POINTS = 240


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Series:
    """A named curve; ``role`` is the class by which the style sheet colours it (train, val, test, lr)."""

    name: str
    role: str
    xs: Sequence[float]
    ys: Sequence[float]


@dataclass(frozen=True)
class Curve:
    name: str
    role: str
    path: str
    dots: tuple[tuple[float, float], ...]
    """Markers, where the points are few enough to be told apart."""


@dataclass(frozen=True)
class LineChart:
    """Curves over one pair of axes."""

    title: str
    unit: str
    """Of the values; empty where they have none."""
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    curves: tuple[Curve, ...]
    summary: str
    """One sentence for those who do not see the picture, and below it for those who do."""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM

    @property
    def legend(self) -> list[tuple[str, str]]:
        """(name, role) of every curve."""
        return [(curve.name, curve.role) for curve in self.curves]


def line_chart(
    title: str,
    unit: str,
    series: Sequence[Series],
    *,
    x_label: str = "step",
    x_range: tuple[float, float] | None = None,
    percent: bool = False,
    summary: str = "",
) -> LineChart | None:
    """A chart of all points that are finite, or None where no series has two of them.

    ``x_range`` is that of the points where none is given; it lets charts beside each other share theirs.
    """
    series = [s for s in map(_finite, series) if s.xs]
    if not any(len(s.xs) > 1 for s in series):
        return None
    x_range = _range(x_range or [x for s in series for x in s.xs])
    series = [_thinned(s) for s in series]
    y_values = [y for s in series for y in s.ys]
    y_ticks = ticks(*_range(y_values))
    y_range = min(y_ticks[0], min(y_values)), max(y_ticks[-1], max(y_values))
    if percent:
        y_range = max(0.0, y_range[0]), min(1.0, y_range[1])

    def x_at(x: float) -> float:
        return LEFT + (x - x_range[0]) / (x_range[1] - x_range[0]) * (WIDTH - LEFT - RIGHT)

    def y_at(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_range[0]) / (y_range[1] - y_range[0]) * (HEIGHT - TOP - BOTTOM)

    def curve(s: Series) -> Curve:
        points = [(round(x_at(x), 1), round(y_at(y), 1)) for x, y in zip(s.xs, s.ys, strict=True)]
        path = "M" + " ".join(f"{x:g},{y:g}" for x, y in points)
        return Curve(s.name, s.role, path, tuple(points) if len(points) <= 24 else ())

    text = (lambda y: f"{100 * y:g} %") if percent else short_number
    return LineChart(
        title=title,
        unit=unit,
        x_label=x_label,
        x_ticks=tuple(Tick(round(x_at(x), 1), short_number(x)) for x in ticks(*x_range) if _within(x, x_range)),
        y_ticks=tuple(Tick(round(y_at(y), 1), text(y)) for y in y_ticks if _within(y, y_range)),
        curves=tuple(curve(s) for s in series),
        summary=summary,
    )


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that cover low to high, ``low < high``."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def short_number(value: float) -> str:
    """At most about six characters: 0.0003 -> 3e-4, 1500 -> 1500, 25000 -> 25k, 2000000 -> 2M."""
    if value == 0:
        return "0"
    if abs(value) < 1e-2:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scale = 1e3 if letter == "k" else limit
            return f"{value / scale:.3g}{letter}"
    return f"{value:.4g}"


def shortened(text: str, longest: int = 16) -> str:
    """The text, cut with an ellipsis where it is longer."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _finite(s: Series) -> Series:
    points = [(x, y) for x, y in zip(s.xs, s.ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
    return Series(s.name, s.role, [x for x, _ in points], [y for _, y in points])


def _thinned(s: Series) -> Series:
    """At most 240 points: the means of equal parts, which keep the course and not the noise."""
    size = -(-len(s.xs) // MAX_POINTS)
    if size <= 1:
        return s
    parts = [slice(i, i + size) for i in range(0, len(s.xs), size)]
    return Series(s.name, s.role, [fmean(s.xs[p]) for p in parts], [fmean(s.ys[p]) for p in parts])


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Least and greatest, kept apart."""
    low, high = min(values), max(values)
    if high > low:
        return low, high
    margin = abs(low) / 2 or 0.5
    return low - margin, high + margin


def _within(value: float, bounds: tuple[float, float]) -> bool:
    slack = 1e-9 * (bounds[1] - bounds[0])
    return bounds[0] - slack <= value <= bounds[1] + slack
