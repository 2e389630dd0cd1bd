"""How every figure of a study looks: sizes, type, colours that colour-blind readers tell apart, and what they share."""

import math
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vitrail.studies.conclusions.words import compared_otherwise, named
from vitrail.studies.findings import Estimate, Findings, Point
from vitrail.weights import replace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

DPI = 200
Width = Literal["wide", "narrow"]
INCHES: Mapping[str, float] = {"wide": 7.0, "narrow": 3.5}
"""The text width of a paper, and one of its columns, which suits a phone too."""

# Each of these stands for itself on paper and for a variable of the style sheet on the page (page.py).
INK, SOFT, GRID, PAPER = "#1c2330", "#5a6474", "#e3e5e9", "#ffffff"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#b8578f", "#c98a00", "#3a9ad9", "#7a5a3a")
"""After Okabe and Ito (2008), "Color Universal Design", the light ones darkened to be seen on white."""
_MARKERS = ("s", "^", "D", "v", "P", "X", "p")
_HOLLOW = ("s", "^", "D", "v", "o", "p")  # small, they still show whether they are filled
_LINES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Look:
    """How an arm is drawn wherever it appears; shape and line tell it apart where colour does not."""

    colour: str
    marker: str
    line: str


def looks(findings: Findings) -> dict[str, Look]:
    """Arm -> its look, in the study's order, of the arms that have points; the reference is dark and round."""
    return looks_of(findings.study.reference, arms(findings))


