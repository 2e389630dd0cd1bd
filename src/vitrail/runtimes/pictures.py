"""The pictures that an export is calibrated with and checked on, as the model takes them.

Shapes: n pictures, C channels, H W height and width.
"""

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


def of_data(
    data: str | Path,
    preprocess: Preprocess,
    labels: Sequence[str],
    *,
    most: int,
    parts: Sequence[str],
    between: bool = False,
) -> Pictures:
    """Up to ``most`` pictures of a data set, or of whatever else ``predict`` takes, evenly spaced.

    Args:
        data: a data set, a folder of images, a file or a pattern.
        preprocess: what brings them to the model's size.
        labels: the model's classes.
        most: pictures.
        parts: the parts of a data set by preference; the first that it has is taken.
        between: take those that lie between the ones that are taken without it.

    Raises:
        UserError: no such data, or not one picture in it can be read.
    """
    part, items, names = _items(data, parts)
    count = min(most, len(items))
    places = sorted({int((i + (0.5 if between else 0.0)) * len(items) / count) for i in range(count)})
    pixels, targets, failure = [], [], ""
    known = {name: index for index, name in enumerate(labels or names)}
    for item in (items[place] for place in places):
        try:
            pixels.append(preprocess.load(item.read(), item.name).numpy())
        except (ImageError, OSError) as error:
            failure = failure or str(error)
            continue
        targets.append(None if item.label is None else known.get(item.label))
    if not pixels:
        raise UserError(f"{data}: not one of {len(places):,} images can be read, the first: {failure}")
    all_known = all(target is not None for target in targets)
    found = np.array(targets, dtype=np.int64) if all_known else None
    return Pictures(np.stack(pixels), found, f"{len(pixels):,} images of {data}{part}")


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


def _items(data: str | Path, parts: Sequence[str]) -> tuple[str, list[_Item], Sequence[str]]:
    """The name of a part, its images, and the data's classes; what is no data set has neither parts nor classes."""
    try:
        dataset = open_data(data, val_fraction=0.0, need_labels=False)
    except UserError:
        return "", [_Item(source.name, source.read, None) for source in Inputs([str(data)])], ()
    name = next(part for part in parts if getattr(dataset, part) is not None)
    samples = getattr(dataset, name)
    items = [
        _Item(
            sample, partial(samples.encoded, i), None if samples.targets is None else samples.labels[samples.targets[i]]
        )
        for i, sample in enumerate(samples.names)
    ]
    return f" ({name})", items, samples.labels
