"""Inspection: everything that was found by looking into a model, as arrays, ready to be drawn or saved.

Shapes: H W height and width of a picture, h w its grid, L layers, A heads, N tokens, C channels, K a head's width.
"""

import base64
import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitrail.model import ModelConfig

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Curve:
    """How the probability of a class moves while patches are taken away, or put in, in the order of a map."""

    shares: Floats
    """(s,), the share of the patches that is changed at each step, from 0 to 1."""
    probabilities: Floats
    """(s,)"""

    @property
    def area(self) -> float:
        """The mean probability along the curve, by the trapezoidal rule."""
        between = (self.probabilities[1:] + self.probabilities[:-1]) / 2
        return float(between @ np.diff(self.shares))


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """Whether a map tells what the model used: its curves beside those of random maps."""

    deletion: Curve
    insertion: Curve
    random_deletion: tuple[Curve, ...]
    random_insertion: tuple[Curve, ...]


@dataclass(frozen=True, eq=False)
class Map:
    """What was looked at in one picture, in one way."""

    name: str
    """In words, such as ``rollout`` or ``for cat against dog``."""
    values: Floats
    """(h, w); below 0 only where the map is signed: what speaks against."""
    signed: bool = False
    faithfulness: Faithfulness | None = None
    kind: str = ""
    """The name that it shares with the maps of other pictures, such as ``for the true class``; empty where that is ``name``."""

    explains: str = ""
    """The label whose probability its faithfulness follows."""

    @property
    def kin(self) -> str:
        """``kind``, or the name."""
        return self.kind or self.name


@dataclass(frozen=True, eq=False)
class Heads:
    """What every head of one layer attends to, from the query."""

    name: str
    """In words, such as ``attention of layer 11, patch 3,5``."""
    layer: int
    """From 0."""
    values: Floats
    """(A, h, w)"""


@dataclass(frozen=True, eq=False)
class Alike:
    """How alike one patch is to all: the cosine of the features."""

    patch: tuple[int, int]
    """Row and column, from 0."""
    values: Floats
    """(h, w), from -1 to 1."""


@dataclass(frozen=True, eq=False)
class Attention:
    """Queries and keys of all layers, from which the attention of any token can be computed."""

    queries: Floats
    """(L, A, N, K)"""
    keys: Floats
    """(L, A, N, K)"""
    bias: Floats | None = None
    """(L, A, N, N): what positions add to the scores; None where they add nothing."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture: how the model saw it, what it said, and where it looked."""

    name: str
    image: NDArray[np.uint8]
    """(H, W, 3), as the model gets it: resized, cropped, before mean and deviation."""
    grid: tuple[int, int]
    patch_size: int
    prefix: int
    """Tokens before the patches."""
    top: tuple[tuple[str, float], ...]
    """Labels with their probabilities, most probable first; none of a model without a head."""
    maps: tuple[Map, ...]
    attention: Attention | None
    norms: Floats
    """(L, N), length of every token after each block."""
    features: Floats
    """(h, w, D), the patches' tokens after the last block."""
    colours: Floats
    """(h, w, 3), the three main directions of the features as colours from 0 to 1."""
    label: str | None = None
    """The true label, where it is known."""
    heads: tuple[Heads, ...] = ()
    """Of the layers that were asked for."""
    alike: Alike | None = None

    def _repr_png_(self) -> bytes | None:
        return _shown(self)


@dataclass(frozen=True, eq=False)
class Positions:
    """How alike the positions are, each with every other."""

    grid: tuple[int, int]
    similarity: Floats
    """(h, w, h, w): [i, j] is the picture of how alike position (i, j) is to all."""
    what: str
    """What is compared, in words: the cosine of learned vectors, or an effect on attention."""

    def _repr_png_(self) -> bytes | None:
        return _shown(self)


@dataclass(frozen=True, eq=False)
class Filters:
    """The main directions of what the first layer looks for, as pictures."""

    pictures: Floats
    """(n, p, p, C) from 0 to 1, C 1 or 3."""
    shares: Floats
    """(n,), share of the variance that each explains; of single kernels, which are no components, none: (0,)."""
    what: str

    def _repr_png_(self) -> bytes | None:
        return _shown(self)


@dataclass(frozen=True, eq=False)
class Inspection:
    """A model, looked into. In a notebook it shows itself; ``save`` writes figures, arrays and a page."""

    model: str
    config: ModelConfig
    labels: tuple[str, ...]
    pictures: tuple[Picture, ...] = ()
    distances: Floats | None = None
    """(L, A), mean attention distance in pixels over the pictures."""
    positions: tuple[Positions, ...] = ()
    """At the model's own grid, and at another if that was asked for."""
    filters: Filters | None = None
    notes: tuple[str, ...] = ()
    """Sentences for the person: what was left out, and why."""
    looked_at: int = 0
    """Pictures that ``distances`` is the mean of: those that are shown, and further ones."""
    extra: Mapping[str, Floats] = field(default_factory=dict)
    """Further arrays that are saved by these names."""

    def verdicts(self) -> dict[str, str]:
        """Whether maps of each kind tell what the model used, in sentences with numbers: kind -> what its curves say."""
        from vitrail.inspection.faithfulness import verdict

        found: dict[str, list[Faithfulness]] = {}
        for picture in self.pictures:
            for each in picture.maps:
                if each.faithfulness is not None:
                    found.setdefault(each.kin, []).append(each.faithfulness)
        return {kind: verdict(curves) for kind, curves in found.items()}

    def save(self, out: str | Path) -> Path:
        """Write ``index.html``, ``arrays.npz`` and ``figures`` into the folder ``out``, whole or not at all.

        Other files that are in the folder stay there.

        Returns:
            The page.
        """
        from vitrail.inspection.save import save

        return save(self, Path(out))

    def _repr_png_(self) -> bytes | None:
        return _shown(self)

    def _repr_html_(self) -> str:
        text = html.escape(self.model) or "a model"
        picture = _shown(self)
        said = [f"{kind}: {sentence}" for kind, sentence in self.verdicts().items()]
        lines = [f"<p><b>{text}</b></p>", *(f"<p>{html.escape(each)}</p>" for each in (*said, *self.notes))]
        if picture is not None:
            data = base64.b64encode(picture).decode("ascii")
            lines.insert(1, f'<img alt="{text}" style="max-width:100%" src="data:image/png;base64,{data}">')
        return f"<div>{''.join(lines)}</div>"


def _shown(what: "Inspection | Picture | Positions | Filters") -> bytes | None:
    """As PNG, for a notebook."""
    from vitrail.inspection.figures import shown

    return shown(what)
