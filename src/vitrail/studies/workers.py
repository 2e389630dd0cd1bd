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
from dataclasses import asdict, dataclass
from pathlib import Path

from vitrail.errors import Failure, UserError
from vitrail.studies import outcome
from vitrail.studies.job import Job
from vitrail.studies.outcome import Outcome

_STOP_WITHIN = 20.0  # seconds that a run has to finish its step and save its state


@dataclass(frozen=True)
class Share:
    """What one worker may use."""

    threads: int
    gpu: int | None = None

    def environment(self) -> dict[str, str]:
        """The worker's environment: its threads, and its GPU as the only one it sees."""
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        own = {name: str(self.threads) for name in names}
        if self.gpu is not None:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            own["CUDA_VISIBLE_DEVICES"] = visible.split(",")[self.gpu] if visible else str(self.gpu)
        apart = (
            "RANK",
            "WORLD_SIZE",
            "LOCAL_RANK",
            "LOCAL_WORLD_SIZE",
        )  # a run trains alone, whoever started the study
        return {key: value for key, value in os.environ.items() if key not in apart} | own


class Worker:
    """One process, started with the first job."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self.process: subprocess.Popen[str] | None = None

    def do(self, job: Job) -> Outcome:
        """Have one job done; blocks until it is.

        Raises:
            UserError, Failure: as the run raised it.
            InterruptedError: the run was stopped and has saved its state.
        """
        process = self.process or self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # it has died: there is no answer either
            process.stdin.write(json.dumps(asdict(job)) + "\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            code = process.wait()
            self.close(0)
            raise Failure(
                f"the process of the run in {job.folder} ended with {code}: if memory ran out, take fewer "
                "--jobs; the same command goes on where this one stopped"
            )
        reply = json.loads(line)
        if "done" in reply:
            done = outcome.read(Path(job.folder))
            if done is None:
                raise Failure(f"the outcome of the run in {job.folder} has gone: nothing else may write there")
            return done
        if reply["error"] == "stopped":
            raise InterruptedError(job.folder)
        if os.environ.get("VITRAIL_DEBUG"):
            sys.stderr.write(reply["traceback"])
        raise (UserError if reply["error"] == "user" else Failure)(f"the run in {job.folder}: {reply['message']}")

    def _started(self) -> subprocess.Popen[str]:
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
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def close(self, within: float) -> None:
        """End the process: by closing its input, and by force where that does not help."""
        if self.process is None:
            return
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                stream.close()
        self.process = None


class Workers:
    """Processes that do jobs side by side. Each is driven by one thread, which waits for its answers."""

    def __init__(self, shares: list[Share]) -> None:
        self.idle = [Worker(share) for share in shares]
        self.all = list(self.idle)
        self._changed = threading.Condition()
        self._done: list[tuple[Job, Outcome | BaseException]] = []

    def start(self, job: Job) -> None:
        """Give a job to an idle worker; there must be one."""
        threading.Thread(target=self._do, args=(self.idle.pop(), job), daemon=True).start()

    def wait(self, seconds: float) -> list[tuple[Job, Outcome | BaseException]]:
        """The jobs that have ended since the last call; waits up to ``seconds`` for the first."""
        with self._changed:
            if not self._done:
                self._changed.wait(seconds)
            done, self._done = self._done, []
            return done

    def stop(self) -> None:
        """Ask every run to save its state, and wait until they have."""
        for worker in self.all:
            worker.stop()
        deadline = time.monotonic() + _STOP_WITHIN
        while len(self.idle) < len(self.all) and time.monotonic() < deadline:
            self.wait(0.2)

    def close(self) -> None:
        """End every process; one that is still at work is ended by force."""
        for worker in self.all:
            if worker.process is not None and worker.process.stdin is not None:
                with suppress(OSError):
                    worker.process.stdin.close()
        for worker in self.all:
            worker.close(within=5.0)

    def _do(self, worker: Worker, job: Job) -> None:
        result: Outcome | BaseException
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
