"""The arms side by side: the accuracy of each, and its difference to its opponent, with their intervals."""

from typing import TYPE_CHECKING

from vitrail.studies.conclusions.words import images, signed
from vitrail.studies.figures import style
from vitrail.studies.figures.style import INK, SERIES, SOFT, Look, Width
from vitrail.studies.findings import Findings, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ARM, _REFERENCE = Look(SERIES[0], "o", "-"), Look(INK, "D", "-")


def draw(findings: Findings, width: Width) -> "Figure":
    """One row an arm; narrow, its name and accuracy stand above its row."""
    return _wide(findings) if width == "wide" else _narrow(findings)


def caption(findings: Findings, width: Width) -> list[str]:
    """What is drawn and how it is read, a paragraph a panel."""
    points, reference = _points(findings), findings.study.reference
    accuracy = f"top-1 accuracy on {images(findings.setting)}, the mean over {style.seeds(points)}"
    told = (
        f"Differences to “{reference}” are taken seed by seed and image by image. A filled dot is told apart "
        f"from no difference even with all the study's comparisons in mind; an open one is not.{style.otherwise(findings)}"
    )
    intervals = f"Lines are 95 % intervals.{style.own_rate(findings.points)}"
    if not _compared(points):
        return [f"{accuracy[0].upper()}{accuracy[1:]}. {intervals}"]
    if width == "narrow":
        return [f"Difference to “{reference}” (diamond); beside each name the {accuracy}. {intervals}", told]
    return [f"a: {accuracy}; the diamond is the reference. {intervals}", f"b: difference to the reference. {told}"]


def _points(findings: Findings) -> list[Point]:
    """The answer, an arm a row."""
    chosen = {point.arm: point for point in style.last(findings) if point.chosen}
    return [chosen[arm] for arm in style.arms(findings) if arm in chosen]


def _compared(points: list[Point]) -> bool:
    return any(point.difference is not None for point in points)


def _wide(findings: Findings) -> "Figure":
    points, reference = _points(findings), findings.study.reference
    names = [style.wrapped(point.arm, 36) for point in points]
    lines = sum(name.count("\n") + 1 for name in names)
    fig = style.figure("wide", 0.85 + 0.22 * len(points) + 0.06 * lines)
    panels = fig.subplots(1, 2, sharey=True, width_ratios=(1, 1.15)) if _compared(points) else [fig.subplots()]
    accuracy = panels[0]
    for row, point in enumerate(points):
        look = _REFERENCE if point.arm == reference else _ARM
        mean, low, high = style.percent(point.top1)
        style.span(accuracy, [low, high], [row, row], look)
        style.mark(accuracy, mean, row, look)
        if point.arm == reference:
            accuracy.axvline(mean, color=SOFT, lw=0.8, ls=(0, (3, 3)), zorder=2)
    accuracy.set_xlabel("top-1 accuracy (%)")
    accuracy.set_yticks(range(len(points)), names)
    accuracy.set_ylim(len(points) - 0.4, -0.6)
    if len(panels) > 1:
        style.tag(accuracy, "a", "Accuracy")
        style.tag(panels[1], "b", f"Difference{style.to_reference(findings, 40)}")
        for row, point in enumerate(points):
            _difference(panels[1], row, point, reference)
            text = "reference" if point.arm == reference else _signed(point)
            panels[1].text(
                1.0, row, text, transform=panels[1].get_yaxis_transform(), ha="left", va="center", fontsize=7.5
            )
        _difference_axis(panels[1])
    for ax in panels:
        ax.grid(axis="y")
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
    return fig


def _narrow(findings: Findings) -> "Figure":
    points, reference = _points(findings), findings.study.reference
    compared = _compared(points)
    names = [style.wrapped(point.arm, 40) for point in points]
    lines = sum(name.count("\n") for name in names)
    fig = style.figure("narrow", 0.55 + 0.37 * len(points) + 0.12 * lines)
    ax = fig.subplots()
    row, rows = 0.0, []
    for name in names:
        row += 1 + 0.33 * name.count("\n")
        rows.append(row)
    across = ax.get_yaxis_transform()
    for row, name, point in zip(rows, names, points, strict=True):
        ax.text(0, row - 0.26, name, transform=across, va="bottom", fontsize=8)
        ax.text(1, row - 0.26, f"{100 * point.top1.mean:.1f} %", transform=across, ha="right", va="bottom", fontsize=8)
        ax.axhline(row, color=style.GRID, lw=0.7, zorder=0)
        if compared:
            _difference(ax, row, point, reference)
        else:
            mean, low, high = style.percent(point.top1)
            style.span(ax, [low, high], [row, row], _ARM)
            style.mark(ax, mean, row, _ARM)
    ax.set_yticks([])
    ax.set_ylim(row + 0.4, 0.1)
    ax.spines["left"].set_visible(False)
    if compared:
        _difference_axis(ax)
        ax.set_xlabel(f"difference{style.to_reference(findings, 30)} (percentage points)")
    else:
        ax.set_xlabel("top-1 accuracy (%)")
    return fig


def _difference(ax: "Axes", row: float, point: Point, reference: str) -> None:
    if point.arm == reference:
        style.mark(ax, 0, row, _REFERENCE)
    elif point.difference is not None:
        mean, low, high = style.percent(point.difference)
        style.span(ax, [low, high], [row, row], _ARM)
        style.mark(ax, mean, row, _ARM, filled=point.told_apart)


def _difference_axis(ax: "Axes") -> None:
    ax.axvline(0, color=SOFT, lw=0.8, ls=(0, (3, 3)), zorder=2)
    ax.set_xlabel("difference (percentage points)")


def _signed(point: Point) -> str:
    return "" if point.difference is None else signed(point.difference.mean)
