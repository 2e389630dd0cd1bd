"""Images that may have crashed the decoder, tried in a process that may die of them."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from vitrail.batch.flight import Flight
from vitrail.batch.supervise import PATIENCE, signal_name

_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def crashes(images: Sequence[Callable[[], object]], flight: Flight) -> Iterator[tuple[int, str]]:
    """The images that end a process by a signal, or take too long.

    Args:
        images: decode one each. An exception is nothing: that image cannot be read, which its turn will show.
        flight: memory that is shared with the processes that are tried.

    Yields:
        The place in ``images``, and what is wrong.
    """
    first, killed = 0, -1
    while first < len(images):
        flight.tried = first
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            _try(images, first, flight, parent)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            return
        first, number = flight.tried, os.WTERMSIG(status)
        if number == signal.SIGKILL and first != killed:  # memory may have run out for other reasons: once more
            killed = first
            continue
        yield first, _reason(number)
        first += 1


def _try(images: Sequence[Callable[[], object]], first: int, flight: Flight, parent: int) -> None:
    """Decode from the first on, and end this process; it ends with ``parent`` where the system can see to that."""
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                return
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends this process, also in the midst of a library
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.set_num_threads(1)  # the threads that the process had before it forked are not there
        for place in range(first, len(images)):
            flight.tried = place
            signal.alarm(int(PATIENCE))
            with suppress(Exception):
                images[place]()
    finally:
        os._exit(0)


def _reason(number: int) -> str:
    if number == signal.SIGALRM:
        return f"is not read within {PATIENCE:.0f} s"
    return f"crashes the decoder ({signal_name(number)})"
