"""What a Predictor asks of whatever computes its answers: a model in torch, or the engine of an exported one.

Shapes: C channels, h w height and width, D width of the features.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vitrail.data.preprocess import Preprocess

Ranking = list[tuple[int, float]]
"""(index of a class, its probability), most probable first."""


class Answers(Protocol):
    """Pixels in, answers out, a batch at a time. ``Any`` is this one's own kind of pixels, uint8 (C, h, w)."""

    ahead: int
    """Batches that are decoded while one is computed."""

    @property
    def preprocess(self) -> Preprocess:
        """The pixel contract."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits; their numbers where they have none."""

    @property
    def classes(self) -> int:
        """How many there are; 0 without a head."""

    @property
    def feature_width(self) -> int:
        """D."""

    def load(self, data: bytes, name: str) -> Any:
        """An encoded image -> pixels. Raises ImageError."""

    def rank(self, pixels: Sequence[Any], top: int) -> list[Ranking]:
        """The ``top`` classes of each image."""

    def features(self, pixels: Sequence[Any]) -> list[NDArray[np.float32]]:
        """The pooled features (D,) of each image."""

    def identity(self) -> dict[str, Any]:
        """What decides the answers to the bit, beside contract and labels: model, weights, and what computes them."""
