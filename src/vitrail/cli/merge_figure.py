"""The figure of an evaluation with several amounts of merging: accuracy, and agreement with whole images, against speed."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vitrail.evaluation.merging import MergeScore

_HEIGHT = 3.2  # inches


def save(scores: "list[MergeScore]", title: str, path: Path) -> None:
    """Draw the scores into a .png or .svg, which appears whole or not at all; the same scores give the same file."""
    from vitrail.studies.figures import style

    style.write(lambda: draw(scores, title), path)


def draw(scores: "list[MergeScore]", title: str) -> "Figure":
    """a: accuracy over the speed, b: the share of equal labels over it; a point an amount, with its name."""
    from vitrail.studies.figures import style

    figure = style.figure("wide", _HEIGHT)
    figure.suptitle(f"{title}, {scores[0].n:,} images; bars are 95 % intervals", x=0.01, ha="left", fontsize=8)
    left, right = figure.subplots(1, 2)
    _points(left, scores, [100 * score.top1 for score in scores], intervals=True)
    left.set_ylabel("top-1 accuracy (%)")
    style.tag(left, "a", "Accuracy")
    _points(right, scores, [100 * score.agreement for score in scores], intervals=False)
    right.set_ylabel("same label as whole images (%)")
    style.tag(right, "b", "Agreement")
    for ax in (left, right):
        ax.grid(axis="y")
        ax.set_xlabel("images a second, to whole images")
    return figure


def _points(ax: "Axes", scores: "list[MergeScore]", ys: list[float], *, intervals: bool) -> None:
    """Whole images are filled; amounts with the same schedule are joined by a line."""
    from vitrail.studies.figures import style

    for number, falling in enumerate((False, True)):
        look = style.Look(style.SERIES[number], "oD"[number], "-")
        own = [(score, y) for score, y in zip(scores, ys, strict=True) if score.merge.startswith("falling") == falling]
        line = sorted((score.speed, y) for score, y in own)
        if line:
            ax.plot(*zip(*line, strict=True), "-", color=look.colour, zorder=2)
        for score, y in own:
            if intervals:
                style.span(ax, [score.speed] * 2, [100 * end for end in score.top1_ci95], look)
            style.mark(ax, score.speed, y, look, filled=score.difference is None, size=5)
            ax.annotate(score.merge, (score.speed, y), (4, 4), textcoords="offset points", fontsize=7)
