"""Images that are damaged or vanish while a run loads them, and loading processes that die or stop."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from torture import changes
from torture.processes import Running, TookTooLong, forked
from torture.runs import Run, at, difference, finish, reference
from torture.trial import Count, Trial
from vitrail.training import checkpoint

_WITHIN = 30.0  # seconds from the loss to the end of the run
# Of one image, or of one of so many loading processes.
_FULL = [
    *(("damaged", 0), ("damaged", 2), ("vanished", 0), ("vanished", 2), ("emptied", 2)),
    *(("damaged in val", 0), ("vanished in val", 2), ("killed", 2), ("killed", 1), ("stopped", 2), ("stopped", 1)),
]
_SHORT = [("damaged", 2), ("vanished in val", 0), ("killed", 2), ("stopped", 2)]


@dataclass(frozen=True)
class _Harmed:
    """A run under way that has lost something."""

    what: str
    run: Run
    process: Running
    name: str
    """What its error must name."""
    since: float
    """When, by the clock of files."""
    mend: Callable[[], object]


def loading(trial: Trial, images: Path, meanwhile: Callable[[], None]) -> None:
    """Each loss in a run of its own. ``meanwhile`` is called while runs with a stopped process wait for it."""
    cases = _SHORT if trial.short else _FULL
    told = trial.count("losses in loading, told by name within 30 s", len(cases))
    on = trial.count("of them, the state saved, and on to the same bits", len(cases))
    # no checkpoint is due before the loss, so what is saved then is saved because of it
    changes_ = {"checkpoint.every": 1000, "checkpoint.keep": 1, "evaluate.every": 40, "data.cache": False}
    whole = reference(trial, "whole-loading", steps=120, data=str(images), changes=changes_)
    stopped = [_harm(trial, images, whole, kind, workers) for kind, workers in cases if kind == "stopped"]
    meanwhile()
    for harmed in stopped:
        _judge(trial, whole, harmed, told, on)
    for kind, workers in cases:
        if kind != "stopped":
            _judge(trial, whole, _harm(trial, images, whole, kind, workers), told, on)


def _harm(trial: Trial, images: Path, whole: Run, kind: str, workers: int) -> _Harmed:
    what = f"{kind}, {workers} workers"
    run = at(whole, trial.folder / what.replace(",", "").replace(" ", "-"))
    trial.left()
    process = forked(run.argv(workers), run.folder.with_suffix(".log"))
    process.watch(lambda: bool(run.records()), trial.left(60), pause=0.005)
    since = time.time()
    if kind in ("killed", "stopped"):
        number = signal.SIGKILL if kind == "killed" else signal.SIGSTOP
        parts = psutil.Process(process.pid).children()
        if len(parts) != workers:
            raise RuntimeError(f"{what}: there are {len(parts)} loading processes")
        trial.random.choice(parts).send_signal(number)
        return _Harmed(what, run, process, "a loading process", since, lambda: None)
    path = changes.pick(images, "val" if kind.endswith("in val") else "train", trial.random)
    content = path.read_bytes()
    if kind.startswith("vanished"):
        path.unlink()
    else:
        _replace(path, b"" if kind == "emptied" else trial.random.randbytes(len(content)))
    return _Harmed(what, run, process, f"{path.parent.name}/{path.name}", since, lambda: _replace(path, content))


def _replace(path: Path, content: bytes) -> None:
    """At once, so that nobody reads a half of it."""
    beside = path.with_suffix(".new")
    beside.write_bytes(content)
    os.replace(beside, path)


def _judge(trial: Trial, whole: Run, harmed: _Harmed, told: Count, on: Count) -> None:
    problem = _told(trial, harmed)
    told.add(None if problem is None else f"{harmed.what}: {problem}")
    harmed.mend()
    problem = _goes_on(trial, whole, harmed)
    on.add(None if problem is None else f"{harmed.what}: {problem}")


def _told(trial: Trial, harmed: _Harmed) -> str | None:
    process = harmed.process
    try:
        code, errors = process.wait(trial.left(3 * _WITHIN)), process.error_lines()
    except TookTooLong as error:
        return str(error)
    seconds = process.log.stat().st_mtime - harmed.since  # of its last line
    if code not in (1, 2) or len(errors) != 1 or "Traceback" in process.said():
        return f"exit code {code} and not one clear error: {process.last_lines()}"
    if harmed.name not in errors[0]:
        return f"the error does not name {harmed.name}: {errors[0]}"
    if seconds > _WITHIN:
        return f"told after {seconds:.0f} s"
    return process.orphans(5)


def _goes_on(trial: Trial, whole: Run, harmed: _Harmed) -> str | None:
    run = harmed.run
    reached = max((record["step"] for record in run.records()), default=0)
    saved = max(checkpoint.steps(run.checkpoints), default=0)
    if saved < reached:
        return f"it came to step {reached}, and saved step {saved}"
    process = finish(run, trial, run.folder.with_name(f"{run.folder.name}-on.log"))
    return difference(run, whole) if process.code() == 0 else f"it does not go on: {process.last_lines()}"
