"""Inspection: everything that was found by looking into a model, as arrays, ready to be drawn or saved.

Shapes: H W height and width of a picture, h w its grid, L layers, A heads, N tokens, C channels, K a head's width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

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


@dataclass(frozen=True, eq=False)
class Positions:
    """How alike the positions are, each with every other."""

    grid: tuple[int, int]
    similarity: Floats
    """(h, w, h, w): [i, j] is the picture of how alike position (i, j) is to all."""
    what: str
    """What is compared, in words: the cosine of learned vectors, or an effect on attention."""


@dataclass(frozen=True, eq=False)
class Filters:
    """The main directions of what the first layer looks for, as pictures."""

    pictures: Floats
    """(n, p, p, C) from 0 to 1, C 1 or 3."""
    shares: Floats
    """(n,), share of the variance that each explains; of single kernels, which are no components, none: (0,)."""
    what: str


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
    extra: Mapping[str, Floats] = field(default_factory=dict)
    """Further arrays that are saved by these names."""
