"""Samples: images and labels by index, what training, evaluation and prediction iterate over."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from vitrail.data.decode import ImageError

if TYPE_CHECKING:
    from vitrail.data.kept import Kept

Reader = Callable[[int], bytes]
"""Gives the encoded image of a sample by its index. It is picklable, so that loader workers can take it along.

It may have a method ``stats``: see ``KnowsStats``. One that encodes images itself, so that the bytes depend on the
encoder's version, has a method ``content(index) -> bytes``: what the image is, whoever encodes it."""

UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Stats:
    """What tells, without a look at the bytes, whether samples have changed; ``UNKNOWN`` where nothing does."""

    sizes: np.ndarray
    """Bytes (n,) int64: of the image's own file, or of the file that holds it among others."""
    modified: np.ndarray
    """When that file was changed last, (n,) int64: nanoseconds since 1970."""


@runtime_checkable
class KnowsStats(Protocol):
    """A reader that knows the files that it reads."""

    def stats(self, indices: np.ndarray) -> Stats:
        """Of the samples at ``indices``."""


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
    kept: "Kept | None" = None
    """All images, decoded and reduced, for training to cut its views from; None where each is decoded when it is needed."""

    def __len__(self) -> int:
        return len(self.names)

    def encoded(self, index: int) -> bytes:
        """The bytes of sample ``index`` as stored. Raises ImageError, with its name, where they cannot be read."""
        try:
            return self.read(index)
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            reason = error.strerror if isinstance(error, OSError) else None
            text = " ".join((reason or str(error)).split())
            raise ImageError(f"{self.names[index]}: cannot be read ({text})") from error

    def digest(self, index: int, encoded: bytes) -> int:
        """A number below 2^64, never 0, that differs where the image differs: the length, and a CRC of 32 bits.

        It tells changes that nobody wants to hide: one of up to four bytes in a row for certain, another one of the same
        length but for a chance of 1 in 2^32. Beside the decoding it costs 1 to 2 %; a cryptographic hash costs 3 to 9 %.

        Args:
            encoded: the image's bytes, as ``encoded(index)`` gave them.
        """
        content: Callable[[int], bytes] | None = getattr(self._source(), "content", None)
        known = encoded if content is None else content(self.place(index))
        return len(known) << 32 | zlib.crc32(known) or 1

    def stats(self) -> Stats:
        """Size and time of change of every sample's file, as far as the source knows them."""
        source = self._source()
        if isinstance(source, KnowsStats):
            return source.stats(self.read.indices if isinstance(self.read, Picked) else np.arange(len(self)))
        unknown = np.full(len(self), UNKNOWN, dtype=np.int64)
        return Stats(unknown, unknown)

    def _source(self) -> Reader:
        return self.read.read if isinstance(self.read, Picked) else self.read

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
        kept = None if self.kept is None else self.kept.subset(chosen)
        return replace(
            self, names=[self.names[i] for i in chosen], targets=targets, read=Picked(read, places), kept=kept
        )

    def with_kept(self, kept: "Kept") -> "Samples":
        """The same samples, whose images are also there decoded."""
        return replace(self, kept=kept)
