"""The figure of faithfulness: what is left of a probability while patches go, or come, in the order of a map."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vitrail.inspection.figures import panels
from vitrail.inspection.inspection import Curve, Faithfulness, Picture
from vitrail.studies.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEIGHT, _LEGEND = 1.7, 0.5  # inches, of a row, and above all of them


def faithfulness(pictures: Sequence[Picture]) -> "Figure":
    """A row a picture and class: deletion on the left, where lower is better, insertion on the right, where higher is."""
    rows = [(picture, label, maps) for picture in pictures for label, maps in _by_class(picture).items()]
    names = list(dict.fromkeys(each.kin for _, _, maps in rows for each in maps))
    colours = {name: look.colour for name, look in style.separate_looks(names).items()}
    # without markers, the lines tell more maps than there are colours apart
    looks = {
        name: style.Look(colours[name], "", "--" if i >= len(style.SERIES) else "-") for i, name in enumerate(names)
    }
    figure = style.figure("wide", _HEIGHT * len(rows) + style.legend_height(names, "wide") + _LEGEND)
    axes = figure.subplots(len(rows), 2, squeeze=False, sharex=True)
    for (left, right), (picture, label, maps) in zip(axes, rows, strict=True):
        for each in maps:
            _curve(left, each.faithfulness.deletion, looks[each.kin])
            _curve(right, each.faithfulness.insertion, looks[each.kin])
        # maps of one picture and class share the random ones
        _random(left, maps[0].faithfulness.random_deletion)
        _random(right, maps[0].faithfulness.random_insertion)
        left.set_ylabel(style.wrapped(panels.printable(f"probability of {label}"), 24)[:48], fontsize=7)
        panels.title(left, panels.said(picture), longest=60, bold=True)
        for ax in (left, right):
            ax.set_xlim(0, 1)
            ax.set_ylim(0, 1)
            ax.grid(axis="y")
    axes[-1, 0].set_xlabel("share of the patches taken away (lower is better)")
    axes[-1, 1].set_xlabel("share of the patches put in (higher is better)")
    style.legend(figure, {**looks, "random maps": style.Look(style.SOFT, "", ":")}, "wide")
    return figure


@dataclass(frozen=True, eq=False)
class _Judged:
    """A map with its curves."""

    kin: str
    faithfulness: Faithfulness


def _by_class(picture: Picture) -> dict[str, list[_Judged]]:
    """The maps that have curves, by the label whose probability these follow."""
    found: dict[str, list[_Judged]] = {}
    for each in picture.maps:
        if each.faithfulness is not None:
            found.setdefault(each.explains, []).append(_Judged(each.kin, each.faithfulness))
    return found


def _curve(ax: "Axes", curve: Curve, look: style.Look) -> None:
    ax.plot(curve.shares, curve.probabilities, look.line, color=look.colour, zorder=3)


def _random(ax: "Axes", curves: Sequence[Curve]) -> None:
    """The band of random maps, from the least to the greatest, around their mean."""
    if not curves:
        return
    values = np.stack([curve.probabilities for curve in curves])
    ax.fill_between(curves[0].shares, values.min(axis=0), values.max(axis=0), color=style.SOFT, alpha=0.18, lw=0)
    ax.plot(curves[0].shares, values.mean(axis=0), ":", color=style.SOFT, zorder=2)
