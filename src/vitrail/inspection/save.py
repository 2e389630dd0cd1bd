"""An inspection as files: one page, the arrays for one's own plots, and the figures as PNG and SVG."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitrail.errors import UserError
from vitrail.inspection import figures
from vitrail.inspection.inspection import Curve, Inspection, Map, Picture
from vitrail.inspection.page import write_page
from vitrail.weights import replace

PAGE, ARRAYS, FIGURES = "index.html", "arrays.npz", "figures"


# The figures that an inspection can have: an earlier one's go, files of others stay.
_OURS = re.compile(
    r"(?:(?:maps|heads|faithfulness|features)(?:-\d+)?|patches|norms|distance|positions|filters)\.(?:png|svg)"
)


def save(inspection: Inspection, out: Path) -> Path:
    """Write page, arrays and figures into the folder ``out``, which gets all of them or none; return the page's path.

    Raises:
        UserError: as ``check_folder``.
    """
    check_folder(out)
    with replace.folder(out, keep_others=True) as staging:
        figures.save(inspection, staging / FIGURES)
        named: Any = dict(arrays(inspection))
        np.savez(staging / ARRAYS, **named)
        write_page(inspection, staging / PAGE)
        for path in (out / FIGURES).iterdir() if (out / FIGURES).is_dir() else ():
            if path.is_file() and not _OURS.fullmatch(path.name):
                shutil.copy2(path, staging / FIGURES / path.name)
    return out / PAGE


def check_folder(out: Path) -> None:
    """Refuse a place where an inspection cannot be written, or would replace what is none.

    Raises:
        UserError: a file where a folder is needed; a folder with a page or figures that no inspection has made.
    """
    for place in (out, *out.absolute().parents):
        if place.exists() and not place.is_dir():
            raise UserError(f"--out {out}: {place} is a file; give a folder")
    if (out / ARRAYS).exists():
        return
    for name in (PAGE, FIGURES):
        if (out / name).exists():
            raise UserError(f"--out {out}: it has {name} already, which is of no inspection; choose another folder")


def arrays(inspection: Inspection) -> Iterator[tuple[str, NDArray[Any]]]:
    """Every array with its name in ``arrays.npz``: those of the model, and those of picture i below ``pictures/i/``."""
    if inspection.distances is not None:
        yield "distances", inspection.distances
    for i, positions in enumerate(inspection.positions):
        yield f"positions/{i}", positions.similarity
    if inspection.filters is not None:
        yield "filters", inspection.filters.pictures
        yield "filters/shares", inspection.filters.shares
    yield "pictures", np.array([picture.name for picture in inspection.pictures], dtype=np.str_)
    for i, picture in enumerate(inspection.pictures):
        for name, values in _of_picture(picture):
            yield f"pictures/{i}/{name}", values
    yield from inspection.extra.items()


def _of_picture(picture: Picture) -> Iterator[tuple[str, NDArray[Any]]]:
    yield "image", picture.image
    yield "labels", np.array([label for label, _ in picture.top], dtype=np.str_)
    yield "probabilities", np.array([p for _, p in picture.top], dtype=np.float32)
    if picture.norms.size:
        yield "norms", picture.norms
        yield "features", picture.features
        yield "colours", picture.colours
    yield "maps", np.array([found.name for found in picture.maps], dtype=np.str_)
    for i, found in enumerate(picture.maps):
        for name, values in _of_map(found):
            yield f"maps/{i}{name}", values
    for heads in picture.heads:
        yield f"heads/{heads.layer}", heads.values
    if picture.alike is not None:
        yield "alike", picture.alike.values
        yield "alike/patch", np.array(picture.alike.patch)
    if picture.attention is not None:
        # half precision: weights that are computed from them are right to about a thousandth of themselves
        yield "queries", picture.attention.queries.astype(np.float16)
        yield "keys", picture.attention.keys.astype(np.float16)
        if picture.attention.bias is not None:
            yield "bias", picture.attention.bias.astype(np.float16)


def _of_map(found: Map) -> Iterator[tuple[str, NDArray[Any]]]:
    yield "", found.values
    done = found.faithfulness
    if done is None:
        return
    yield "/shares", done.deletion.shares
    curves: tuple[tuple[str, Curve, tuple[Curve, ...]], ...] = (
        ("deletion", done.deletion, done.random_deletion),
        ("insertion", done.insertion, done.random_insertion),
    )
    for name, curve, others in curves:
        yield f"/{name}", curve.probabilities
        yield f"/random_{name}", np.stack([other.probabilities for other in others])
