"""Figures of where a model looked: the maps of each picture over it, and all heads of a layer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vitrail.inspection.figures import panels
from vitrail.inspection.inspection import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_HEADS = 12  # beside each other; further ones are in the arrays and on the page


def maps(pictures: Sequence[Picture]) -> "Figure":
    """A row a picture: as the model saw it, then every map over it."""
    columns = 1 + max(len(picture.maps) for picture in pictures)
    figure, axes = panels.rows(pictures, columns)
    longest = panels.room(columns)
    for row, picture in zip(axes, pictures, strict=True):
        panels.picture(row[0], picture)
        panels.title(row[0], panels.said(picture), longest=longest, bold=True)
        for ax, found in zip(row[1:], picture.maps, strict=False):
            panels.over(ax, picture, found.values, signed=found.signed)
            panels.title(ax, found.name, longest=longest)
    return figure


def heads(pictures: Sequence[Picture]) -> "Figure":
    """A row a picture: what each head of the last layer that was asked for attends to, from the query."""
    last = [picture.heads[-1] for picture in pictures]
    count = min(_MOST_HEADS, max(len(found.values) for found in last))
    figure, axes = panels.rows(pictures, count)
    for row, picture, found in zip(axes, pictures, last, strict=True):
        for head, (ax, values) in enumerate(zip(row, found.values, strict=False)):
            panels.over(ax, picture, values)
            panels.title(ax, f"head {head}", longest=panels.room(count))
    figure.suptitle(f"{last[0].name}, every head", x=0.01, ha="left", fontsize=8)
    return figure
