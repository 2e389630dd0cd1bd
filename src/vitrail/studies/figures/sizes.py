"""Accuracy at sizes other than the training's: as trained, after a brief fine-tuning, and for what an image then costs."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from vitrail.studies.conclusions.at_sizes import AtSizes, Pixels, text
from vitrail.studies.conclusions.words import images, joined, named
from vitrail.studies.figures import arms, style
from vitrail.studies.figures.style import SOFT, Look, Width
from vitrail.studies.findings import Findings, SizePoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_STAGES = ("As trained", "Fine-tuned at each size")
_GROUP = 0.62
"""The part of the way to the nearest other size that the arms side by side at a size take up."""
_CLOSE = 0.02
"""The part of the whole axis that lies between two neighbours of such a group at most."""
_TICKS = (100, 99.5, 99, 98, 95, 90, 80, 70, 60, 50, 40, 30, 20, 10, 0)


def draw(findings: Findings, width: Width) -> "Figure":
    """a, b: an arm's accuracy over the sizes, as trained and fine-tuned. c: over the FLOPs of an image. d, e: differences.

    The last two show the arms that read the same trained models in another way; they lie too close for curves. Before
    any size was tried, the arms as they were trained are drawn side by side.
    """
    if not findings.sizes:
        return arms.draw(findings, width)
    found = _found(findings)
    kinds = style.looks_of(findings.study.reference, found.kinds)
    readings = style.separate_looks(found.readings)
    heights = [(4.9 if width == "wide" else 7.6) + style.legend_height(kinds, width)]
    if readings:
        heights.append((2.0 if width == "wide" else 4.1) + style.legend_height(readings, width))
    fig = style.figure(width, sum(heights))
    parts: list[Any] = list(fig.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    _curves(parts[0], found, kinds, width)
    if readings:
        _readings(parts[1], found, readings, width)
    return fig


def caption(findings: Findings, width: Width) -> list[str]:
    """What is drawn and how it is read, a paragraph a panel or two."""
    if not findings.sizes:
        return arms.caption(findings, width)
    found = _found(findings)
    base = text(found.base)
    count = sorted({point.seeds for point in found.points})
    seeds = f"{count[0]} seeds" if len(count) == 1 else f"{count[0]} to {count[-1]} seeds"
    crosses = " A cross marks arms with runs that diverged; they count as 0 %." if _any_diverged(found) else ""
    said = [
        f"a: top-1 accuracy on {images(findings.setting)} brought to each size, of models trained at {base} (dotted line), "
        f"the mean over {seeds} with its 95 % interval; arms stand side by side at each size. The dashed line is "
        f"“{findings.study.reference}” at {base}. The scale is stretched towards 100 %, as the square root of the error."
        f"{crosses}{style.own_rate(findings.points)}",
        f"b: the same models, briefly fine-tuned at the size they are tested at. At {base} this is the control: what so "
        "much more training brings without a change of size.",
        "c: the accuracies of b (lines) and of a (small markers) against the floating-point operations of one image.",
    ]
    if found.readings:
        of = list(dict.fromkeys(found.study.opponent(arm) for arm in found.readings))
        told = "A filled marker is told apart from no difference even with all the study's comparisons in mind."
        said.append(
            f"d and e: the trained models of {joined([named(arm) for arm in of])}, brought to a size in other ways, as "
            f"trained (d) and after the fine-tuning (e): differences to {'it' if len(of) == 1 else 'them'}, seed by seed "
            f"and image by image, with 95 % intervals. {told} At {base} there is nothing to choose."
        )
    return said


def _found(findings: Findings) -> AtSizes:
    return AtSizes(findings.study, findings.points, findings.sizes)


def _any_diverged(found: AtSizes) -> bool:
    return any(found.diverged(arm)[0] for arm in found.kinds)


def _curves(part: "SubFigure", found: AtSizes, shown: dict[str, Look], width: Width) -> None:
    if width == "wide":
        grid = part.add_gridspec(2, 2, height_ratios=(2.5, 2.1))
        first = part.add_subplot(grid[0, 0])
        panels = [first, part.add_subplot(grid[0, 1], sharey=first), part.add_subplot(grid[1, :])]
        panels[1].tick_params(labelleft=False)
    else:
        panels = list(part.subplots(3, 1))
    style.legend(part, shown, width)
    reference = found.at(found.study.reference, found.base, False)
    step = _step(found, len(shown))
    for ax, tuned, letter in zip(panels, (False, True), "ab", strict=False):
        for i, (arm, look) in enumerate(shown.items()):
            own = found.row(arm, tuned)
            beside = step ** (i - (len(shown) - 1) / 2)
            places = [_place(point.image_size) * beside for point in own]
            _curve(ax, places, own, look, bool(found.diverged(arm)[0]))
        if reference:
            ax.axhline(100 * reference.top1.mean, color=SOFT, lw=0.8, ls=(0, (4, 3)), zorder=2)
        _size_axis(ax, found)
        style.tag(ax, letter, _STAGES[tuned])
    _for_flops(panels[2], found, shown)
    style.tag(panels[2], "c", "For the FLOPs of an image")
    kinds = [point for point in found.points if point.arm in shown]
    low, high = 100 * min(point.top1.low for point in kinds), 100 * max(point.top1.high for point in kinds)
    for ax in panels:
        _accuracy_axis(ax, low, high)
        ax.grid(axis="y")
    for ax in panels if width == "narrow" else panels[::2]:
        ax.set_ylabel("top-1 accuracy (%)", rotation_mode="anchor")


def _step(found: AtSizes, arms: int) -> float:
    """The factor from one arm's place at a size to the next one's: a group stays clear of the next size, few stay close."""
    places = [_place(size) for size in found.sizes]
    nearest = min((b / a for a, b in pairwise(places)), default=1.0)
    return min(nearest ** (_GROUP / arms), (places[-1] / places[0]) ** _CLOSE)


def _curve(ax: "Axes", xs: Sequence[float], points: Sequence[SizePoint], look: Look, diverged: bool) -> None:
    """An arm's accuracy in per cent over ``xs``, with its 95 % intervals as lines: bands of many arms hide each other."""
    for x, point in zip(xs, points, strict=True):
        mean, low, high = style.percent(point.top1)
        ax.plot([x, x], [low, high], "-", color=look.colour, lw=0.9, alpha=0.75, solid_capstyle="butt", zorder=2.5)
        style.mark(ax, x, mean, Look(look.colour, "x", look.line) if diverged else look, size=3.2)
    ax.plot(xs, [100 * point.top1.mean for point in points], look.line, color=look.colour, lw=0.8, alpha=0.55, zorder=2)


