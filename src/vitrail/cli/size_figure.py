"""The figure of an evaluation at several image sizes: accuracy against size, and against the cost of an image."""

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vitrail.evaluation.sizes import SizeScore
    from vitrail.studies.figures.style import Look

_HEIGHT = 3.2  # inches
# Of the axis: sizes nearer than the first share a tick, and where any are nearer than the second, labels are slanted.
_TOGETHER, _SLANTED = 0.05, 0.13


def save(scores: "list[SizeScore]", title: str, path: Path) -> None:
    """Draw the scores into a .png or .svg, which appears whole or not at all; the same scores give the same file."""
    from vitrail.studies.figures import style

    style.write(lambda: draw(scores, title), path)


def draw(scores: "list[SizeScore]", title: str) -> "Figure":
    """a: accuracy over the size, b: over the FLOPs of one image. Sizes of the own shape are joined by a line."""
    from vitrail.studies.figures import style

    figure = style.figure("wide", _HEIGHT)
    figure.suptitle(f"{title}, {scores[0].n:,} images; bars are 95 % intervals", x=0.01, ha="left", fontsize=8)
    left, right = figure.subplots(1, 2, sharey=True)
    _points(left, scores, [_side(score) for score in scores])
    _size_ticks(left, scores)
    left.set_ylabel("top-1 accuracy (%)")
    left.set_xlabel("image size (pixels)")
    style.tag(left, "a", "Accuracy")
    _points(right, scores, [score.flops for score in scores])
    style.log_ticks(right, "x", most=6)
    right.set_xlabel("FLOPs of one image")
    style.tag(right, "b", "Accuracy for its cost")
    for ax in (left, right):
        ax.grid(axis="y")
    _legend(left, scores)
    return figure


def _side(score: "SizeScore") -> float:
    """The side of a square with as many pixels."""
    height, width = score.image_size
    return (height * width) ** 0.5


def _own(scores: "list[SizeScore]") -> "SizeScore":
    return next(score for score in scores if score.difference is None)


def _same_shape(score: "SizeScore", own: "SizeScore") -> bool:
    (height, width), (own_height, own_width) = score.image_size, own.image_size
    return height * own_width == width * own_height


def _points(ax: "Axes", scores: "list[SizeScore]", xs: "list[float] | list[int]") -> None:
    """Accuracies with their intervals: the own size is filled, sizes of another shape have another marker."""
    from vitrail.studies.figures import style

    own = _own(scores)
    line = sorted((x, 100 * score.top1) for x, score in zip(xs, scores, strict=True) if _same_shape(score, own))
    ax.plot(*zip(*line, strict=True), "-", color=style.SERIES[0], zorder=2)
    for x, score in zip(xs, scores, strict=True):
        look = _look(score, own)
        style.span(ax, [x, x], [100 * end for end in score.top1_ci95], look)
        style.mark(ax, x, 100 * score.top1, look, filled=score is own, size=5)


def _look(score: "SizeScore", own: "SizeScore") -> "Look":
    from vitrail.studies.figures import style

    return style.Look(style.SERIES[0], "o", "-") if _same_shape(score, own) else style.Look(style.SERIES[1], "D", "")


def _size_ticks(ax: "Axes", scores: "list[SizeScore]") -> None:
    """A tick a size, with the size as it is written on the command line."""
    whole = max(map(_side, scores)) - min(map(_side, scores)) or 1.0
    places: list[float] = []
    names: list[list[str]] = []
    for score in sorted(scores, key=_side):
        height, width = score.image_size
        if not places or _side(score) - places[-1] > _TOGETHER * whole:
            places.append(_side(score))
            names.append([])
        names[-1].append(f"{height}" if height == width else f"{height}x{width}")
    near = any(after - before < _SLANTED * whole for before, after in pairwise(places))
    ax.set_xticks(places, [" or ".join(each) if near else "\n".join(each) for each in names])
    if near:
        ax.tick_params("x", labelrotation=35)
        for label in ax.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")


def _legend(ax: "Axes", scores: "list[SizeScore]") -> None:
    """What the markers mean."""
    from matplotlib.lines import Line2D

    from vitrail.studies.figures import style

    own = _own(scores)
    meant = {"the model's own size": (_look(own, own), True)}
    for score in scores:
        if score is not own:
            meant["the same shape" if _same_shape(score, own) else "another shape"] = (_look(score, own), False)
    handles = [
        Line2D(
            [],
            [],
            color=look.colour,
            marker=look.marker,
            ls="",
            ms=5,
            mfc=look.colour if filled else style.PAPER,
            mew=1.1,
        )
        for look, filled in meant.values()
    ]
    ax.legend(handles, list(meant), fontsize=7.5, handlelength=1.0, loc="best")
