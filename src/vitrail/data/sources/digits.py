"""The built-in data: 1,797 handwritten digits of 8x8 pixels, from scikit-learn (UCI, CC BY 4.0)."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vitrail.data.sources.listing import Listing, Part
from vitrail.data.split import fixed_share

TEST_FRACTION = 0.2  # of every class, always the same ones: 'the held-out digits'


@dataclass(frozen=True)
class ArrayReader:
    """Gives images of an array (n, H, W) uint8 as PNG."""

    images: np.ndarray

    def __call__(self, index: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(self.images[index]).save(file, "PNG", compress_level=0)
        return file.getvalue()


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
