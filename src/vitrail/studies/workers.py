"""Runs shared out to processes: each has its own share of the cores, and its GPU where there are several.

A tiny model cannot keep a machine busy: two threads of one run wait for each other longer than they compute, and a GPU
idles between kernels. Several runs side by side, each with one thread, do not wait.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from vitrail.errors import Failure, UserError
from vitrail.studies.job import Task, as_plain
from vitrail.studies.outcome import Kept
from vitrail.training.device import NEIGHBOURS

_STOP_WITHIN = 20.0  # seconds that a run has to finish its step and save its state


class StoppedRun(Exception):
    """A run was asked to stop, and has saved its state."""


@dataclass(frozen=True)
class Share:
    """What one worker may use."""

    threads: int
    neighbours: int = 1
    """Workers on this machine, this one included: they share its memory."""
    device: str | None = None
    """The device it computes on, as ``VITRAIL_DEVICE`` has it; None for the one that a process finds."""

    def environment(self) -> dict[str, str]:
        """The worker's environment."""
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        own = {name: str(self.threads) for name in names} | {NEIGHBOURS: str(self.neighbours)}
        if self.device is not None:
            own["VITRAIL_DEVICE"] = self.device
        return {**os.environ, **own}


class Worker:
    """One process, started with the first job, and again where it has died. One thread drives it."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self.process: subprocess.Popen[str] | None = None

    def do(self, job: Task) -> Kept:
        """Have one job done; blocks until it is.

        Raises:
            UserError, Failure: as the run raised it.
            StoppedRun: the run was stopped and has saved its state.
        """
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(OSError, ValueError):  # it has died, or is being closed: there is no answer either
            process.stdin.write(json.dumps(as_plain(job)) + "\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise Failure(
                f"the process of the run in {job.folder} ended with {process.wait()}: if memory ran out, take fewer "
                "--jobs; the same command goes on where this one stopped"
            )
        reply = json.loads(line)
        if "done" in reply:
            done = job.kept()
            if done is None:
                raise Failure(f"the outcome of the run in {job.folder} has gone: nothing else may write there")
            return done
        if reply["error"] == "stopped":
            raise StoppedRun(job.folder)
        if os.environ.get("VITRAIL_DEBUG"):
            sys.stderr.write(reply["traceback"])
        raise (UserError if reply["error"] == "user" else Failure)(f"the run in {job.folder}: {reply['message']}")

    def _running(self) -> "subprocess.Popen[str]":
        if self.process is None or self.process.poll() is not None:
            self.close_streams()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vitrail.studies.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self.share.environment(),
                text=True,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C at the terminal is the study's, which asks its workers to stop
            )
        return self.process

    def stop(self) -> None:
        """Ask the run to finish its step and to save its state."""
        process = self.process
        if process is not None and process.poll() is None:
            process.terminate()

    def kill(self) -> None:
        """End the process by force."""
        process = self.process
        if process is not None and process.poll() is None:
            process.kill()

    def close_streams(self) -> None:
        """Close what leads to the process; one that waits for a job ends by that."""
        if self.process is not None:
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()


class Workers:
    """Processes that do jobs side by side. Each is driven by one thread, which waits for its answers."""

    def __init__(self, shares: list[Share]) -> None:
        self.idle = [Worker(share) for share in shares]
        self.all = list(self.idle)
        self._changed = threading.Condition()
        self._done: list[tuple[Task, Kept | BaseException]] = []
        self._threads: list[threading.Thread] = []

    def start(self, job: Task) -> None:
        """Give a job to an idle worker; there must be one."""
        thread = threading.Thread(target=self._do, args=(self.idle.pop(), job), daemon=True)
        self._threads = [other for other in self._threads if other.is_alive()] + [thread]
        thread.start()

    def wait(self, seconds: float) -> list[tuple[Task, Kept | BaseException]]:
        """The jobs that have ended since the last call; waits up to ``seconds`` for the first."""
        with self._changed:
            if not self._done:
                self._changed.wait(seconds)
            done, self._done = self._done, []
            return done

    def stop(self) -> list[tuple[Task, Kept | BaseException]]:
        """Ask every run to save its state, wait until they have, and give what has ended."""
        for worker in self.all:
            worker.stop()
        ended = []
        deadline = time.monotonic() + _STOP_WITHIN
        while len(self.idle) < len(self.all) and time.monotonic() < deadline:
            ended += self.wait(0.2)
        return ended + self.wait(0)

    def close(self) -> None:
        """End every process. One that is at work is ended by force; its thread goes with it."""
        for worker in self.all:
            if worker not in self.idle:
                worker.kill()
        for thread in self._threads:
            thread.join()
        for worker in self.all:
            worker.close_streams()
        for worker in self.all:
            if worker.process is not None:
                try:
                    worker.process.wait(5.0)
                except subprocess.TimeoutExpired:
                    worker.kill()
                    worker.process.wait()

    def _do(self, worker: Worker, job: Task) -> None:
        result: Kept | BaseException
        try:
            result = worker.do(job)
        except BaseException as error:
            result = error
        with self._changed:
            self.idle.append(worker)
            self._done.append((job, result))
            self._changed.notify()


@contextmanager
def working(shares: list[Share]) -> Iterator[Workers]:
    """Workers that end with the block."""
    workers = Workers(shares)
    try:
        yield workers
    finally:
        workers.close()
