"""Inspection -> index.html: one self-contained page that shows what was found, and computes attention under the mouse."""

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup

from vitrail.inspection import drawings, packing
from vitrail.inspection.inspection import (
    Curve,
    Filters,
    Floats,
    Heads,
    Inspection,
    Map,
    Picture,
    Positions,
)
from vitrail.model import ViTConfig
from vitrail.weights import replace

LIVE_BYTES = 28_000_000
"""What all the data for the live views may take in the page; attention that does not fit is left out, with a note."""
POSITION_BYTES = 3_000_000
"""What one set of positions may take; of more, every second or third position is shown, compared with all."""


@dataclass(frozen=True)
class Check:
    """One faithfulness curve of a map beside those of random maps, as texts and paths."""

    name: str
    better: str
    area: str
    others: str
    verdict: str
    path: str
    other_paths: tuple[str, ...]


@dataclass(frozen=True)
class MapView:
    """A map over its picture."""

    name: str
    overlay: str
    signed: bool
    range: str
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class PictureView:
    """A picture and all that is shown of it. ``blocks`` are script elements of data: (id, JSON)."""

    source: Picture
    uri: str
    small: bool
    top: tuple[tuple[str, float, str, bool], ...]
    """(label, probability, as text, whether it is the true one)"""
    maps: tuple[MapView, ...]
    heads_by_layer: tuple[tuple[str, tuple[MapView, ...]], ...]
    """What every head of a layer attends to, (name, maps): only where there is no live view of it."""
    norms: drawings.Chart | None
    features: bool
    layers: int
    """Layers whose attention is in the page; 0 where there is no live view of attention."""
    heads: int
    class_token: bool
    error: str
    left_out: str
    blocks: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PositionView:
    """Positions, of which every ``stride``-th is shown, compared with all."""

    source: Positions
    stride: int
    low: float
    high: float
    block: tuple[str, str]


@dataclass(frozen=True)
class FilterView:
    """One filter as a picture."""

    uri: str
    share: str


def write_page(inspection: Inspection, path: Path) -> Path:
    """Write the page to ``path``, whole or not at all, and return the path."""
    page = html(inspection)
    with replace.file(path) as staging:
        # a file name may hold bytes that are no text
        staging.write_text(page, encoding="utf-8", errors="replace")
    return path


