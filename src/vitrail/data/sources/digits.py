"""The built-in data: 1,797 handwritten digits of 8x8 pixels, from scikit-learn (UCI, CC BY 4.0)."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vitrail.data.samples import UNKNOWN, Stats
from vitrail.data.sources.files import stats_of
from vitrail.data.sources.listing import Listing, Part
from vitrail.data.split import fixed_share

TEST_FRACTION = 0.2  # of every class, always the same ones: 'the held-out digits'


@dataclass(frozen=True)
class ArrayReader:
    """Gives images of an array (n, H, W) uint8 as PNG."""

    images: np.ndarray
    file: Path | None = None
    """Where they were read from, if anywhere."""

    def __call__(self, index: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(self.images[index]).save(file, "PNG", compress_level=0)
        return file.getvalue()

    def content(self, index: int) -> bytes:
        """The pixels of an image, and their shape."""
        return repr(self.images[index].shape).encode() + self.images[index].tobytes()

    def stats(self, indices: np.ndarray) -> Stats:
        """Of the file that they were read from."""
        if self.file is None:
            unknown = np.full(len(indices), UNKNOWN, dtype=np.int64)
            return Stats(unknown, unknown)
        one = stats_of(self.file.parent, [self.file.name])
        return Stats(np.repeat(one.sizes, len(indices)), np.repeat(one.modified, len(indices)))


def open_digits() -> Listing:
    """Train and test, a fixed fifth of every class in test."""
    from sklearn.datasets import load_digits  # takes seconds to import

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    names = [f"{digit}/{i:04d}.png" for i, digit in enumerate(digits.target)]
    labels = tuple(str(digit) for digit in range(10))
    test = fixed_share(names, digits.target, labels, TEST_FRACTION)
    parts = {}
    for split, chosen in (("train", np.flatnonzero(~test)), ("test", np.flatnonzero(test))):
        classes = [labels[digits.target[i]] for i in chosen]
        parts[split] = Part([names[i] for i in chosen], classes, ArrayReader(images[chosen]))
    return Listing(parts, labels)
