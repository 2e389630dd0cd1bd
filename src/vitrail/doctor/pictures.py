"""A few hundred images of a data set, looked at: what their pixels are like, their sizes, those that are damaged."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from vitrail.data.decode import ImageError, open_image
from vitrail.data.preprocess import Preprocess
from vitrail.data.samples import Samples
from vitrail.data.workers import cores

_GREY = 1.0  # grey levels by which channels may differ on average in a picture without colour (JPEG rounds)
_BLANK = 1.0  # grey levels of deviation below which a picture shows nothing


@dataclass(frozen=True, eq=False)
class Picture:
    """One image. Pixels are those of the whole image at the model's size, from 0 to 255."""

    size: tuple[int, int]
    """(height, width) of the image as it is, in pixels."""
    sixteen_bit: bool
    grey: bool
    """Whether it has no colour."""
    low: int
    high: int
    mean: np.ndarray
    """(C,), of the channels that the model takes."""
    square: np.ndarray
    """(C,), mean of the squares."""

    @property
    def blank(self) -> bool:
        """Whether every pixel has nearly the same value."""
        return bool(np.sqrt(np.maximum(self.square - self.mean**2, 0)).max() < _BLANK)


@dataclass(frozen=True, eq=False)
class Pictures:
    """Those that were looked at."""

    good: Sequence[Picture]
    bad: Sequence[str]
    """Messages of those that cannot be read, each beginning with the image's name."""
    mean_bytes: float
    """Of an encoded image."""

    @property
    def mean(self) -> np.ndarray:
        """(C,), of all pixels, from 0 to 1."""
        return np.mean([picture.mean for picture in self.good], axis=0) / 255

    @property
    def std(self) -> np.ndarray:
        """(C,), of all pixels, from 0 to 1."""
        square = np.mean([picture.square for picture in self.good], axis=0) / 255**2
        return np.sqrt(np.maximum(square - self.mean**2, 0))

    @property
    def sizes(self) -> np.ndarray:
        """(n, 2), heights and widths."""
        return np.array([picture.size for picture in self.good])


def spread(parts: Sequence[Samples], most: int) -> list[tuple[Samples, int]]:
    """Up to ``most`` samples of all parts together, evenly spaced."""
    ends = np.cumsum([len(part) for part in parts])
    total = int(ends[-1]) if len(ends) else 0
    chosen = []
    for place in np.unique(np.linspace(0, total - 1, min(most, total)).astype(int)):
        which = int(np.searchsorted(ends, place, side="right"))
        chosen.append((parts[which], int(place - ends[which] + len(parts[which]))))
    return chosen


def look(
    chosen: Sequence[tuple[Samples, int]], contract: Preprocess, progress: Callable[[int, int], None] | None = None
) -> Pictures:
    """Decode these samples and say what they are like."""
    # nothing is cut off or laid around, so that all of a picture counts and nothing else does
    whole = replace(contract, mode="squash", crop_fraction=1.0)
    good, bad, encoded = [], [], 0

    def one(item: tuple[Samples, int]) -> tuple[Picture | str, int]:
        samples, index = item
        try:
            data = samples.encoded(index)
        except ImageError as error:
            return str(error), 0
        try:
            return _picture(data, samples.names[index], whole), len(data)
        except ImageError as error:
            return str(error), len(data)

    with ThreadPoolExecutor(cores()) as pool:
        for done, (found, length) in enumerate(pool.map(one, chosen), start=1):
            encoded += length
            if isinstance(found, str):
                bad.append(found)
            else:
                good.append(found)
            if progress is not None:
                progress(done, len(chosen))
    return Pictures(good, bad, encoded / max(1, len(chosen)))


def _picture(data: bytes, name: str, whole: Preprocess) -> Picture:
    opened = open_image(data, name)
    pixels = whole.load(data, name)
    colour = pixels
    if whole.channels == 1:
        colour = replace(whole, channels=3, mean=whole.mean * 3, std=whole.std * 3).load(data, name)
    difference = (colour.amax(0).float() - colour.amin(0).float()).mean().item()
    values = pixels.flatten(1).double()
    return Picture(
        size=opened.size,
        sixteen_bit=opened.image.mode.startswith("I;16") or opened.image.mode == "I",
        grey=difference < _GREY,
        low=int(pixels.min()),
        high=int(pixels.max()),
        mean=values.mean(1).numpy(),
        square=values.square().mean(1).numpy(),
    )
