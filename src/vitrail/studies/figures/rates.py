"""Accuracy against the learning rate, and what one rate for all arms would have made you believe."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vitrail.report.charts import short_number
from vitrail.studies.conclusions.words import images
from vitrail.studies.figures import style
from vitrail.studies.figures.style import SOFT, Look, Width
from vitrail.studies.findings import Findings, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DEPTH = 30  # points of accuracy below the best that the curves' panel shows


def draw(findings: Findings, width: Width) -> "Figure":
    """a: a curve an arm. b: differences to the reference at each single rate, and each at its own best."""
    compared = any(point.difference is not None for point in findings.points)
    shown = style.looks(findings)
    if width == "wide":
        fig = style.figure(width, 3.1 + style.legend_height(shown, width))
        panels = fig.subplots(1, 2 if compared else 1, squeeze=False).ravel()
    else:
        fig = style.figure(width, (5.2 if compared else 2.7) + style.legend_height(shown, width))
        panels = fig.subplots(2 if compared else 1, 1, squeeze=False).ravel()
    style.legend(fig, shown, width)
    _curves(panels[0], findings, shown)
    if compared:
        _differences(panels[1], findings, shown)
    return fig


def caption(findings: Findings, width: Width) -> list[str]:
    """What is drawn and how it is read, a paragraph a panel."""
    points, reference = style.last(findings), findings.study.reference
    drawn = [
        f"a: top-1 accuracy on {images(findings.setting)} at each learning rate, the mean over {style.seeds(points)}; "
        "bands are 95 % intervals, and a ring marks the rate that was best on the validation images."
        + (" Curves that leave the panel go on below it." if _floor(points) is not None else ""),
    ]
    if any(point.diverged for point in points):
        drawn[0] += " A cross marks a rate at which runs diverged; they count as 0 %."
    if any(point.difference is not None for point in points):
        drawn.append(
            f"b: differences to “{reference}”, seed by seed and image by image, with 95 % intervals: at each single "
            "rate, which is what a comparison at that rate alone would have shown, and on the right each arm at its own "
            "best rate, which is the answer. There a filled marker is told apart from no difference even with all the "
            f"study's comparisons in mind; an open one is not.{style.otherwise(findings)}"
            + (" A number stands for a difference beyond the panel." if _beyond(points) else "")
        )
    return drawn


def _curves(ax: "Axes", findings: Findings, shown: dict[str, Look]) -> None:
    points = style.last(findings)
    for i, (arm, look) in enumerate(shown.items()):
        own = sorted((point for point in points if point.arm == arm), key=lambda point: point.lr)
        if not own:
            continue
        style.curve(ax, [point.lr for point in own], own, look)
        for point in own:
            if point.chosen:
                ring = 9 + 2.5 * (i % 4)  # those of arms that lie on each other are nested
                ax.plot(
                    [point.lr], [100 * point.top1.mean], "o", ms=ring, mfc="none", mec=look.colour, mew=1.2, zorder=5
                )
    rates = sorted({point.lr for point in points})
    if len(rates) > 1:
        ax.set_xscale("log")
    ax.set_xticks(rates, _rate_texts(rates))
    ax.minorticks_off()
    ax.margins(x=0.08, y=0.1)
    floor = _floor(points)
    if floor is not None:
        ax.set_ylim(bottom=floor)
    ax.grid(axis="y")
    ax.set_xlabel("learning rate")
    ax.set_ylabel("top-1 accuracy (%)", rotation_mode="anchor")
    style.tag(ax, "a", "Accuracy at each learning rate")


def _differences(ax: "Axes", findings: Findings, shown: dict[str, Look]) -> None:
    points, reference = style.last(findings), findings.study.reference
    others = [arm for arm in shown if arm != reference]
    rates = sorted({point.lr for point in points})
    place = {rate: float(i) for i, rate in enumerate(rates)}
    own_best = len(rates) + 0.25
    limit = _limit(points)
    step = min(0.2, 0.7 / len(others))
    for i, arm in enumerate(others):
        shift, look = step * (i - (len(others) - 1) / 2), shown[arm]
        for point in (point for point in points if point.arm == arm):
            x = place[point.lr] + shift
            if point.difference_at_rate is not None:
                mean, low, high = style.percent(point.difference_at_rate)
                if abs(mean) > limit:
                    _outside(ax, x, mean, look)
                else:
                    style.span(ax, [x, x], [low, high], look)
                    style.mark(ax, x, mean, look, size=3.5)
            if point.chosen and point.difference is not None:
                mean, low, high = style.percent(point.difference)
                style.span(ax, [own_best + shift] * 2, [low, high], look)
                style.mark(ax, own_best + shift, mean, look, filled=point.told_apart, size=5.5)
    ax.axhline(0, color=SOFT, lw=0.8, ls=(0, (3, 3)), zorder=2)
    ax.axvspan(own_best - 0.62, own_best + 0.55, color=style.GRID, alpha=0.6, lw=0, zorder=0)
    ax.set_xticks([*place.values(), own_best], [*_rate_texts(rates), "own best"])
    ax.get_xticklabels()[-1].set_fontweight("bold")
    ax.set_xlim(-0.55, own_best + 0.55)
    ax.margins(y=0.1)
    ax.grid(axis="y")
    ax.set_xlabel("one learning rate for all arms, or each arm's own")
    ax.set_ylabel("difference (points)", rotation_mode="anchor")
    style.tag(ax, "b", f"Difference{style.to_reference(findings, 32)}")


def _floor(points: Sequence[Point]) -> float | None:
    """Where the panel of the curves ends below, if some go far below the best: there the best would not be told apart."""
    means = [100 * point.top1.mean for point in points]
    floor = max(means) - _DEPTH
    return floor if min(means) < floor else None


def _limit(points: Sequence[Point]) -> float:
    """The greatest difference in points that is drawn at its place: enough for the answer, and for half of the rest."""
    single = sorted(_sizes(points))
    own = [100 * max(abs(p.difference.low), abs(p.difference.high)) for p in points if p.chosen and p.difference]
    return max([1.0, *own, *(2.5 * value for value in single[len(single) // 2 : len(single) // 2 + 1])])


def _beyond(points: Sequence[Point]) -> bool:
    return any(size > _limit(points) for size in _sizes(points))


def _sizes(points: Sequence[Point]) -> list[float]:
    """Of the differences at single rates, in points, whatever their sign."""
    return [100 * abs(point.difference_at_rate.mean) for point in points if point.difference_at_rate is not None]


def _outside(ax: "Axes", x: float, value: float, look: Look) -> None:
    """A difference that lies beyond the panel: its number at the edge."""
    text = f"{value:+.0f}".replace("-", "−")
    y, va = (0.98, "top") if value > 0 else (0.02, "bottom")
    how: dict[str, Any] = {"ha": "center", "va": va, "fontsize": 7.5, "color": look.colour}
    ax.text(x, y, text, transform=ax.get_xaxis_transform(), rotation=90, **how)


def _rate_texts(rates: list[float]) -> list[str]:
    return [short_number(rate) for rate in rates]
