"""Processes that are started to be ended: in a session of their own, watched, killed, and searched for what they leave.

A command runs either in a new interpreter (``fresh``), as a person starts it, or in one that was forked from a server
with everything imported (``forked``), which saves the seconds that torch takes to load.
"""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from torture.faults import Fault, run_here
from torture.poison import Poison

ROOT = Path(__file__).parents[1]
_MARK = "VITRAIL_TORTURE"
_number = 0
_started: list["Running"] = []

# One thread, one device, no terminal: the same numbers wherever the suite runs.
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "VITRAIL_DEVICE": "cpu",
    "MPLBACKEND": "Agg",
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore:resource_tracker:UserWarning",  # a killed process leaves it something to tidy up
}
_PRELOADED = [
    "vitrail.cli",
    "vitrail.training.run",
    "vitrail.prediction",
    "vitrail.report.page",
    "vitrail.data.sources.digits",
    "vitrail.cli.train",
    "vitrail.cli.console",
    "vitrail.weights.load",
    "torch._dynamo",  # by torch's optimisers, when the first one is made
    "pyarrow.parquet",
    "sklearn.datasets",
    "sklearn.metrics",
    "scipy.stats",
    "matplotlib.figure",
]


class TookTooLong(Exception):
    """A process did not end in the time that it had."""


class Running:
    """A process that leads its own session; what it says goes to a file."""

    def __init__(self, process: "subprocess.Popen[bytes] | BaseProcess", log: Path, mark: str | None) -> None:
        self.process, self.log, self.mark = process, log, mark
        assert process.pid is not None
        self.pid: int = process.pid
        _started.append(self)

    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self.process.poll() if isinstance(self.process, subprocess.Popen) else self.process.exitcode

    def wait(self, seconds: float) -> int:
        """The exit code.

        Raises:
            TookTooLong: it was not there in time; everything that belongs to it is killed.
        """
        if not self.watch(lambda: self.code() is not None, seconds, pause=0.01):
            self.kill()
            raise TookTooLong(f"{self.log.stem} did not end in {seconds:.0f} s; it had said: {self.last_lines()}")
        code = self.code()
        assert code is not None
        return code

    def watch(self, condition: Callable[[], bool], seconds: float, pause: float = 0.0005) -> bool:
        """Whether a condition came about in the given time, while the process ran or at its end."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            over = self.code() is not None
            if condition():
                return True
            if over:
                return False
            time.sleep(pause)
        return False

    def send(self, number: int) -> None:
        """A signal to the process alone."""
        if self.code() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to all that belong to it at once, and then to what is left of them."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # it has no session of its own yet, or is gone
            self.send(signal.SIGKILL)
        for process in self.others():
            _kill(process)
        self.watch(lambda: self.code() is not None, 30)

    def others(self) -> list[psutil.Process]:
        """What belongs to it and is alive, itself left out: of its session, or with its mark in the environment."""
        found = []
        for process in psutil.process_iter():
            if process.pid != self.pid and self._is_mine(process):
                found.append(process)
        return found

    def _is_mine(self, process: psutil.Process) -> bool:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            return os.getsid(process.pid) == self.pid or (
                self.mark is not None and process.environ().get(_MARK) == self.mark
            )
        except (psutil.Error, OSError):
            return False

    def orphans(self, seconds: float) -> str | None:
        """After its end: what still runs after so many seconds, told in a line; it is killed. None if nothing does."""
        end = time.monotonic() + seconds
        while (left := self.others()) and time.monotonic() < end:
            time.sleep(0.1)
        for process in left:
            _kill(process)
        return f"{len(left)} processes were left behind by {self.log.stem}" if left else None

    def said(self) -> str:
        """All that it wrote to standard output and error."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def says(self, text: str, seconds: float) -> bool:
        """Whether it says something within the given time."""
        return self.watch(lambda: text in self.said(), seconds, pause=0.02)

    def last_lines(self, n: int = 3) -> str:
        """The last of what it said, in one line."""
        return " | ".join(self.said().strip().splitlines()[-n:]) or "nothing"

    def error_lines(self) -> list[str]:
        """The lines by which it said that something is wrong."""
        return [line for line in self.said().splitlines() if "error:" in line]


def fresh(argv: Sequence[str], log: Path, *, module: str = "vitrail", env: dict[str, str] | None = None) -> Running:
    """``python -m MODULE ARGV`` in a new interpreter."""
    mark = _next_mark()
    environment = {**os.environ, **SETTINGS, **(env or {}), _MARK: mark}
    more = (env or {}).get("PYTHONPATH", os.environ.get("PYTHONPATH"))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), more]))
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *argv],
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    return Running(process, log, mark)


def forked(argv: Sequence[str], log: Path, *, fault: Fault | Poison | None = None) -> Running:
    """``vitrail ARGV`` in a fork of a server that has everything imported; ``fault`` is what goes wrong in it."""
    os.environ.update(SETTINGS)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    process = context.Process(target=run_here, args=(list(argv), log, fault), daemon=False)
    process.start()
    return Running(process, log, None)


def end_all() -> None:
    """Kill whatever an ordeal that was cut short has left running."""
    for running in _started:
        if running.code() is None:
            running.kill()
    _started.clear()


def _next_mark() -> str:
    global _number
    _number += 1
    return f"{os.getpid()}-{_number}"


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        process.kill()
