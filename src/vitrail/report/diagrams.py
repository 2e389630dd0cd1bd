"""An Evaluation -> the geometry of its reliability diagram and confusion matrix. Pure; ``charts.html`` draws them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vitrail.evaluation.calibration import ReliabilityBin
from vitrail.evaluation.metrics import Evaluation
from vitrail.report.charts import LEFT, RIGHT, TOP, WIDTH, Tick, short_number, shortened

HEAT_MAP_CLASSES = 60
NUMBERED_CLASSES = 12
# A bin with this many images is drawn at full strength: its accuracy is known to about 7 points.
FULL_BIN = 50


@dataclass(frozen=True)
class Bar:
    """A bin of the reliability diagram: its column, and the share of images in it drawn below."""

    opacity: float
    """Pale where few images make the bin uncertain."""
    x: float
    width: float
    y: float
    height: float
    share_height: float
    tip: str


@dataclass(frozen=True)
class Dot:
    """A bin after the temperature."""

    x: float
    y: float
    opacity: float


@dataclass(frozen=True)
class ReliabilityChart:
    """Accuracy by confidence, as the model is and after the temperature, with the share of images in each bin."""

    bars: tuple[Bar, ...]
    calibrated: tuple[Dot, ...]
    ticks: tuple[Tick, ...]
    """Of the confidence; those of the accuracy are the same fractions of the height."""
    y_ticks: tuple[Tick, ...]
    width: int = WIDTH
    height: int = 300
    left: int = LEFT + 14
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = 210
    share_top: int = 222
    share_bottom: int = 264


def reliability_chart(bins: Sequence[ReliabilityBin], calibrated: Sequence[ReliabilityBin]) -> ReliabilityChart:
    """Guo et al. (2017), figure 1: columns of accuracy beside the diagonal on which confidence would be deserved."""
    box = ReliabilityChart((), (), (), ())
    n = sum(b.n for b in bins)
    share = max(b.n for b in bins) / n

    def x_at(x: float) -> float:
        return round(box.left + x * (box.right - box.left), 1)

    def y_at(y: float) -> float:
        return round(box.bottom - y * (box.bottom - box.top), 1)

    bars = tuple(
        Bar(
            opacity=_strength(b.n),
            x=x_at(b.low),
            width=round(x_at(b.high) - x_at(b.low) - 1, 1),
            y=y_at(b.accuracy),
            height=round(box.bottom - y_at(b.accuracy), 1),
            share_height=round(b.n / n / share * (box.share_bottom - box.share_top), 1),
            tip=f"{b.n} images, {100 * b.confidence:.1f} % sure, {100 * b.accuracy:.1f} % right",
        )
        for b in bins
        if b.accuracy is not None and b.confidence is not None
    )
    dots = tuple(
        Dot(x_at(b.confidence), y_at(b.accuracy), _strength(b.n))
        for b in calibrated
        if b.accuracy is not None and b.confidence is not None
    )
    quarters = [0, 0.25, 0.5, 0.75, 1]
    return ReliabilityChart(
        bars=bars,
        calibrated=dots,
        ticks=tuple(Tick(x_at(f), f"{100 * f:g} %") for f in quarters),
        y_ticks=tuple(Tick(y_at(f), f"{100 * f:g} %") for f in quarters),
    )


def _strength(n: int) -> float:
    return round(0.15 + 0.85 * min(1.0, n / FULL_BIN), 2)


@dataclass(frozen=True)
class Cell:
    """One (true, predicted) pair that occurs: its corner, its strength 0 to 1, and what it says."""

    x: float
    y: float
    opacity: float
    right: bool
    text: str
    tip: str


@dataclass(frozen=True)
class HeatMap:
    """The confusion matrix: a row a true class, a column a predicted one, each row's colour by its own total."""

    cells: tuple[Cell, ...]
    rows: tuple[Tick, ...]
    columns: tuple[Tick, ...]
    side: int
    left: int
    top: int
    width: int
    height: int
    upright: bool
    """Whether the column names are written across, not up."""
    numbered: bool
    """Whether the cells are large enough to hold their counts."""


def heat_map(evaluation: Evaluation) -> HeatMap | None:
    """The matrix of all classes, or None with more than 60 of them, where nobody could read it."""
    labels = [shortened(label) for label in evaluation.labels]
    C = len(labels)
    if C > HEAT_MAP_CLASSES:
        return None
    side = 32 if C <= NUMBERED_CLASSES else 20 if C <= 25 else 16
    longest = max(len(label) for label in labels)
    upright = longest <= (4 if side == 32 else 2)
    left = 26 + round(6.6 * longest)
    top = 40 if upright else 30 + round(6.6 * longest)
    totals = [score.n for score in evaluation.per_class]

    def cell(target: int, predicted: int, n: int) -> Cell:
        share = n / totals[target]
        noun = "image" if n == 1 else "images"
        return Cell(
            x=left + predicted * side,
            y=top + target * side,
            opacity=round(0.12 + 0.88 * math.sqrt(share), 2),
            right=target == predicted,
            text=short_number(n) if C <= NUMBERED_CLASSES else "",
            tip=f"{n} {noun} of {evaluation.labels[target]} taken for {evaluation.labels[predicted]} "
            f"({100 * share:.1f} %)",
        )

    return HeatMap(
        cells=tuple(cell(p.target, p.predicted, p.n) for p in evaluation.pairs),
        rows=tuple(Tick(top + (i + 0.5) * side, label) for i, label in enumerate(labels)),
        columns=tuple(Tick(left + (i + 0.5) * side, label) for i, label in enumerate(labels)),
        side=side,
        left=left,
        top=top,
        width=left + C * side + 8,
        height=top + C * side + 8,
        upright=upright,
        numbered=C <= NUMBERED_CLASSES,
    )
