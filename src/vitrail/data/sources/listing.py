"""Listing: what every source gives, before classes become indices."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from vitrail.data.samples import Reader


@dataclass(frozen=True)
class Part:
    """The samples of one split."""

    names: Sequence[str]
    """One name a sample, without spaces of its own meaning, such as 'cat/0001.jpg'."""
    classes: Sequence[str] | None
    """The class name of each sample, or None where the source holds no labels."""
    read: Reader
    """The encoded image of sample i."""


@dataclass(frozen=True)
class Listing:
    """What a source found: a new source is one function that returns this, and one line in `vitrail.data.open`."""

    parts: dict[str, Part] = field(default_factory=dict)
    """By split: 'train', 'val', 'test'. A source that knows no splits gives 'train' alone."""
    labels: tuple[str, ...] | None = None
    """The class names in their own order where the source records one; otherwise they are sorted."""
    missing_labels: str = "it holds no labels"
    """Where classes are None, why, for the error: it names what was found instead."""
