"""Flight: what the process that works tells the one that watches, in memory that both see."""

import itertools
import mmap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SLOTS = 64  # threads that decode; more share slots, and then one of them is not seen
_TOTAL, _DONE, _ASIDE, _SUSPECTS = range(4)
_INDEX = 4  # of the first slot: the image that a thread decodes, or -1
_SINCE = _INDEX + _SLOTS  # since when, in nanoseconds
_RECENT = 128  # a crash may show a little after the image that caused it: the signal goes to another thread
_BEGUN = _SINCE + _SLOTS  # of the images begun last: a ring
_SUSPECT = _BEGUN + _RECENT
_TRIED = _SUSPECT + _RECENT + _SLOTS
_FIELDS = _TRIED + 1


class Flight:
    """How far the work is, which images are being decoded, and which are suspected of having ended it."""

    def __init__(self) -> None:
        # whole integers are stored in one step, so that the other process sees the old one or the new one
        self._fields = memoryview(mmap.mmap(-1, _FIELDS * 8)).cast("q")
        self.land()
        self._threads, self._images = itertools.count(), itertools.count()
        self._thread = threading.local()

    @property
    def total(self) -> int:
        """Images in all; 0 before they are counted."""
        return self._fields[_TOTAL]

    @total.setter
    def total(self, value: int) -> None:
        self._fields[_TOTAL] = value

    @property
    def done(self) -> int:
        """Images whose answers are written."""
        return self._fields[_DONE]

    @done.setter
    def done(self, value: int) -> None:
        self._fields[_DONE] = value

    @property
    def aside(self) -> int:
        """Images that were found to crash the decoder."""
        return self._fields[_ASIDE]

    @aside.setter
    def aside(self, value: int) -> None:
        self._fields[_ASIDE] = value

    @property
    def suspects(self) -> list[int]:
        """The images that may be why the work ended by a signal."""
        return self._fields[_SUSPECT : _SUSPECT + self._fields[_SUSPECTS]].tolist()

    @suspects.setter
    def suspects(self, indices: list[int]) -> None:
        for i, index in enumerate(indices):
            self._fields[_SUSPECT + i] = index
        self._fields[_SUSPECTS] = len(indices)

    @property
    def tried(self) -> int:
        """The number of the suspect that is being tried."""
        return self._fields[_TRIED]

    @tried.setter
    def tried(self, value: int) -> None:
        self._fields[_TRIED] = value

    @contextmanager
    def decoding(self, index: int) -> Iterator[None]:
        """While an image is read and decoded, by the thread that does it."""
        slot = getattr(self._thread, "slot", None)
        if slot is None:
            slot = self._thread.slot = next(self._threads) % _SLOTS
        self._fields[_BEGUN + next(self._images) % _RECENT] = index
        self._fields[_SINCE + slot] = time.monotonic_ns()
        self._fields[_INDEX + slot] = index
        try:
            yield
        finally:
            self._fields[_INDEX + slot] = -1

    def aloft(self, seconds: float = 0.0) -> list[int]:
        """The images that have been in decoding for at least so long."""
        latest = time.monotonic_ns() - int(seconds * 1e9)
        slots = ((self._fields[_INDEX + i], self._fields[_SINCE + i]) for i in range(_SLOTS))
        return sorted(index for index, since in slots if index >= 0 and since <= latest)

    def latest(self) -> list[int]:
        """The images that are being decoded, and those that were begun last."""
        begun = self._fields[_BEGUN : _BEGUN + _RECENT].tolist()
        return sorted({*self.aloft(), *(index for index in begun if index >= 0)})

    def land(self) -> None:
        """Nothing is being decoded, nor has been: a new process begins."""
        for places in (range(_INDEX, _INDEX + _SLOTS), range(_BEGUN, _BEGUN + _RECENT)):
            for place in places:
                self._fields[place] = -1
