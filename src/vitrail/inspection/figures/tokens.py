"""Figures of the tokens: the patches with their numbers, their lengths by layer, their features as colours."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vitrail.inspection.figures import panels
from vitrail.inspection.inspection import Picture
from vitrail.studies.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEIGHT = 2.9  # inches


def patches(picture: Picture) -> "Figure":
    """The picture, cut into its patches, with their numbers in the order in which the model reads them."""
    from vitrail.inspection.tokens import numbered_patches

    height, width = picture.image.shape[:2]
    side = min(style.INCHES["wide"], 6.0 * width / height)
    figure = style.figure("wide", side * height / width + panels.TITLE)
    ax = figure.subplots()
    panels.bare(ax)
    ax.imshow(np.asarray(numbered_patches(picture.image, picture.patch_size)), interpolation="antialiased")
    rows, columns = picture.grid
    panels.title(
        ax, f"{panels.said(picture)}: {rows} x {columns} patches of {picture.patch_size} pixels a side", longest=90
    )
    return figure


def norms(pictures: Sequence[Picture], first: str) -> "Figure":
    """a: lengths of the tokens by layer, over all pictures; b: those of the last layer, patch by patch, of the first.

    Args:
        first: what the first token before the patches is.
    """
    figure = style.figure("wide", _HEIGHT)
    left, right = figure.subplots(1, 2)
    patch = np.concatenate([p.norms[:, p.prefix :] for p in pictures], axis=1)
    layers = np.arange(len(patch))
    low, middle, high = np.percentile(patch, (5, 50, 95), axis=1)
    left.fill_between(layers, low, high, color=style.SERIES[0], alpha=0.18, lw=0, label="patches, 5 to 95 %")
    left.plot(layers, middle, "-", color=style.SERIES[0], label="patches, median")
    left.plot(layers, patch.max(axis=1), ":", color=style.SERIES[0], label="patches, longest")
    if pictures[0].prefix:
        prefix = np.mean([p.norms[:, : p.prefix] for p in pictures], axis=0)
        left.plot(layers, prefix[:, 0], "--", color=style.SERIES[1], label=first)
        if prefix.shape[1] > 1:
            left.plot(
                layers, prefix[:, 1:].mean(axis=1), "-.", color=style.SERIES[2], label="the others before the patches"
            )
    left.set_xlabel("layer")
    left.set_ylabel("length of a token")
    left.set_ylim(bottom=0)
    left.legend(fontsize=7)
    left.grid(axis="y")
    panels.whole(left)
    style.tag(left, "a", "Lengths of tokens by layer")
    shown = right.imshow(pictures[0].norms[-1, pictures[0].prefix :].reshape(pictures[0].grid), cmap="viridis")
    panels.bare(right)
    figure.colorbar(shown, ax=right, shrink=0.8)
    style.tag(right, "b", "Last layer, patch by patch")
    return figure


def features(pictures: Sequence[Picture]) -> "Figure":
    """A row a picture: it, its patches' features as colours, and how alike they are to one patch, which is marked."""
    from matplotlib.patches import Rectangle

    figure, axes = panels.rows(pictures, 3)
    for row, picture in zip(axes, pictures, strict=True):
        height, width = picture.image.shape[:2]
        panels.picture(row[0], picture)
        panels.title(row[0], panels.said(picture), longest=panels.room(3), bold=True)
        row[1].imshow(picture.colours, interpolation="nearest", extent=(0, width, height, 0))
        panels.title(row[1], "features as colours", longest=panels.room(3))
        if picture.alike is None:
            continue
        panels.over(row[2], picture, picture.alike.values)
        (y, x), p = picture.alike.patch, picture.patch_size
        row[2].add_patch(Rectangle((x * p, y * p), p, p, fill=False, ec=style.SERIES[5], lw=1.2))
        panels.title(row[2], f"alike to patch {y},{x}", longest=panels.room(3))
    return figure