def html(inspection: Inspection) -> str:
    """The page as HTML. Every text in the inspection is escaped, and no script runs but the page's own."""
    loader = PrefixLoader(
        {"report": PackageLoader("vitrail", "report"), "inspection": PackageLoader("vitrail", "inspection")}
    )
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    positions = [_positions(f"positions-{i}", each) for i, each in enumerate(inspection.positions)]
    pictures = _pictures(inspection, sum(len(view.block[1]) for view in positions))
    script = "".join(
        files("vitrail.inspection").joinpath(name).read_text("utf-8") for name in ("numbers.js", "page.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    blocks = [("page-data", _data(inspection, pictures, positions)), *(view.block for view in positions)]
    blocks += [block for picture in pictures for block in picture.blocks]
    distances = inspection.distances
    return environment.get_template("inspection/page.html").render(
        inspection=inspection,
        facts=_facts(inspection),
        verdicts=inspection.verdicts(),
        pictures=pictures,
        distances=None if distances is None or not distances.size else drawings.scatter(distances, "px"),
        positions=positions,
        filters=_filters(inspection.filters),
        curve=(drawings.CURVE_WIDTH, drawings.CURVE_HEIGHT),
        script=Markup(script),
        digest=digest,
        blocks=[(name, Markup(content)) for name, content in blocks],
    )


def _at_most(error: float) -> str:
    """A bound with one digit, rounded up."""
    if error <= 0:
        return "0"
    step = 10.0 ** math.floor(math.log10(error))
    return f"{math.ceil(error / step) * step:.1g}"


def _facts(inspection: Inspection) -> str:
    """What kind of model it is, in one line."""
    config = inspection.config
    size = f"images of {config.image_size[0]} × {config.image_size[1]} px"
    if isinstance(config, ViTConfig):
        parts = f"{config.depth} layers, {config.heads} heads, patches of {config.patch_size} px"
        return f"Vision Transformer: {parts}, {size}, positions: {config.position}"
    return f"ResNet: {config.depth} layers, {size}; it has no attention and no tokens"


def _pictures(inspection: Inspection, used: int) -> list[PictureView]:
    """All pictures; attention as long as it fits beside the ``used`` bytes."""
    rest = [_tokens(f"picture-{i}", picture) for i, picture in enumerate(inspection.pictures)]
    used += sum(len(content) for blocks in rest for _, content in blocks)
    views = []
    for i, (picture, blocks) in enumerate(zip(inspection.pictures, rest, strict=True)):
        left_out, error, layers, heads = "", 0.0, 0, 0
        kept = picture.attention
        if kept is not None:
            needed = packing.attention_bytes(kept)
            if used + needed <= LIVE_BYTES:
                used += needed
                layers, heads = kept.queries.shape[:2]
                for layer in range(layers):
                    packed, off = packing.pack_layer(kept, layer, picture.prefix)
                    blocks.append((f"picture-{i}-layer-{layer}", packed.block()))
                    error = max(error, off)
            else:
                left_out = (
                    f"No live view of attention: queries and keys of this picture would take {needed / 1e6:,.0f} MB, and "
                    f"the page keeps within {LIVE_BYTES / 1e6:.0f} MB. Fewer pictures or a smaller size make room."
                )
        views.append(_picture(inspection, picture, layers, heads, _at_most(error), left_out, tuple(blocks)))
    return views


def _picture(
    inspection: Inspection,
    picture: Picture,
    layers: int,
    heads: int,
    error: str,
    left_out: str,
    blocks: tuple[tuple[str, str], ...],
) -> PictureView:
    uri, small = drawings.picture_uri(picture.image)
    top = tuple((label, share, f"{100 * share:.1f} %", label == picture.label) for label, share in picture.top)
    return PictureView(
        source=picture,
        uri=uri,
        small=small,
        top=top,
        maps=tuple(_map(each) for each in picture.maps),
        heads_by_layer=() if layers else tuple((each.name, _heads(each)) for each in picture.heads),
        norms=_norms(picture) if picture.norms.size else None,
        features=picture.features.size > 0,
        layers=layers,
        heads=heads,
        class_token=isinstance(inspection.config, ViTConfig) and inspection.config.class_token,
        error=error,
        left_out=left_out,
        blocks=blocks,
    )


def _map(each: Map) -> MapView:
    values = np.nan_to_num(each.values)
    low, high = float(values.min()), float(values.max())
    checks: tuple[Check, ...] = ()
    if each.faithfulness is not None:
        found = each.faithfulness
        checks = (
            _check("deletion", "lower", found.deletion, found.random_deletion),
            _check("insertion", "higher", found.insertion, found.random_insertion),
        )
    return MapView(each.name, drawings.overlay_uri(each.values, each.signed), each.signed, _range(low, high), checks)


def _range(low: float, high: float) -> str:
    return f"{low:.2g} to {high:.2g}".replace("-", "−")


def _heads(found: Heads) -> tuple[MapView, ...]:
    return tuple(_map(Map(f"head {head}", values)) for head, values in enumerate(found.values))


def _check(name: str, better: str, curve: Curve, others: Sequence[Curve]) -> Check:
    areas = [other.area for other in others]
    beaten = sum(curve.area < area if better == "lower" else curve.area > area for area in areas)
    return Check(
        name=name,
        better=better,
        area=f"{curve.area:.3f}",
        others=f"{min(areas):.3f}–{max(areas):.3f}" if areas else "–",
        verdict=f"better than {beaten} of {len(areas)}",
        path=drawings.curve_path(curve),
        other_paths=tuple(drawings.curve_path(other) for other in others),
    )


def _norms(picture: Picture) -> drawings.Chart:
    norms = np.nan_to_num(picture.norms)
    patches = norms[:, picture.prefix :]
    named: list[tuple[str, str, Floats]] = [
        ("longest patch", "longest", patches.max(axis=1)),
        ("median patch", "median", np.median(patches, axis=1)),
    ]
    if picture.prefix:
        named.append(
            (
                ("tokens" if picture.prefix > 1 else "token") + " before the patches",
                "prefix",
                norms[:, : picture.prefix].mean(axis=1),
            )
        )
    return drawings.lines(named)


def _tokens(name: str, picture: Picture) -> list[tuple[str, str]]:
    """Features, colours and norms of a picture for the live view."""
    blocks = []
    if picture.features.size:
        h, w = picture.grid
        blocks.append((f"{name}-features", packing.vectors_block(picture.features.reshape(h * w, -1))))
        colours = np.clip(np.nan_to_num(picture.colours) * 255, 0, 255).round().astype(np.uint8)
        blocks.append((f"{name}-colours", json.dumps({"codes": packing.text(colours)})))
    if picture.norms.size:
        blocks.append((f"{name}-norms", json.dumps({"values": packing.text(picture.norms.astype(np.float32))})))
    return blocks


def _positions(name: str, each: Positions) -> PositionView:
    """Similarities as one byte each, from the lowest to the highest, each position's own left out of the range."""
    h, w = each.grid
    stride = 1
    while -(-h // stride) * -(-w // stride) * h * w * 4 // 3 > POSITION_BYTES and stride < max(h, w):
        stride += 1
    similarity = np.nan_to_num(each.similarity)
    values = similarity.reshape(h * w, h * w)
    others = values[~np.eye(h * w, dtype=bool)] if h * w > 1 else values.ravel()
    low, high = float(others.min()), float(others.max())
    shown = similarity[::stride, ::stride]
    codes = np.clip((shown - low) / max(high - low, 1e-30) * 255, 0, 255).round().astype(np.uint8)
    return PositionView(each, stride, low, high, (name, json.dumps({"codes": packing.text(codes)})))


def _filters(filters: Filters | None) -> list[FilterView]:
    if filters is None:
        return []
    pixels = np.clip(np.nan_to_num(filters.pictures) * 255, 0, 255).round().astype(np.uint8)
    shares = [f"{100 * share:.1f} %" for share in filters.shares.tolist()] or [""] * len(pixels)
    return [FilterView(drawings.picture_uri(each)[0], share) for each, share in zip(pixels, shares, strict=True)]


def _data(inspection: Inspection, pictures: Iterable[PictureView], positions: Iterable[PositionView]) -> str:
    """What the script must know beside the arrays: numbers and words of this page alone, none of a stranger."""
    config = inspection.config
    prefix: list[str] = []
    if isinstance(config, ViTConfig):
        prefix += ["class token"] * config.class_token + ["distillation token"] * config.distilled
        prefix += [f"register {i}" for i in range(config.registers)]
    data: dict[str, Any] = {
        "cover": drawings.COVER,
        "strongest": drawings.STRONGEST,
        "ramp": drawings.ramp().ravel().tolist(),
        "prefix": prefix,
        "pictures": [],
        "positions": [],
    }
    for view in pictures:
        picture = view.source
        data["pictures"].append(
            {
                "grid": picture.grid,
                "patch": picture.patch_size,
                "prefix": picture.prefix,
                "size": picture.image.shape[:2],
                "small": view.small,
                "layers": view.layers,
                "heads": view.heads,
                "width": picture.attention.queries.shape[-1] if view.layers and picture.attention else 0,
                "features": picture.features.shape[-1] if view.features else 0,
                "start": picture.alike.patch if picture.alike else (picture.grid[0] // 2, picture.grid[1] // 2),
                "depth": picture.norms.shape[0] if picture.norms.size else 0,
            }
        )
    for each in positions:
        data["positions"].append({"grid": each.source.grid, "stride": each.stride, "low": each.low, "high": each.high})
    return json.dumps(data)
