"""Accuracy against the FLOPs of one image, and attention's quadratic cost from patches to single pixels."""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from vitrail.studies.conclusions.words import images
from vitrail.studies.figures import style
from vitrail.studies.figures.style import INK, SOFT, Look, Width
from vitrail.studies.findings import Findings, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PATCH_SIZES = (32, 28, 16, 14, 8, 7, 4, 2, 1)  # what divides 224
_LEAST = 10  # tokens at the left end of the axes
# Not the colours of arms.
_ATTENTION, _REST = Look(INK, ".", "-"), Look(SOFT, ".", "--")


@dataclass(frozen=True)
class Patched:
    """ViT-B on a 224x224 image cut into patches of one size."""

    patch_size: int
    tokens: int
    attention: int
    """FLOPs that compare tokens with each other."""
    rest: int
    """All other FLOPs."""

    @property
    def share(self) -> float:
        """Attention's part of all FLOPs."""
        return self.attention / (self.attention + self.rest)


@cache
def quadratic() -> tuple[Patched, ...]:
    """ViT-B at 224x224 from patches of 32 pixels to single pixels, counted from its configuration."""
    from vitrail.model.cost import flops
    from vitrail.model.variants import variant

    rows = []
    for patch_size in _PATCH_SIZES:
        config = variant("B/16", patch_size=patch_size, image_size=(224, 224))
        counts = flops(config)
        attention = counts["attention scores"]
        rows.append(Patched(patch_size, config.tokens, attention, sum(counts.values()) - attention))
    return tuple(rows)


def draw(findings: Findings, width: Width) -> "Figure":
    """a: accuracy and cost, a point an arm. b: the FLOPs of ViT-B. c: attention's share, of ViT-B and of the arms."""
    shown = style.looks(findings)
    if width == "wide":
        fig = style.figure(width, 4.3 + style.legend_height(shown, width))
        grid = fig.add_gridspec(2, 2, height_ratios=(1.25, 1))
        accuracy, of_vit_b = fig.add_subplot(grid[:, 0]), fig.add_subplot(grid[0, 1])
        share = fig.add_subplot(grid[1, 1])
    else:
        fig = style.figure(width, 7.4 + style.legend_height(shown, width))
        accuracy, of_vit_b, share = fig.subplots(3, 1, height_ratios=(1.35, 1.15, 1))
    style.legend(fig, shown, width, lines=False)
    points = [point for point in style.last(findings) if point.chosen]
    _quadratic(of_vit_b)
    _shares(share, points, shown)
    of_vit_b.set_xlim(share.get_xlim())  # one below the other
    style.log_ticks(of_vit_b, "x", most=5)
    if width == "wide":
        of_vit_b.set_xlabel("")
        of_vit_b.tick_params(axis="x", labelbottom=False)
    _accuracy(accuracy, points, shown)
    return fig


def caption(findings: Findings, width: Width) -> list[str]:
    """What is drawn and how it is read, a paragraph a panel."""
    points = [point for point in style.last(findings) if point.chosen]
    pixels, paper = quadratic()[-1], next(row for row in quadratic() if row.patch_size == 16)
    return [
        f"a: top-1 accuracy on {images(findings.setting)}, the mean over {style.seeds(points)} with 95 % intervals, against "
        f"the floating-point operations of one image; the circle is the reference.{style.own_rate(findings.points)}",
        "b: what ViT-B computes for one "
        "image of 224 × 224 pixels (a multiply and an add are two operations) as its patches shrink from 32 × 32 pixels "
        "to one: comparing tokens with each other grows with the square of their number, all the rest in proportion to "
        f"it. With every pixel a token, {pixels.tokens - 1:,} of them, an image takes "
        f"{(pixels.attention + pixels.rest) / (paper.attention + paper.rest):,.0f} times what it takes with patches of "
        f"16 × 16.",
        "c: the part of all operations that compares tokens, of ViT-B (line) and of the study's own arms (markers as in a).",
    ]


def _accuracy(ax: "Axes", points: list[Point], shown: dict[str, Look]) -> None:
    for point in points:
        look, x = shown[point.arm], point.size.flops / 1e9
        mean, low, high = style.percent(point.top1)
        style.span(ax, [x, x], [low, high], look)
        style.mark(ax, x, mean, look, size=5.5)
    ax.set_xscale("log")
    ax.margins(0.1)
    style.log_ticks(ax, "x")
    ax.grid(axis="y")
    ax.set_xlabel("GFLOPs of one image")
    ax.set_ylabel("top-1 accuracy (%)", rotation_mode="anchor")
    style.tag(ax, "a", "Accuracy and cost")


def _quadratic(ax: "Axes") -> None:
    rows = quadratic()
    tokens = [row.tokens for row in rows]
    for look, values in ((_ATTENTION, [row.attention for row in rows]), (_REST, [row.rest for row in rows])):
        ax.plot(tokens, [value / 1e9 for value in values], look.line, marker=look.marker, color=look.colour, ms=5)
    ax.set_xscale("log")
    ax.set_ylim(0.02, 3e7)
    style.log_ticks(ax, "y", most=5)
    for row in rows:
        if row.patch_size in (32, 16, 8, 4, 2):
            text = f"{row.patch_size}×{row.patch_size}"
            _note(ax, row.tokens, row.rest / 1e9, text, (-3, 4), ha="right", va="bottom", color=SOFT)
    of_16, last = rows[2], rows[-1]
    _note(ax, of_16.tokens, of_16.attention / 1e9, "comparing tokens", (8, -3), ha="left", va="top", color=INK)
    _note(ax, last.tokens, last.rest / 1e9, "all the rest", (6, -18), ha="right", va="top", color=SOFT)
    total = (last.attention + last.rest) / 1e12
    text = f"every pixel a token:\n{last.tokens - 1:,} tokens,\n{total:,.0f} TFLOPs an image"
    _note(ax, last.tokens, last.attention / 1e9, text, (6, 6), ha="right", va="bottom", color=INK)
    ax.grid(axis="y")
    ax.set_xlabel("tokens")
    ax.set_ylabel("GFLOPs of one image", rotation_mode="anchor")
    style.tag(ax, "b", "ViT-B, 224 × 224 pixels, by patch size")


def _shares(ax: "Axes", points: list[Point], shown: dict[str, Look]) -> None:
    rows = quadratic()
    ax.plot([row.tokens for row in rows], [100 * row.share for row in rows], "-", color=_ATTENTION.colour)
    _note(ax, rows[4].tokens, 100 * rows[4].share, "ViT-B", (-5, 4), ha="right", va="bottom", color=INK)
    for point in points:
        if point.size.tokens is not None and point.size.attention_share > 0:
            style.mark(ax, point.size.tokens, 100 * point.size.attention_share, shown[point.arm])
    ax.set_xscale("log")
    ax.set_xlim(min([_LEAST, *(0.7 * point.size.tokens for point in points if point.size.tokens)]), 1.6e5)
    ax.set_yscale("log")
    ax.set_ylim(ax.get_ylim()[0] / 1.5, 150)
    style.log_ticks(ax, "x", most=5)
    style.log_ticks(ax, "y", most=5)
    ax.grid(axis="y")
    ax.set_xlabel("tokens")
    ax.set_ylabel("part of FLOPs (%)", rotation_mode="anchor")
    style.tag(ax, "c", "Part that compares tokens")


def _note(ax: "Axes", x: float, y: float, text: str, offset: tuple[float, float], **how: Any) -> None:
    ax.annotate(text, (x, y), xytext=offset, textcoords="offset points", fontsize=7.5, **how)
