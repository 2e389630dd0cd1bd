"""Looking at every image before training: damaged ones are named or left out, small data stay in memory decoded."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch

from vitrail.data.decode import ImageError
from vitrail.data.preprocess import Preprocess
from vitrail.data.samples import Samples
from vitrail.errors import UserError

CACHE_BYTES = 2 << 30
FIRST_NAMES = 3
_AT_ONCE = 1024  # images handed to the threads at a time

T = TypeVar("T")


@dataclass(eq=False)
class Memory:
    """Images that earlier runs on the same data have decoded, as long as they fit into ``room`` bytes."""

    room: int = 256 << 20
    images: dict[tuple[Hashable, ...], torch.Tensor] = field(default_factory=dict)
    digests: dict[tuple[Hashable, ...], int] = field(default_factory=dict)
    """What the images were decoded from: see ``Samples.digest``."""

    def keep(self, key: tuple[Hashable, ...], image: torch.Tensor, digest: int) -> None:
        """Keep an image, if there is room for it."""
        if key not in self.images and image.nbytes <= self.room:
            self.digests[key] = digest
            self.images[key] = image
            self.room -= image.nbytes


@dataclass(frozen=True)
class BadImage:
    """A sample whose image cannot be used."""

    index: int
    message: str
    """Starts with the sample's name."""


@dataclass(frozen=True, eq=False)
class Checked:
    """Samples that can be decoded, as far as they have been looked at."""

    samples: Samples
    cached: torch.Tensor | None
    """Their images as evaluation sees them, uint8 (n, C, h, w), where they were kept; never those of mode native, which
    have different sizes."""
    bad: tuple[BadImage, ...]
    """What was left out, by index into the samples given."""
    digests: np.ndarray | None = None
    """Of each sample, (n,) uint64: see ``Samples.digest``; 0 where it has not been looked at."""


def cache_bytes(n: int, preprocess: Preprocess) -> int:
    """The memory that n images take in the cache."""
    return n * preprocess.channels * preprocess.image_size[0] * preprocess.image_size[1]


def check_images(
    samples: Samples,
    preprocess: Preprocess,
    *,
    workers: int = 0,
    skip_bad: bool = False,
    keep: bool = False,
    at_most: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    memory: tuple[Memory, Hashable] | None = None,
) -> Checked:
    """Decode images before the first step, and give the samples that can be used.

    Args:
        workers: threads that look at images at the same time; 0 is none beside this one.
        skip_bad: leave out the bad ones instead of raising.
        keep: also return all images decoded and resized, for `TrainBatches` and `eval_batches`; then all are decoded.
        at_most: of more samples than this, only so many are looked at, evenly spaced, so that it takes the same time
            for millions: a fault of the whole data set is found, a single damaged image may not be. None for all.
        progress: called with (done, all to be looked at) after every image.
        memory: where images that are kept are looked for before they are decoded, and put afterwards; and what these
            samples are called there, such as the data's name and the split.

    Raises:
        UserError: images are bad and ``skip_bad`` is not given, or none is left, or a class has none left.
    """
    n, keep = len(samples), keep and not preprocess.varies
    chosen: Sequence[int] = range(n)
    if at_most is not None and at_most < n and not keep:
        chosen = np.linspace(0, n - 1, at_most).astype(np.int64).tolist()
    images = torch.empty((n, preprocess.channels, *preprocess.image_size), dtype=torch.uint8) if keep else None
    digests = np.zeros(n, dtype=np.uint64)

    def look(index: int) -> BadImage | None:
        key = preprocess, memory[1] if memory else None, samples.place(index)
        known = memory[0].images.get(key) if memory and images is not None else None
        try:
            if memory and known is not None:
                image, digest = known, memory[0].digests[key]
            else:
                data = samples.encoded(index)
                image, digest = preprocess.load(data, samples.names[index]), samples.digest(index, data)
            digests[index] = digest
            if images is not None:
                images[index] = image
                if memory:
                    memory[0].keep(key, image, digest)
        except ImageError as error:
            return BadImage(index, str(error))
        return None

    found = []
    for done, bad_image in enumerate(in_threads(look, chosen, workers), start=1):
        if bad_image is not None:
            found.append(bad_image)
        if progress is not None:
            progress(done, len(chosen))
    bad = tuple(found)
    good = usable(samples, bad, len(chosen), skip_bad=skip_bad)
    if good is None:
        return Checked(samples, images, (), digests)
    cached = None if images is None else images[torch.from_numpy(good)]
    return Checked(samples.subset(good), cached, bad, digests[good])


def usable(samples: Samples, bad: Sequence[BadImage], looked_at: int, *, skip_bad: bool) -> np.ndarray | None:
    """The indices of the samples that are left without the bad ones; None for all.

    Args:
        looked_at: how many were looked at.

    Raises:
        UserError: as `check_images`.
    """
    if not bad:
        return None
    if not skip_bad:
        raise refuse_bad(bad, looked_at)
    good = np.setdiff1d(np.arange(len(samples)), [image.index for image in bad])
    if not len(good):
        raise UserError(f"{_describe(bad, looked_at)}: no image is left")
    if samples.targets is not None:
        for lost in np.setdiff1d(samples.targets, samples.targets[good])[:1]:
            raise UserError(f"{_describe(bad, looked_at)}: no image of class {samples.labels[lost]!r} is left")
    return good


def refuse_bad(bad: Sequence[BadImage], looked_at: int) -> UserError:
    """The error that images cannot be used."""
    return UserError(f"{_describe(bad, looked_at)}. Mend or remove them, or leave them out with --skip-bad")


def _describe(bad: Sequence[BadImage], n: int) -> str:
    first = "; ".join(image.message for image in bad[:FIRST_NAMES])
    more = f"; and {len(bad) - FIRST_NAMES} more" if len(bad) > FIRST_NAMES else ""
    return f"{len(bad)} of {n} images cannot be used: {first}{more}"


def in_threads(
    look: Callable[[int], T], indices: Sequence[int], workers: int, at_once: int | None = None
) -> Iterator[T]:
    """``look(i)`` for every index, in order. Threads do, as Pillow and torch decode and resize outside Python's lock.

    Args:
        at_once: how many are handed to the threads at a time, where their answers are large.
    """
    if workers <= 1:
        yield from map(look, indices)
        return
    with ThreadPoolExecutor(workers) as pool:
        step = at_once or _AT_ONCE  # the pool keeps a record of all that waits: 2 kB an image
        for start in range(0, len(indices), step):
            yield from pool.map(look, indices[start : start + step])
