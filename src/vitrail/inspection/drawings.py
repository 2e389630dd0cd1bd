"""What the page draws without a script: pictures as data URIs, maps as see-through ones, and the geometry of its charts.

All lengths of charts are in SVG user units, the origin is the top left corner.
"""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitrail.inspection.inspection import Curve, Floats

RAMP = "magma"
FOR, AGAINST = (178, 24, 43), (33, 102, 172)
"""Colours of what speaks for and against, which the colour-blind tell apart too."""
STRONGEST = 99.0
"""Per cent: few patches are far above all others, and would leave the rest dark."""
COVER = 0.68
"""Of a map over its picture."""
SMALL = 64
"""A picture below this side keeps every pixel, and is drawn with pixels to be seen."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Dot:
    """A point of a scatter, and its words."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Line:
    """A curve; ``role`` is the class by which the style sheet colours it."""

    name: str
    role: str
    path: str


@dataclass(frozen=True)
class Chart:
    """Dots or lines over the layers, with its axes."""

    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    dots: tuple[Dot, ...] = ()
    lines: tuple[Line, ...] = ()
    width: int = 480
    height: int = 230
    left: int = 44
    right: int = 468
    top: int = 10
    bottom: int = 196


CURVE_WIDTH, CURVE_HEIGHT = 150, 64


def ramp() -> NDArray[np.uint8]:
    """The colours from the lowest to the highest value, (256, 3)."""
    import matplotlib

    return (matplotlib.colormaps[RAMP](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def picture_uri(image: NDArray[np.uint8]) -> tuple[str, bool]:
    """A picture (H, W, 3), or (H, W, 1) of grey, as a data URI, and whether it is a small one."""
    from PIL import Image

    small = max(image.shape[:2]) < SMALL
    made = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    buffer = io.BytesIO()
    if small:
        made.save(buffer, "PNG", optimize=True)
    else:
        made.save(buffer, "JPEG", quality=88)
    return _uri("png" if small else "jpeg", buffer), small


def overlay_uri(values: Floats, signed: bool) -> str:
    """A map (h, w) as a see-through picture of one pixel a patch, to be stretched over its picture.

    By ``RAMP`` from the lowest value to the 99th percentile; of a signed map the sign gives the colour and the size, up to
    the 99th percentile of the sizes, the opacity.
    """
    from PIL import Image

    values = np.nan_to_num(values)
    rgba = np.empty((*values.shape, 4), np.uint8)
    if signed:
        share = np.clip(values / max(strongest(np.abs(values)), 1e-30), -1, 1)
        rgba[..., :3] = np.where(share[..., None] > 0, FOR, AGAINST)
        rgba[..., 3] = (np.abs(share) * 255 * 0.85).round()
    else:
        low = float(values.min())
        share = np.clip((values - low) / max(strongest(values) - low, 1e-30), 0, 1)
        rgba[..., :3] = ramp()[(share * 255).round().astype(int)]
        rgba[..., 3] = round(255 * COVER)
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG", optimize=True)
    return _uri("png", buffer)


def strongest(values: Floats) -> float:
    """What the strongest colour stands for: the 99th percentile, or the largest where that is the only one above the rest."""
    high = float(np.percentile(values, STRONGEST))
    return high if high > float(values.min()) else float(values.max())


def curve_path(curve: Curve) -> str:
    """A probability against a share, both from 0 to 1, in a box of CURVE_WIDTH x CURVE_HEIGHT."""
    height = np.clip(np.nan_to_num(curve.probabilities), 0, 1)
    return _path(curve.shares * CURVE_WIDTH, (1 - height) * CURVE_HEIGHT)


def scatter(values: Floats, unit: str) -> Chart:
    """One dot a layer and head, of values (L, A)."""
    axes = _Axes(values)
    dots = tuple(
        Dot(axes.x(i), axes.y(v), f"layer {i}, head {j}: {v:.3g} {unit}")
        for i, row in enumerate(values.tolist())
        for j, v in enumerate(row)
        if math.isfinite(v)
    )
    return axes.chart(dots=dots)


def lines(named: Sequence[tuple[str, str, Floats]]) -> Chart:
    """Lines over the layers: (name, role, values (L,))."""
    axes = _Axes(np.stack([values for _, _, values in named], axis=1))
    drawn = tuple(
        Line(name, role, _path([axes.x(i) for i in range(len(values))], [axes.y(v) for v in values.tolist()]))
        for name, role, values in named
    )
    return axes.chart(lines=drawn)


class _Axes:
    """Layers to the right, values upwards from 0, for values (L, n)."""

    def __init__(self, values: Floats) -> None:
        self.layers = values.shape[0]
        finite = values[np.isfinite(values)]
        largest = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
        self.step = _step(largest)
        self.top = math.ceil(largest / self.step * (1 - 1e-9)) * self.step

    def x(self, layer: int) -> float:
        inner = Chart.right - Chart.left - 16
        return Chart.left + 8 + (inner / 2 if self.layers == 1 else inner * layer / (self.layers - 1))

    def y(self, value: float) -> float:
        return Chart.top + (Chart.bottom - Chart.top) * (1 - value / self.top)

    def chart(self, *, dots: tuple[Dot, ...] = (), lines: tuple[Line, ...] = ()) -> Chart:
        every = math.ceil(self.layers / 16)
        x_ticks = tuple(Tick(self.x(i), str(i)) for i in range(0, self.layers, every))
        marks = [self.step * i for i in range(round(self.top / self.step) + 1)]
        y_ticks = tuple(Tick(self.y(mark), f"{mark:.6g}") for mark in marks)
        return Chart(x_ticks, y_ticks, dots, lines)


def _step(largest: float) -> float:
    """1, 2 or 5 times a power of ten, so that four or five steps reach the largest value."""
    power = 10.0 ** math.floor(math.log10(largest / 4))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor * 5 >= largest)


def _path(xs: Sequence[float] | Floats, ys: Sequence[float] | Floats) -> str:
    points = [f"{x:.1f} {y:.1f}" for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
    return "M" + "L".join(points) if points else ""


def _uri(kind: str, buffer: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
