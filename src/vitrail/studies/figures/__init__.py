"""The figure of a study: ``draw`` it at the width of a page or of a column, ``save`` it for a paper."""

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from vitrail.studies.conclusions.words import value
from vitrail.studies.figures import along, arms, cost, rates, sizes, style
from vitrail.studies.figures.style import Width
from vitrail.studies.findings import Findings
from vitrail.weights import replace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VIEWS: dict[str, ModuleType] = {"arms": arms, "rates": rates, "along": along, "cost": cost, "sizes": sizes}


def draw(findings: Findings, width: Width = "wide") -> "Figure":
    """The figure of the study's view, 7 inches wide or 3.5 (``narrow``), drawn with matplotlib."""
    with style.paper():
        drawn: Figure = _VIEWS[findings.study.view].draw(findings, width)
        return drawn


def caption(findings: Findings, width: Width = "wide") -> list[str]:
    """The paragraphs below the figure: what is drawn, of how many seeds, and how intervals and markers are read."""
    said: list[str] = _VIEWS[findings.study.view].caption(findings, width)
    along = findings.study.along
    if along is not None and findings.study.view != "along":
        at = value(findings.study, style.last(findings)[0].along)
        said.append(f"All of it at one value of {along.label or along.key}: {at}.")
    return said


def svg(findings: Findings, width: Width = "wide") -> str:
    """The figure as an SVG file with text as text; the same findings give the same characters."""
    import io

    written = io.StringIO()
    with style.paper():
        draw(findings, width).savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return written.getvalue()


def save(findings: Findings, folder: Path) -> list[Path]:
    """Write ``figure.svg`` and ``figure.png``, each whole or not at all, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    as_svg, as_png = folder / "figure.svg", folder / "figure.png"
    with replace.file(as_svg) as staging:
        staging.write_text(svg(findings), encoding="utf-8")
    style.write(lambda: draw(findings), as_png)
    return [as_svg, as_png]
