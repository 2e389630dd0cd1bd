"""The disk fills up in the middle of a run: one clear error, whole checkpoints, and the same bits once there is room.

The disk is a small file system in memory where mounting is permitted, and else a layer in the process that refuses.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torture.faults import Fault
from torture.processes import Running, forked
from torture.runs import Run, at, difference, finish, reference
from torture.trial import Trial
from vitrail.training import checkpoint

_ROOM = "256m"


def disk(trial: Trial) -> None:
    """Offsets spread over all that a run writes."""
    whole = reference(trial)
    real = _mount(trial.folder / "probe", _ROOM)
    if real:
        _unmount(trial.folder / "probe")
    how = "on a small file system" if real else "in a layer that refuses, as mounting is not permitted"
    row = trial.count(f"disk full {how}", trial.size(10, 3))
    total = _bytes(whole.folder) if real else _calls(trial, whole)
    for number in range(row.wanted):
        offset = round(total * (number + 0.5) / (row.wanted + 0.5))
        problem = (_small if real else _refusing)(trial, whole, offset, number)
        row.add(None if problem is None else f"after {offset:,} of {total:,} {'bytes' if real else 'calls'}: {problem}")


def _small(trial: Trial, whole: Run, room: int, number: int) -> str | None:
    place = trial.folder / f"disk-{number}"
    with _mounted(place, str(max(room // 4096, 1) * 4096)):
        run = at(whole, place / "run")
        process = forked(run.argv(), trial.folder / f"disk-{number}.log")
        problem = _wrong(process, run, trial)
        subprocess.run(["mount", "-o", f"remount,size={_ROOM}", str(place)], check=True, capture_output=True)
        return problem or _goes_on(run, trial, whole, number)


def _refusing(trial: Trial, whole: Run, call: int, number: int) -> str | None:
    run = at(whole, trial.folder / f"run-{number}")
    fault = Fault(act="full", under=str(run.folder), at=max(call, 1), half=True)
    process = forked(run.argv(), trial.folder / f"disk-{number}.log", fault=fault)
    return _wrong(process, run, trial) or _goes_on(run, trial, whole, number)


def _wrong(process: Running, run: Run, trial: Trial) -> str | None:
    """What is wrong with how the run ended, and with what it left."""
    code, errors = process.wait(trial.left(120)), process.error_lines()
    if code == 0:
        return "the run ended as if there were room"
    if "Traceback" in process.said() or len(errors) != 1:
        return f"not one clear error: {process.last_lines()}"
    if str(run.folder) not in errors[0] or not any(word in errors[0] for word in ("free", "room", "--resume")):
        return f"the error names no file, or no way out: {errors[0]}"
    _, damaged = checkpoint.newest_valid(run.checkpoints)
    return damaged[0] if damaged else None


def _goes_on(run: Run, trial: Trial, whole: Run, number: int) -> str | None:
    process = finish(run, trial, trial.folder / f"disk-{number}-on.log")
    return difference(run, whole) if process.code() == 0 else f"it does not go on: {process.last_lines()}"


def _bytes(folder: Path) -> int:
    """What the files take on a file system of pages of 4 kB."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def _calls(trial: Trial, whole: Run) -> int:
    """How many calls of a whole run change files."""
    journal, run = trial.folder / "calls.jsonl", at(whole, trial.folder / "counted")
    fault = Fault(act="count", under=str(run.folder), journal=str(journal))
    if forked(run.argv(), trial.folder / "counted.log", fault=fault).wait(trial.left(120)) != 0:
        raise RuntimeError("the run whose calls are counted failed")
    return len([json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()])


@contextmanager
def _mounted(place: Path, size: str) -> Iterator[None]:
    if not _mount(place, size):
        raise RuntimeError(f"{place} cannot be mounted, although the one before could")
    try:
        yield
    finally:
        _unmount(place)


def _mount(place: Path, size: str) -> bool:
    """An empty file system of ``size`` bytes in memory; False where that is not permitted."""
    place.mkdir(exist_ok=True)
    try:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _unmount(place: Path) -> None:
    subprocess.run(["umount", "-l", str(place)], check=True, capture_output=True)
