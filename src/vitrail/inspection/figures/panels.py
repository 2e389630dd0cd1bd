"""What the figures of pictures share: rows of panels, a picture alone, and a map over it."""

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vitrail.inspection.inspection import Floats, Picture
from vitrail.studies.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEAT, AGAINST = "magma", "RdBu_r"
"""Colours of a map, and of one with what speaks against (blue) as well as for (red)."""
_STRONGEST = 99.0  # per cent: few patches are far above all others, and would leave the rest dark
_COVER = 0.68  # of a map over its picture
TALLEST, TITLE = 1.7, 0.34  # inches: of a panel, and of what stands above it
_BOLD = 0.88  # of the letters that a line has room for
_GAP, _LETTER = 0.12, 0.053  # inches: between panels, and a letter's width
_SMALL = 64  # a side in pixels below which a picture shows its pixels


def rows(pictures: Sequence[Picture], columns: int) -> "tuple[Figure, NDArray[np.object_]]":
    """A figure with a row a picture and its empty panels, (pictures, columns)."""
    width = min(TALLEST, _width(columns))
    heights = [min(TALLEST, width * picture.image.shape[0] / picture.image.shape[1]) for picture in pictures]
    figure = style.figure("wide", sum(heights) + TITLE * len(pictures) + 0.15)
    axes = figure.subplots(len(pictures), columns, squeeze=False, height_ratios=heights)
    for ax in axes.flat:
        bare(ax)
    return figure, axes


def room(columns: int) -> int:
    """Letters that a title has room for above a panel, of so many beside each other."""
    return int(_width(columns) / _LETTER)


def _width(columns: int) -> float:
    """Inches of one of so many panels."""
    return style.INCHES["wide"] / columns - _GAP


def bare(ax: "Axes") -> None:
    """No ticks and no frame."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def whole(ax: "Axes") -> None:
    """Ticks of the x axis at whole numbers alone, for layers."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def picture(ax: "Axes", shown: Picture) -> None:
    """The picture as the model saw it."""
    ax.imshow(shown.image, interpolation="nearest" if max(shown.image.shape[:2]) < _SMALL else "antialiased")


def title(ax: "Axes", text: str, *, longest: int = 26, bold: bool = False) -> None:
    """What a panel shows, above it, in two lines at most."""
    longest = int(longest * _BOLD) if bold else longest
    lines = style.wrapped(printable(text), longest).split("\n")
    cut = [line if len(line) <= longest else f"{line[: longest - 1]}…" for line in lines[:2]]
    if len(lines) > 2 and not cut[-1].endswith("…"):
        cut[-1] += " …"
    ax.set_title("\n".join(cut), loc="left", fontsize=6.5, pad=2.5, fontweight="bold" if bold else "normal")


def over(ax: "Axes", shown: Picture, values: Floats, *, signed: bool = False) -> None:
    """A map (h, w), interpolated, over the picture in grey.

    The strongest colour stands for the 99th percentile. A map without a sign begins at 0, or at its least value where
    ``values`` are all far from it, so that differences are seen.
    """
    height, width = shown.image.shape[:2]
    ax.imshow(shown.image.mean(axis=2), cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
    strongest = float(np.percentile(np.abs(values), _STRONGEST)) or 1.0
    ax.imshow(
        values,
        cmap=AGAINST if signed else HEAT,
        vmin=-strongest if signed else float(values.min()),
        vmax=strongest,
        interpolation="bilinear",
        extent=(0, width, height, 0),
        alpha=_COVER,
    )
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)


def printable(text: str) -> str:
    """Without what an SVG cannot hold: control characters, and bytes of a file name that are no text."""
    return "".join("\ufffd" if unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in text)


def said(shown: Picture) -> str:
    """The name of a picture, and what the model takes it for."""
    name = shown.name.replace("\\", "/").rsplit("/", 1)[-1]
    text = f"{name}: {shown.top[0][0]} {shown.top[0][1]:.0%}" if shown.top else name
    return (
        text if shown.label is None or not shown.top or shown.label == shown.top[0][0] else f"{text}, is {shown.label}"
    )