def _for_flops(ax: "Axes", found: AtSizes, shown: dict[str, Look]) -> None:
    """Curves of the fine-tuned models over the FLOPs; the others as small markers, without lines to be read as curves."""
    unit, name = (1e9, "G") if max(point.flops for point in found.points) >= 1e9 else (1e6, "M")
    for arm, look in shown.items():
        for tuned in (False, True):
            own = found.row(arm, tuned)
            xs, ys = [point.flops / unit for point in own], [100 * point.top1.mean for point in own]
            if tuned:
                ax.plot(xs, ys, look.line, color=look.colour, lw=1.0, marker=look.marker, ms=3.8, zorder=3)
            else:
                ax.plot(xs, ys, ls="", marker=look.marker, color=look.colour, ms=2.4, alpha=0.55, zorder=2)
    style.log_ticks(ax, "x", most=4)
    ax.set_xlabel(f"{name}FLOPs of one image")


def _accuracy_axis(ax: "Axes", low: float, high: float) -> None:
    """Accuracy in per cent, stretched as the square root of the error: good arms differ little, and still differ."""
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    def place(accuracy: Any) -> Any:
        error = 100 - np.asarray(accuracy, float)
        return -np.sign(error) * np.sqrt(np.abs(error))

    def accuracy(place: Any) -> Any:
        return 100 + np.sign(place) * np.square(place)

    ax.set_yscale("function", functions=(place, accuracy))
    ends = place([low, high])
    margin = max(0.05 * (ends[1] - ends[0]), 0.05)
    bottom, top = (float(end) for end in accuracy(np.array([ends[0] - margin, ends[1] + margin])))
    ax.set_ylim(bottom, top)
    ticks: list[float] = []
    for tick in (tick for tick in _TICKS if bottom <= tick <= top):
        if not ticks or place(ticks[-1]) - place(tick) >= 0.1 * (ends[1] - ends[0]):
            ticks.append(tick)
    if len(ticks) < 3:
        ticks = [
            float(tick) for tick in MaxNLocator(4).tick_values(bottom, min(top, 100)) if bottom <= tick <= min(top, 100)
        ]
    ax.set_yticks(ticks, [f"{tick:.6g}" for tick in ticks])
    ax.minorticks_off()


def _size_axis(ax: "Axes", found: AtSizes) -> None:
    """Sizes on a logarithmic axis, so that half and twice are equally far, with the size of the training marked."""
    ax.set_xscale("log")
    ax.set_xticks([_place(size) for size in found.sizes], [_tick(size) for size in found.sizes])
    ax.minorticks_off()
    ax.margins(x=0.05)
    _mark_base(ax, _place(found.base), found)
    ax.set_xlabel("size of the images (pixels)")


def _mark_base(ax: "Axes", x: float, found: AtSizes) -> None:
    ax.axvline(x, color=SOFT, lw=0.8, ls=(0, (1, 2)), zorder=0)
    ax.get_xticklabels()[found.sizes.index(found.base)].set_fontweight("bold")


def _readings(part: "SubFigure", found: AtSizes, shown: dict[str, Look], width: Width) -> None:
    panels = part.subplots(1, 2, sharey=True) if width == "wide" else part.subplots(2, 1, sharey=True)
    style.legend(part, shown, width, lines=False)
    step = min(0.15, 0.75 / len(shown))
    for ax, tuned, letter in zip(panels, (False, True), "de", strict=True):
        for i, (arm, look) in enumerate(shown.items()):
            shift = step * (i - (len(shown) - 1) / 2)
            for x, size in enumerate(found.others):
                point = found.at(arm, size, tuned)
                if point is not None and point.difference is not None:
                    mean, low, high = style.percent(point.difference)
                    style.span(ax, [x + shift] * 2, [low, high], look)
                    style.mark(ax, x + shift, mean, look, filled=point.told_apart, size=3.8)
        ax.axhline(0, color=SOFT, lw=0.8, ls=(0, (4, 3)), zorder=2)
        ax.set_xticks(range(len(found.others)), [_tick(size) for size in found.others])
        ax.set_xlim(-0.55, len(found.others) - 0.45)
        ax.grid(axis="y")
        ax.set_xlabel("size of the images (pixels)")
        style.tag(ax, letter, f"Difference, {_STAGES[tuned][0].lower()}{_STAGES[tuned][1:]}")
    for ax in panels if width == "narrow" else panels[:1]:
        ax.set_ylabel("difference (points)", rotation_mode="anchor")


def _place(size: Pixels) -> float:
    return float((size[0] * size[1]) ** 0.5)


def _tick(size: Pixels) -> str:
    """A side alone where the size is a square."""
    return f"{size[0]}" if size[0] == size[1] else f"{size[0]}×\n{size[1]}"
