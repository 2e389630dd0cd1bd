"""Where each loading process stands, so that one that dies or hangs is told by its image."""

import ctypes
import signal
from collections.abc import Sequence
from multiprocessing.context import BaseContext
from typing import Any

_BETWEEN = -1  # no image
_MOST_NAMES = 3
_CRASHES = frozenset({"SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL"})

_own: tuple[Any, int] | None = None  # the table and this process's row in it; None in all but loading processes


def at(sample: int) -> None:
    """Say that this process now turns to a sample: a tenth of a microsecond where nobody watches, twice that elsewhere."""
    if _own is not None:
        table, row = _own
        table[row] = sample
        table[row + 1] += 1


class Places:
    """A table in shared memory with a row for each process: its sample, and a count that grows whenever it goes on."""

    def __init__(self, context: BaseContext, processes: int) -> None:
        self._table = context.RawArray(ctypes.c_longlong, [_BETWEEN, 0] * processes)

    def enter(self, process: int) -> None:
        """In a loading process: from here on, ``at`` writes into its row."""
        global _own
        _own = (self._table, 2 * process)
        at(_BETWEEN)

    def sample(self, process: int) -> int | None:
        """The sample that a process is at, or None between batches."""
        sample = self._table[2 * process]
        return None if sample == _BETWEEN else sample

    def count(self, process: int) -> int:
        """How often a process has gone on; 0 before it has started."""
        return self._table[2 * process + 1]


def between() -> None:
    """Say that this process is at no sample."""
    at(_BETWEEN)


def of_dead(exit_code: int | None, images: Sequence[str]) -> str:
    """What became of processes that ended by themselves, in one line with the way out.

    Args:
        exit_code: of the first of them, as ``multiprocessing`` tells it: minus the signal that killed it.
        images: the names of those that they were at.
    """
    signal_name = ""
    if exit_code is not None and exit_code < 0:
        signal_name = _signal_name(-exit_code)
        how = f"killed by signal {-exit_code} ({signal_name})"
    else:
        how = f"ended early (exit code {exit_code})"
    where = f"while at {_some(images)}" if images else "between two batches"
    if signal_name in _CRASHES:
        way = "that image may crash the decoder: look at it, or leave it out"
    elif signal_name == "SIGKILL":
        way = (
            "the system does so where memory runs out: try fewer --workers, or --workers 0 to load in the main process"
        )
    else:
        way = "start again; with --workers 0 images are loaded in the main process"
    return f"a loading process was {how} {where}: {way}"


def of_hanging(image: str | None, seconds: float) -> str:
    """What to do about a process that has not gone on for so long, in one line."""
    where = f"has been at {image}" if image is not None else "has not begun its batch"
    return (
        f"a loading process {where} for {seconds:.0f} seconds: if its disk or network is stuck, mend that; "
        "if the process was stopped, start again; if it is this image, leave it out"
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
