"""The command as two processes: one works; the other, which loads nothing, watches it and starts it again if it dies.

A decoder that crashes takes its process with it, so the one that goes on must be another. Images that were being decoded
then, or shortly before, are tried by the next process (see ``trial``), and those that crash it are left out.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from vitrail.batch.flight import Flight
from vitrail.errors import Failure

PATIENCE = 60.0  # seconds that one image may take to be read and decoded
_TRIES = 3  # deaths at one place, with no image to blame
_LONGEST_PAUSE = 0.05  # seconds between two looks
_SHOW_CURSOR = "\x1b[?25h"  # a progress bar that was killed has left it hidden


def supervise(say: Callable[[str], None]) -> Flight | None:
    """Become two processes. This returns in the one that works, and never in the one that watches.

    Called before anything heavy is loaded and before any thread is started. The watching process ends as the working one
    does; at SIGINT or SIGTERM it stops it and leaves with 130 or 143. If the watching process is killed, the other ends.

    Args:
        say: tells the person one line.

    Returns:
        What the worker must keep up to date; None where this process stays alone: where there is no ``fork``, or it is
        not that of the command ``vitrail`` but of a program which calls it, and may have threads.

    Raises:
        Failure: the worker died again and again at one place, and no image is to blame.
        SystemExit: with the worker's code.
    """
    if not hasattr(os, "fork") or not is_the_command() or threading.active_count() > 1:
        return None
    asked: list[int] = []
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda number, frame: asked.append(number))
    flight = Flight()
    deaths, place = 0, (-1, -1)
    while True:
        _flush()
        flight.land()
        reading, writing = os.pipe()
        worker = os.fork()
        if worker == 0:
            os.close(writing)
            _become_worker(reading)
            return flight
        os.close(reading)
        status, waited = _watch(worker, flight, asked)
        os.close(writing)
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status))
        if sys.stderr.isatty():
            sys.stderr.write(_SHOW_CURSOR)
        if asked:
            say(f"stopped: {_progress(flight)}; the same command goes on from there")
            sys.exit(128 + asked[0])
        deaths, place = (deaths + 1 if (flight.done, flight.aside) == place else 1), (flight.done, flight.aside)
        number = os.WTERMSIG(status)
        if deaths == _TRIES:
            raise Failure(_hopeless(number, flight))
        flight.suspects = flight.latest()
        reason = f"was ended ({signal_name(number)})" if not waited else f"waited {PATIENCE:.0f} s for an image"
        say(f"the process {reason}, with {_progress(flight)}: it is started again")


def signal_name(number: int) -> str:
    """'signal 11: SIGSEGV'."""
    with suppress(ValueError):
        return f"signal {number}: {signal.Signals(number).name}"
    return f"signal {number}"


def is_the_command() -> bool:
    """Whether this process was started as ``vitrail`` or ``python -m vitrail``."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return spec.name in ("vitrail", "vitrail.__main__")
    return Path(getattr(main, "__file__", None) or "").stem == "vitrail"


def _become_worker(pipe: int) -> None:
    """Leave signals to the process that watches, and end when it ends."""

    def end_with_it() -> None:
        os.read(pipe, 1)  # returns when the last holder of the other end is gone
        os.kill(os.getpid(), signal.SIGKILL)  # what is written appears whole or not at all, so nothing is in the way

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=end_with_it, name="end-with-the-watcher", daemon=True).start()


def _watch(worker: int, flight: Flight, asked: list[int]) -> tuple[int, bool]:
    """The status with which the worker ended, and whether it was killed because an image took too long.

    It is also killed where a signal asked for that.
    """
    pause = 0.002
    late: set[int] = set()
    while True:
        pid, status = os.waitpid(worker, os.WNOHANG)
        if pid:
            return status, False
        late, before = set(flight.aloft(PATIENCE)), late
        if asked or late & before:  # seen twice: a slot may have been between two images
            os.kill(worker, signal.SIGKILL)
            return os.waitpid(worker, 0)[1], not asked
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _progress(flight: Flight) -> str:
    return f"{flight.done:,} of {flight.total:,} images done" if flight.total else "no image done yet"


def _hopeless(number: int, flight: Flight) -> str:
    hint = "if memory ran out, take a smaller --batch-size" if number == signal.SIGKILL else "run it with --debug"
    return (
        f"the process was ended ({signal_name(number)}) {_TRIES} times at the same place, with {_progress(flight)}, "
        f"and no image does that by itself: {hint}; the same command goes on from there"
    )


def _flush() -> None:
    """Nothing may be waiting to be written twice."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
