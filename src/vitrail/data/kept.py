"""Images that were decoded and reduced once, in memory or in a file that is mapped into it, for views to be cut from.

Shapes: C channels, H W height and width of one image.
"""

import mmap
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from vitrail.data.decode import open_image
from vitrail.data.resample import picture_in
from vitrail.data.resize import resample
from vitrail.errors import Failure

_DECODED = 2  # a JPEG is decoded at no less than so many times the size that it is reduced to
_BLOCK_BYTES = 256 << 20


@dataclass(frozen=True)
class Form:
    """What images are kept as."""

    channels: int
    interpolation: str
    side: int
    """Pixels of the shorter side, at most: larger images are reduced to it, and none is enlarged."""

    def size_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) that an image of ``size`` is kept at."""
        shorter = min(size)
        if shorter <= self.side:
            return size
        height, width = (max(self.side, round(own * self.side / shorter)) for own in size)
        return height, width

    def load(self, data: bytes, name: str = "image") -> tuple[np.ndarray, tuple[int, int]]:
        """Decode and reduce an encoded image -> uint8 (H, W, C), and the (height, width) it had. Raises ImageError."""
        opened = open_image(data, name)
        height, width = self.size_of(opened.size)
        enough = opened.size if (height, width) == opened.size else (_DECODED * height, _DECODED * width)
        image = opened.pixels(self.channels, at_least=enough)
        if (height, width) != opened.size:
            own = image.shape[-2], image.shape[-1]
            image = resample(image, (height, width), self.interpolation, picture_in(opened, own))
        return np.ascontiguousarray(image.permute(1, 2, 0).numpy()), opened.size


class Pixels(Protocol):
    """Where the pixels of kept images are."""

    @property
    def path(self) -> Path | None:
        """The file that they are in; None for memory."""

    def __getitem__(self, block: int, /) -> np.ndarray:
        """The bytes of one block, uint8 (n,)."""


@dataclass(frozen=True, eq=False)
class Kept:
    """Kept images by index. It can be pickled; processes share the pixels."""

    pixels: Pixels
    places: np.ndarray
    """Of each image, (n, 6) int64: block, first byte in it, height, width, and these two before it was reduced."""
    channels: int
    checksums: np.ndarray | None = None
    """CRC-32 of each image (n,), where the pixels may be damaged since: compared the first time a process reads it."""
    _compared: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        count = 0 if self.checksums is None else len(self.places)
        object.__setattr__(self, "_compared", np.zeros(count, dtype=np.bool_))

    def __reduce__(self) -> "tuple[type[Kept], tuple[Pixels, np.ndarray, int, np.ndarray | None]]":
        return Kept, (self.pixels, self.places, self.channels, self.checksums)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def nbytes(self) -> int:
        """Of all images together."""
        return int((self.places[:, 2] * self.places[:, 3]).sum()) * self.channels

    def image(self, index: int) -> np.ndarray:
        """Image ``index``, uint8 (H, W, C). It is not to be written to.

        Raises:
            Failure: its file is not there any more, or its pixels there are not those that were written.
        """
        block, begin, height, width = self.places[index, :4].tolist()
        end = begin + height * width * self.channels
        own = self.pixels[block][begin:end]
        if self.checksums is not None and not self._compared[index]:
            if zlib.crc32(own.data) != self.checksums[index]:
                raise Failure(f"{self.pixels.path}: a kept image is damaged; remove this file and start again")
            self._compared[index] = True
        return own.reshape(height, width, self.channels)

    def size(self, index: int) -> tuple[int, int]:
        """The (height, width) that image ``index`` had before it was reduced."""
        height, width = self.places[index, 4:].tolist()
        return height, width

    def subset(self, indices: np.ndarray) -> "Kept":
        """The images at ``indices``, in that order."""
        checksums = None if self.checksums is None else self.checksums[indices]
        return Kept(self.pixels, self.places[indices], self.channels, checksums)


class InMemory:
    """Blocks of memory that images are put into one after another. Tensors, which processes share."""

    path = None

    def __init__(self) -> None:
        self._blocks: list[torch.Tensor] = []
        self._free = 0

    def __getitem__(self, block: int, /) -> np.ndarray:
        return self._blocks[block].numpy()

    def add(self, image: np.ndarray) -> tuple[int, int]:
        """Put an image at the end -> its block, and its first byte there."""
        if image.nbytes > self._free:
            self._free = max(_BLOCK_BYTES, image.nbytes)
            self._blocks.append(torch.empty(self._free, dtype=torch.uint8))  # memory is taken as it is written to
        block = self._blocks[-1]
        begin = len(block) - self._free
        block[begin : begin + image.nbytes] = torch.from_numpy(image.reshape(-1))
        self._free -= image.nbytes
        return len(self._blocks) - 1, begin


class InFile:
    """A file of pixels that is mapped into memory, by every process for itself; they share what the system has read."""

    def __init__(self, path: Path, end: bytes) -> None:
        """``end`` is how the file ends, by which it is told from another one in its place."""
        self.path, self._end = path, end
        self._mapped: np.ndarray | None = None

    def __getitem__(self, block: int, /) -> np.ndarray:
        if self._mapped is None:
            self._mapped = self._map()
        return self._mapped

    def __reduce__(self) -> tuple[type["InFile"], tuple[Path, bytes]]:
        return InFile, (self.path, self._end)

    def _map(self) -> np.ndarray:
        try:
            with open(self.path, "rb") as file:
                file.seek(-len(self._end), os.SEEK_END)
                if file.read() != self._end:
                    raise Failure(f"{self.path}: other kept images are in their place now; start again")
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise Failure(f"{self.path}: the kept images cannot be read ({error.strerror or error})") from error
        return np.frombuffer(mapped, dtype=np.uint8)


def whole(places: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Rows of ``Kept.places`` as an array, also where there are none."""
    return np.array(places, dtype=np.int64).reshape(-1, 6)
