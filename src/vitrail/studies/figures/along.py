"""Accuracy along a quantity such as the fraction of the data, and along the training cost that it brings."""

from typing import TYPE_CHECKING, Any

from vitrail.studies.conclusions.words import images, value
from vitrail.studies.figures import style
from vitrail.studies.figures.style import Look, Width
from vitrail.studies.findings import Findings, Point
from vitrail.studies.study import Along

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(findings: Findings, width: Width) -> "Figure":
    """a: a curve an arm over the values. b: the same points over the FLOPs of their training."""
    shown = style.looks(findings)
    fig = style.figure(width, (3.1 if width == "wide" else 4.9) + style.legend_height(shown, width))
    panels = fig.subplots(1, 2, sharey=True) if width == "wide" else fig.subplots(2, 1)
    style.legend(fig, shown, width)
    _values(panels[0], findings, shown)
    _training(panels[1], findings, shown)
    for ax in panels:
        ax.grid(axis="y")
    for ax in panels if width == "narrow" else panels[:1]:
        ax.set_ylabel("top-1 accuracy (%)", rotation_mode="anchor")
    return fig


def caption(findings: Findings, width: Width) -> list[str]:
    """What is drawn and how it is read, a paragraph a panel."""
    crosses = (
        " A cross marks runs that diverged; they count as 0 %." if any(p.diverged for p in findings.answer) else ""
    )
    return [
        f"a: top-1 accuracy on {images(findings.setting)} for each {_label(_along(findings))}, the mean over "
        f"{style.seeds(findings.answer)}; bands are 95 % intervals.{crosses}{style.own_rate(findings.points)}",
        "b: the same runs against the floating-point operations that their training took.",
    ]


def _along(findings: Findings) -> Along:
    along = findings.study.along
    assert along is not None, "a study with this view has along"
    return along


def _label(along: Along) -> str:
    return along.label or along.key


def _of(findings: Findings, arm: str) -> list[Point]:
    """An arm's answer, in the order of the values."""
    order = [repr(each) for each in _along(findings).values]
    own = [point for point in findings.answer if point.arm == arm and repr(point.along) in order]
    return sorted(own, key=lambda point: order.index(repr(point.along)))


def _values(ax: "Axes", findings: Findings, shown: dict[str, Look]) -> None:
    along = _along(findings)
    numbers = [each for each in along.values if _number(each)]
    numeric = len(numbers) == len(along.values)
    place = {repr(each): float(each) if numeric else float(i) for i, each in enumerate(along.values)}
    for arm, look in shown.items():
        own = _of(findings, arm)
        if own:
            style.curve(ax, [place[repr(point.along)] for point in own], own, look)
    if numeric and min(numbers) > 0 and max(numbers) > 10 * min(numbers):
        ax.set_xscale("log")
    ax.set_xticks(list(place.values()), _texts(findings, along))
    ax.minorticks_off()
    ax.set_xlabel(f"{_label(along)}\nand number of images" if along.key.endswith("fraction") else _label(along))
    style.tag(ax, "a", "Accuracy")


def _texts(findings: Findings, along: Along) -> list[str]:
    """Tick labels; fractions of the data with the number of images below."""
    counts = {repr(point.along): point.size.images for point in findings.answer}
    texts = []
    for each in along.values:
        text = value(findings.study, each)
        fraction = along.key.endswith("fraction") and repr(each) in counts
        texts.append(f"{text}\n{counts[repr(each)]:,}" if fraction else text)
    return texts


def _training(ax: "Axes", findings: Findings, shown: dict[str, Look]) -> None:
    for arm, look in shown.items():
        own = _of(findings, arm)
        if own:
            style.curve(ax, [point.size.training_flops for point in own], own, look)
    ax.set_xscale("log")
    style.log_ticks(ax, "x", most=6)
    ax.set_xlabel("FLOPs of training")
    style.tag(ax, "b", "Accuracy for the training it took")


def _number(each: Any) -> bool:
    return isinstance(each, int | float) and not isinstance(each, bool)