def looks_of(reference: str, names: Sequence[str]) -> dict[str, Look]:
    """The looks of these arms, in their order."""
    found = {reference: Look(INK, "o", "-")}
    families: dict[str, int] = {}
    fresh = 0
    for i, arm in enumerate(arm for arm in names if arm not in found):
        marker, kin = _MARKERS[(i + i // len(_MARKERS)) % len(_MARKERS)], _kin(arm, found)
        if kin is None:
            found[arm] = Look(SERIES[fresh % len(SERIES)], marker, _LINES[fresh // len(SERIES) % len(_LINES)])
            fresh += 1
        else:
            families[kin] = families.get(kin, 0) + 1
            found[arm] = Look(found[kin].colour, marker, _LINES[families[kin] % len(_LINES)])
    return {arm: found[arm] for arm in names}


def separate_looks(names: Sequence[str]) -> dict[str, Look]:
    """A colour and a marker for each, whatever their names have in common."""
    return {
        name: Look(SERIES[i % len(SERIES)], _HOLLOW[(i + i // len(SERIES)) % len(_HOLLOW)], "-")
        for i, name in enumerate(names)
    }


def _kin(arm: str, others: Iterable[str]) -> str | None:
    """The arm of which this one is a variation: ``ViT, augmented`` of ``ViT``. It shares its colour alone."""
    return next((other for other in others if arm.startswith((f"{other}, ", f"{other} + ", f"{other} with "))), None)


def arms(findings: Findings) -> list[str]:
    """The arms that have points, at some size at least: those of the study in order, then those that ``--init`` added."""
    run = dict.fromkeys([*(point.arm for point in findings.points), *(point.arm for point in findings.sizes)])
    names = dict.fromkeys([*findings.study.arms, *run])
    return [name for name in names if name in run]


def last(findings: Findings) -> tuple[Point, ...]:
    """The points at the last value along the axis: what a figure without that axis shows."""
    if findings.study.along is None:
        return findings.points
    present = {repr(point.along) for point in findings.points}
    value = [repr(value) for value in findings.study.along.values if repr(value) in present][-1]
    return tuple(point for point in findings.points if repr(point.along) == value)


@contextmanager
def paper() -> Iterator[None]:
    """matplotlib set for these figures, whatever the person's own settings; nothing outside the block changes."""
    import matplotlib

    settings: Any = {
        "font.family": ["sans-serif"],
        "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so that all machines lay out alike
        "font.size": 8,
        "text.color": INK,
        "text.parse_math": False,  # a name with dollars is a name
        "axes.edgecolor": SOFT,
        "axes.labelcolor": INK,
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "xtick.labelsize": 7.5,
        "ytick.labelsize": 7.5,
        "xtick.major.width": 0.7,
        "ytick.major.width": 0.7,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "legend.frameon": False,
        "lines.linewidth": 1.4,
        "lines.markersize": 4.5,
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "vitrail",  # the same figure is the same bytes
    }
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        # names in scripts that the font lacks: the SVG shows them in the reader's own font
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def figure(width: Width, height: float) -> "Figure":
    """An empty figure of that width, ``height`` inches tall."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.05, wspace=0.04, hspace=0.06)
    return Figure(figsize=(INCHES[width], height), facecolor=PAPER, layout=layout)


def percent(estimate: Estimate) -> tuple[float, float, float]:
    """Mean, low and high in per cent, or in percentage points."""
    return 100 * estimate.mean, 100 * estimate.low, 100 * estimate.high


def mark(ax: "Axes", x: float, y: float, look: Look, *, filled: bool = True, size: float = 4.5) -> None:
    """A marker, hollow if not ``filled``."""
    face = look.colour if filled else PAPER
    ax.plot([x], [y], look.marker, ms=size, mfc=face, mec=look.colour, mew=1.1, zorder=4)


def span(ax: "Axes", xs: Sequence[float], ys: Sequence[float], look: Look) -> None:
    """The line of an interval."""
    ax.plot(xs, ys, "-", color=look.colour, lw=1.2, solid_capstyle="butt", zorder=3)


def curve(ax: "Axes", xs: Sequence[float], points: Sequence[Point], look: Look) -> None:
    """An arm's accuracy in per cent over ``xs``, with its band of 95 % intervals; a cross where runs diverged."""
    means, lows, highs = zip(*(percent(point.top1) for point in points), strict=True)
    ax.fill_between(xs, lows, highs, color=look.colour, alpha=0.13, lw=0, zorder=1)
    ax.plot(xs, means, look.line, color=look.colour, zorder=3)
    for x, y, point in zip(xs, means, points, strict=True):
        mark(ax, x, y, Look(look.colour, "x", look.line) if point.diverged else look)


def tag(ax: "Axes", letter: str, title: str) -> None:
    """Name a panel: its letter, and what it shows."""
    ax.set_title(f"{letter}   {title}", loc="left", fontsize=8, fontweight="bold", pad=6)


def legend(fig: "Figure | SubFigure", shown: Mapping[str, Look], width: Width, *, lines: bool = True) -> None:
    """The arms above the panels, in as many columns as their names leave room for; ``lines`` as well as markers."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=k.colour, marker=k.marker, ls=k.line if lines else "", ms=4.5) for k in shown.values()
    ]
    names, columns = _legend_names(shown, width)
    fig.legend(
        handles,
        names,
        loc="outside upper left",
        ncols=columns,
        fontsize=8,
        handlelength=2.8 if lines else 1.0,
        columnspacing=1.4,
    )


def legend_height(shown: Iterable[str], width: Width) -> float:
    """Inches that the legend takes."""
    names, columns = _legend_names(shown, width)
    rows = -(-len(names) // columns)
    heights = [1 + name.count("\n") for name in names]
    return 0.1 + max(sum(0.02 + 0.135 * h for h in heights[i : i + rows]) for i in range(0, len(names), rows))


def _legend_names(shown: Iterable[str], width: Width) -> tuple[list[str], int]:
    """Names in lines, and the number of columns."""
    names = [wrapped(name, 40) for name in shown]
    longest = max(len(line) for name in names for line in name.split("\n"))
    columns = int((INCHES[width] - 0.1) / (0.55 + 0.07 * longest))
    return names, max(1, min(columns, len(names)))


def log_ticks(ax: "Axes", axis: Literal["x", "y"], most: int = 7) -> None:
    """A logarithmic axis with powers of ten, thinned to ``most``; with 1, 2 and 5 of each where it spans little.

    Labels are all plain numbers or all powers.
    """
    getattr(ax, f"set_{axis}scale")("log")
    low, high = getattr(ax, f"get_{axis}lim")()
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [10.0**power for power in powers if low <= 10.0**power <= high]
    if len(ticks) < 3:
        ticks = [f * 10.0**power for power in powers for f in (1, 2, 5) if low <= f * 10.0**power <= high]
    else:
        ticks = ticks[:: math.ceil(len(ticks) / most)]
    plain = all(1e-3 <= tick < 1e6 for tick in ticks)
    labels = [f"{tick:,.7g}" if plain else scientific(tick) for tick in ticks]
    getattr(ax, f"set_{axis}ticks")(ticks, labels)
    ax.minorticks_off()


def scientific(value: float) -> str:
    """A number as 2·10¹², without a factor of 1."""
    mantissa, exponent = f"{value:.1e}".split("e")
    power = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return power if float(mantissa) == 1 else f"{float(mantissa):g}·{power}"


def wrapped(name: str, longest: int) -> str:
    """A name in lines of at most ``longest`` characters."""
    return "\n".join(textwrap.wrap(name, longest)) or name


def seeds(points: Sequence[Point]) -> str:
    """``3 seeds``, or ``2 to 5 seeds``."""
    counts = sorted({point.seeds for point in points})
    return f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def own_rate(points: Sequence[Point]) -> str:
    """The sentence about learning rates; none where there was only one."""
    if len({point.lr for point in points}) < 2:
        return ""
    return " Each arm is at the learning rate that was best for it on the validation images."


def otherwise(findings: Findings) -> str:
    """The sentence about arms that are compared with another one than the reference; none where there is none."""
    study = findings.study
    said = compared_otherwise(study, findings.answer)
    return f" Arms are compared with {named(study.reference)}{said}." if said else ""


def to_reference(findings: Findings, longest: int) -> str:
    """What a title of differences says after the word: to which arm, in lines, if they all are to one."""
    study = findings.study
    return "" if compared_otherwise(study, findings.answer) else f" to {wrapped(study.reference, longest)}"


def write(draw: "Callable[[], Figure]", path: Path) -> None:
    """Draw into a .png or .svg, which appears whole or not at all; the same figure gives the same file."""
    svg = path.suffix.lower() == ".svg"
    with replace.file(path) as staging, paper():
        if svg:
            draw().savefig(staging, format="svg", metadata={"Date": None, "Creator": None})
        else:
            draw().savefig(staging, format="png", dpi=DPI, metadata={"Software": None})
