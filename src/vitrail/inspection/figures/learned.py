"""Figures of what a model has learned: attention distance by depth, positions among each other, filters of patches."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitrail.inspection.figures import panels
from vitrail.inspection.inspection import Filters, Floats, Positions
from vitrail.studies.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEIGHT = 2.9  # inches
_MOST = 14  # positions a side that are shown, each with its similarity to all
_ACROSS = 7  # filters a row


def distances(found: Floats, pictures: int) -> "Figure":
    """A dot a head: how far its attention reaches, in pixels, against the layer (Dosovitskiy et al., 2021, figure 7)."""
    figure = style.figure("wide", _HEIGHT)
    ax = figure.subplots()
    layers = np.arange(len(found))
    for head in range(found.shape[1]):
        ax.plot(layers, found[:, head], "o", ms=4, color=style.SERIES[0], alpha=0.75, mew=0)
    ax.plot(layers, found.mean(axis=1), "-", color=style.SERIES[1], zorder=1, label="mean of the heads")
    ax.set_xlabel("layer")
    ax.set_ylabel("mean attention distance (pixels)")
    ax.set_ylim(bottom=0)
    panels.whole(ax)
    ax.grid(axis="y")
    ax.legend(fontsize=7.5)
    many = "1 picture" if pictures == 1 else f"{pictures:,} pictures"
    panels.title(ax, f"How far each head looks, mean over the patches of {many}", longest=90, bold=True)
    return figure


def positions(found: Sequence[Positions]) -> "Figure":
    """A grid of grids each: at a position's place, how alike it is to all others. Those of several sizes side by side."""
    widths = [each.grid[1] / each.grid[0] for each in found]  # of pictures that are all as high
    figure = style.figure("wide", min(style.INCHES["wide"] * 0.8 / sum(widths), 6.0) + 0.9)
    axes = figure.subplots(1, len(found), squeeze=False, width_ratios=widths)[0]
    low = min(float(each.similarity.min()) for each in found)
    high = max(float(each.similarity.max()) for each in found)
    for ax, each in zip(axes, found, strict=True):
        picture, step = grid_of_grids(each.similarity)
        shown = ax.imshow(picture, cmap="viridis", vmin=low, vmax=high, interpolation="nearest")
        panels.bare(ax)
        rows, columns = each.grid
        few = "" if step == 1 else f",\nevery {_ordinal(step)} shown"
        ax.set_title(f"{rows} x {columns} positions{few}", fontsize=8.5, fontweight="bold", loc="left")
    figure.supxlabel("; ".join(dict.fromkeys(each.what for each in found)), fontsize=8)
    figure.colorbar(shown, ax=list(axes), shrink=0.7, aspect=30)
    return figure


def grid_of_grids(similarity: Floats) -> tuple[NDArray[np.float32], int]:
    """(h, w, h, w) -> one picture with gaps (NaN) between the small ones; every how many-th position it has."""
    h, w = similarity.shape[:2]
    step = math.ceil(max(h, w) / _MOST)
    chosen = similarity[step // 2 :: step, step // 2 :: step]
    gap = max(1, h // 12)
    n, m = chosen.shape[:2]
    picture = np.full((n * (h + gap) - gap, m * (w + gap) - gap), np.nan, dtype=np.float32)
    for i in range(n):
        for j in range(m):
            picture[i * (h + gap) : i * (h + gap) + h, j * (w + gap) : j * (w + gap) + w] = chosen[i, j]
    return picture, step


def filters(found: Filters) -> "Figure":
    """The pictures in rows, each with the share of the variance that it explains."""
    from matplotlib.patches import Rectangle

    count = len(found.pictures)
    down, above = -(-count // _ACROSS), 0.16 if found.shares.size else 0.05  # of a picture's side
    side = style.INCHES["wide"] / _ACROSS
    figure = style.figure("wide", down * side * (1 + above) + 0.3)
    ax = figure.subplots()
    panels.bare(ax)
    for i, picture in enumerate(found.pictures):
        x, y = i % _ACROSS * 1.05, i // _ACROSS * (1 + above)
        shown = picture.squeeze(-1) if picture.shape[-1] == 1 else picture
        ax.imshow(shown, cmap="gray", vmin=0, vmax=1, extent=(x, x + 1, y + 1, y), interpolation="nearest")
        ax.add_patch(Rectangle((x, y), 1, 1, fill=False, ec=style.GRID, lw=0.5))  # white pixels end somewhere
        if found.shares.size:
            ax.text(x, y - 0.02, f"{found.shares[i]:.1%}", fontsize=6.5, va="bottom")
    ax.set_xlim(0, _ACROSS * 1.05 - 0.05)
    ax.set_ylim(down * (1 + above), -above)
    panels.title(ax, found.what, longest=110, bold=True)
    return figure


def _ordinal(number: int) -> str:
    return {2: "2nd", 3: "3rd"}.get(number, f"{number}th")
