"""The pictures that an export is calibrated with and checked on, as the model takes them.

Shapes: n pictures, C channels, H W height and width.
"""

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vitrail.data.decode import ImageError
from vitrail.data.open import open_data
from vitrail.data.preprocess import Preprocess
from vitrail.data.sources.digits import open_digits
from vitrail.errors import UserError
from vitrail.inputs import Inputs

_BUILT_IN = 32  # of each of the two kinds
_COARSE = (2, 4, 8, 16, 32)  # sides of the random colours that are enlarged


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures behind resize and crop."""

    pixels: NDArray[np.uint8]
    """(n, C, H, W)."""
    targets: NDArray[np.int64] | None
    """(n,), classes of the model, where all are known."""
    source: str
    """Where they come from, for people."""

    def every(self, step: int) -> "Pictures":
        """Each so manieth of them."""
        targets = None if self.targets is None else self.targets[::step]
        return Pictures(self.pixels[::step], targets, self.source)


@dataclass(frozen=True)
class _Item:
    name: str
    read: Callable[[], bytes]
    label: str | None


@dataclass(frozen=True)
class Source:
    """The images of a part of a data set, or of whatever else ``predict`` takes."""

    data: str
    part: str
    """A part of a data set; empty for what is none."""
    items: Sequence[_Item]
    classes: Sequence[str]
    """Of the data; empty where they have none."""
    notes: tuple[str, ...] = ()
    """What a person should know of these images."""

    def __len__(self) -> int:
        return len(self.items)

    def with_note(self, note: str) -> "Source":
        """The same, of which something more is to be known."""
        return dataclasses.replace(self, notes=(*self.notes, note))

    def without(self, other: "Source") -> "Source":
        """The images that are not among the other's."""
        others = set(other._keys())
        kept = [item for item, key in zip(self.items, self._keys(), strict=True) if key not in others]
        return dataclasses.replace(self, items=kept)

    def _keys(self) -> list[tuple[str, ...]]:
        """What tells an image from any other: for a file, where it lies."""
        root, keys = Path(self.data).expanduser().resolve(), list[tuple[str, ...]]()
        for item in self.items:
            path = next((path for path in (root / item.name, Path(item.name)) if path.is_file()), None)
            keys.append((str(path.resolve()),) if path is not None else (str(root), self.part, item.name))
        return keys

    def halves(self) -> tuple["Source", "Source"]:
        """Two without an image in common; the first is not the larger one.

        Of every two neighbours each gets one, by lot: classes that take turns do not fall into one half each.
        """
        lot = random.Random(0)
        halves: tuple[list[_Item], list[_Item]] = [], []
        for start in range(0, len(self.items) - 1, 2):
            first = lot.randrange(2)
            halves[first].append(self.items[start])
            halves[1 - first].append(self.items[start + 1])
        if len(self.items) % 2:
            halves[1].append(self.items[-1])
        one, other = (dataclasses.replace(self, items=items) for items in halves)
        return one, other

    def pictures(self, preprocess: Preprocess, labels: Sequence[str], most: int) -> Pictures:
        """Up to ``most`` of the images, evenly spaced, brought to the model's size.

        Args:
            preprocess: does that.
            labels: the model's classes.
            most: pictures.

        Raises:
            UserError: not one of them can be read.
        """
        count = min(most, len(self.items))
        chosen = [self.items[i * len(self.items) // count] for i in range(count)]
        pixels, targets, failure = [], [], ""
        known = {name: index for index, name in enumerate(labels or self.classes)}
        for item in chosen:
            try:
                pixels.append(preprocess.load(item.read(), item.name).numpy())
            except (ImageError, OSError) as error:
                failure = failure or str(error)
                continue
            targets.append(None if item.label is None else known.get(item.label))
        if not pixels:
            raise UserError(f"{self.data}: not one of {count:,} images can be read, the first: {failure}")
        all_known = all(target is not None for target in targets)
        part = f" ({self.part})" if self.part else ""
        unread = [f"{count - len(pixels):,} more cannot be read"] if len(pixels) < count else []
        text = ", ".join([f"{len(pixels):,} images of {self.data}{part}", *unread, *self.notes])
        return Pictures(np.stack(pixels), np.array(targets, dtype=np.int64) if all_known else None, text)


def open_source(data: str | Path, parts: Sequence[str]) -> Source:
    """The images of a data set's part, or of a folder of images, a file or a pattern.

    Args:
        data: names them.
        parts: of a data set, by preference; the first that it has is taken.

    Raises:
        UserError: no such data.
    """
    try:
        dataset = open_data(data, val_fraction=0.0, need_labels=False)
    except UserError:
        return Source(str(data), "", [_Item(source.name, source.read, None) for source in Inputs([str(data)])], ())
    part = next(part for part in parts if getattr(dataset, part) is not None)
    samples = getattr(dataset, part)
    items = [
        _Item(
            sample, partial(samples.encoded, i), None if samples.targets is None else samples.labels[samples.targets[i]]
        )
        for i, sample in enumerate(samples.names)
    ]
    return Source(str(data), part, items, samples.labels)


def built_in(preprocess: Preprocess) -> Pictures:
    """Pictures for a check where a person named none: scanned digits, enlarged, and random colours of several coarseness."""
    digits = next(part for part in open_digits().parts.values() if len(part.names))
    pictures = [preprocess.load(digits.read(i), digits.names[i]) for i in range(min(_BUILT_IN, len(digits.names)))]
    generator = torch.Generator().manual_seed(0)
    for i in range(_BUILT_IN):
        side = _COARSE[i % len(_COARSE)]
        colours = torch.randint(0, 256, (preprocess.channels, side, side), dtype=torch.uint8, generator=generator)
        pictures.append(preprocess.resize(colours))
    source = f"{_BUILT_IN} scanned digits, enlarged, and {_BUILT_IN} pictures of random colours, as none were named"
    return Pictures(torch.stack(pictures).numpy(), None, source)
