"""The figures of an inspection: ``drawings`` names those that there is something for, ``save`` writes them for a paper."""

import io
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.inspection.figures import curves, learned, maps, tokens
from vitrail.inspection.inspection import Filters, Inspection, Picture, Positions
from vitrail.model import ModelConfig, ViTConfig
from vitrail.studies.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 200
ROWS = 6
"""Pictures in one figure; more of them take further figures."""
_SHOWN = 100  # dots an inch where a notebook shows a figure


def drawings(inspection: Inspection) -> Mapping[str, Callable[[], "Figure"]]:
    """Name of a file without its suffix -> what draws it, of all that this inspection has found."""
    found: dict[str, Callable[[], Figure]] = {}
    with_maps = [picture for picture in inspection.pictures if picture.maps]
    with_tokens = [picture for picture in inspection.pictures if picture.features.size]
    with_curves = [picture for picture in with_maps if any(m.faithfulness is not None for m in picture.maps)]
    for name, draw, pictures in (
        ("maps", maps.maps, with_maps),
        ("heads", maps.heads, [picture for picture in with_tokens if picture.heads]),
        ("faithfulness", curves.faithfulness, with_curves),
        ("features", tokens.features, with_tokens),
    ):
        for number, start in enumerate(range(0, len(pictures), ROWS), start=1):
            suffix = "" if len(pictures) <= ROWS else f"-{number}"
            found[f"{name}{suffix}"] = partial(draw, pictures[start : start + ROWS])
    if with_tokens:
        found["patches"] = partial(tokens.patches, with_tokens[0])
        found["norms"] = partial(tokens.norms, with_tokens, _first(inspection.config))
    if inspection.distances is not None:
        found["distance"] = partial(learned.distances, inspection.distances, inspection.looked_at or len(with_tokens))
    if inspection.positions:
        found["positions"] = partial(learned.positions, inspection.positions)
    if inspection.filters is not None:
        found["filters"] = partial(learned.filters, inspection.filters)
    return found


def _first(config: ModelConfig) -> str:
    """What the first token before the patches is."""
    return "class token" if isinstance(config, ViTConfig) and config.class_token else "first register"


def save(inspection: Inspection, folder: Path) -> list[Path]:
    """Write every figure into ``folder`` as PNG and as SVG; the same inspection gives the same files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in drawings(inspection).items():
        as_png, as_svg = folder / f"{name}.png", folder / f"{name}.svg"
        with style.paper():
            figure = draw()
            figure.savefig(as_png, format="png", dpi=DPI, metadata={"Software": None})
            figure.savefig(as_svg, format="svg", dpi=DPI, metadata={"Date": None, "Creator": None})
        written += [as_png, as_svg]
    return written


def shown(what: Inspection | Picture | Positions | Filters) -> bytes | None:
    """What a notebook shows, as PNG: the maps of its pictures, else the first figure; None where there is none."""
    draw: Callable[[], Figure]
    if isinstance(what, Inspection):
        possible = list(drawings(what).values())
        if not possible:
            return None
        draw = possible[0]
    elif isinstance(what, Picture):
        draw = partial(maps.maps, [what])
    elif isinstance(what, Positions):
        draw = partial(learned.positions, [what])
    else:
        draw = partial(learned.filters, what)
    written = io.BytesIO()
    with style.paper():
        draw().savefig(written, format="png", dpi=_SHOWN, metadata={"Software": None})
    return written.getvalue()
