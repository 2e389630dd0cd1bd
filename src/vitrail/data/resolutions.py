"""Resolutions: which image size and patch size each training step has, a function of (seed, step)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vitrail.data.randomness import uniforms

Size = tuple[int, int]
Pair = tuple[Size, int]
"""Height and width of the images, and the side of a patch, in pixels; 1 where the model has no patches."""


@dataclass(frozen=True)
class Resolutions:
    """The pairs that a run goes through. All of a step's images have one, on every rank the same."""

    pairs: tuple[Pair, ...]
    order: Literal["random", "rising"]
    """random: drawn for each step, any pair as likely as another; rising: from the fewest tokens to the most, each for an
    equal share of the run."""
    seed: int
    total: int
    """Steps of the run, which rising orders share out."""

    def __post_init__(self) -> None:
        if not self.pairs:
            raise ValueError("resolutions need at least one pair of an image size and a patch size")

    def at(self, step: int) -> Pair:
        """The image size and the patch size of global step ``step``."""
        count = len(self.pairs)
        if self.order == "rising":
            place = min(step * count // max(self.total, 1), count - 1)  # beyond the run, a loader prepares a few steps
            return sorted(self.pairs, key=patches)[place]
        draw = uniforms(self.seed, "resolution", step, count=1)[0, 0]
        return self.pairs[int(draw * count)]

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The different image sizes."""
        return different_sizes(self.pairs)


def patches(pair: Pair) -> int:
    """The patches of an image; its pixels where the patch is 1."""
    (height, width), side = pair
    return (height // side) * (width // side)


def whole_patches(length: float, side: int) -> int:
    """A length in pixels as whole patches, at least one; halves are rounded up."""
    return max(1, math.floor(length / side + 0.5)) * side


def different_sizes(pairs: Sequence[Pair]) -> tuple[Size, ...]:
    """The image sizes of the pairs, each once."""
    return tuple(dict.fromkeys(size for size, _ in pairs))
