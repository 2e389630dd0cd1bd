"""Accuracy at sizes other than the training's: as trained, after a brief fine-tuning, and for what an image then costs."""

from collections.abc import Sequence
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


def draw(findings: Findings, width: Width) -> "Figure":
    """a, b: a curve an arm over the sizes, as trained and fine-tuned. c: over the FLOPs of an image. d, e: differences.

    The last two show the arms that read the same trained models in another way; they lie too close for curves. Before
    any size was tried, the arms as they were trained are drawn side by side.
    """
    if not findings.sizes:
        return arms.draw(findings, width)
    found = _found(findings)
    kinds = style.looks_of(findings.study.reference, found.kinds)
    readings = style.separate_looks(found.readings)
    heights = [(2.45 if width == "wide" else 6.6) + style.legend_height(kinds, width)]
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
        f"the mean over {seeds}; bands are 95 % intervals. The dashed line is “{findings.study.reference}” at {base}."
        f"{crosses}{style.own_rate(findings.points)}",
        f"b: the same models, briefly fine-tuned at the size they are tested at. At {base} this is the control: what so "
        "much more training brings without a change of size. a and b have axes of their own.",
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
    panels = part.subplots(1, 3) if width == "wide" else part.subplots(3, 1)
    style.legend(part, shown, width)
    reference = found.at(found.study.reference, found.base, False)
    for ax, tuned, letter in zip(panels, (False, True), "ab", strict=False):
        for arm, look in shown.items():
            own = found.row(arm, tuned)
            _curve(ax, [_place(point.image_size) for point in own], own, look, bool(found.diverged(arm)[0]))
        if reference:
            ax.axhline(100 * reference.top1.mean, color=SOFT, lw=0.8, ls=(0, (4, 3)), zorder=2)
        _size_axis(ax, found)
        style.tag(ax, letter, _STAGES[tuned])
    _for_flops(panels[2], found, shown)
    style.tag(panels[2], "c", "For the FLOPs of an image")
    for ax in panels:
        ax.grid(axis="y")
    for ax in panels if width == "narrow" else panels[:1]:
        ax.set_ylabel("top-1 accuracy (%)", rotation_mode="anchor")


def _curve(ax: "Axes", xs: Sequence[float], points: Sequence[SizePoint], look: Look, diverged: bool) -> None:
    """An arm's accuracy in per cent over ``xs``, with its band of 95 % intervals."""
    if not points:
        return
    means, lows, highs = zip(*(style.percent(point.top1) for point in points), strict=True)
    ax.fill_between(xs, lows, highs, color=look.colour, alpha=0.12, lw=0, zorder=1)
    ax.plot(xs, means, look.line, color=look.colour, lw=1.2, zorder=3)
    for x, y in zip(xs, means, strict=True):
        style.mark(ax, x, y, Look(look.colour, "x", look.line) if diverged else look, size=3.8)


def _for_flops(ax: "Axes", found: AtSizes, shown: dict[str, Look]) -> None:
    """Curves of the fine-tuned models over GFLOPs; the others as small markers, on lines too faint to read as curves."""
    for arm, look in shown.items():
        for tuned in (False, True):
            own = found.row(arm, tuned)
            xs, ys = [point.flops / 1e9 for point in own], [100 * point.top1.mean for point in own]
            if tuned:
                ax.plot(xs, ys, look.line, color=look.colour, lw=1.2, marker=look.marker, ms=3.8, zorder=3)
            else:
                ax.plot(xs, ys, ls="", marker=look.marker, color=look.colour, ms=2.4, alpha=0.55, zorder=2)
    style.log_ticks(ax, "x", most=4)
    ax.set_xlabel("GFLOPs of one image")


def _size_axis(ax: "Axes", found: AtSizes) -> None:
    """Sizes on a logarithmic axis, so that half and twice are equally far, with the size of the training marked."""
    ax.set_xscale("log")
    ax.set_xticks([_place(size) for size in found.sizes], [_tick(size) for size in found.sizes])
    ax.minorticks_off()
    ax.margins(x=0.07)
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
