"""Samples: images and labels by index, what training, evaluation and prediction iterate over."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vitrail.data.decode import ImageError

Reader = Callable[[int], bytes]
"""Gives the encoded image of a sample by its index. It is picklable, so that loader workers can take it along."""


@dataclass(frozen=True)
class Picked:
    """A reader of some samples of another reader, in a given order."""

    read: Reader
    indices: np.ndarray

    def __call__(self, index: int) -> bytes:
        return self.read(int(self.indices[index]))


@dataclass(frozen=True, eq=False)
class Samples:
    """Images, and their classes where known, by index."""

    names: Sequence[str]
    """One name a sample, for people and for the split: 'cat/0001.jpg', 'shard-000.tar:00012', '3/0012.png'."""
    targets: np.ndarray | None
    """Class indices (n,) int64, or None where there are no labels."""
    labels: tuple[str, ...]
    """Class names; a target is an index into them."""
    read: Reader
    """The encoded image of sample i."""

    def __len__(self) -> int:
        return len(self.names)

    def encoded(self, index: int) -> bytes:
        """The bytes of sample ``index`` as stored. Raises ImageError, with its name, where they cannot be read."""
        try:
            return self.read(index)
        except OSError as error:
            raise ImageError(f"{self.names[index]}: cannot be read ({error.strerror or error})") from error

    def place(self, index: int) -> int:
        """Where sample ``index`` stands in the source that these are a part of."""
        return int(self.read.indices[index]) if isinstance(self.read, Picked) else index

    def subset(self, indices: np.ndarray | Sequence[int]) -> "Samples":
        """The samples at ``indices``, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        read, places = self.read, chosen
        if isinstance(read, Picked):  # a subset of a subset reads from the source itself
            places = read.indices[chosen]
            read = read.read
        targets = None if self.targets is None else self.targets[chosen]
        return replace(self, names=[self.names[i] for i in chosen], targets=targets, read=Picked(read, places))
