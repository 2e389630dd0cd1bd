"""A process that dies at the k-th call of a save: what is there is the checkpoint before it or the new one, whole."""

import json
import signal
from pathlib import Path

from torture.faults import Fault
from torture.processes import forked
from torture.runs import SAVE_EVERY, Run, at, difference, finish, reference
from torture.trial import Trial
from vitrail.training import checkpoint as checkpoints

_DEATHS_A_RUN = 10


def checkpoint(trial: Trial) -> None:
    """Deaths spread over all calls of a save, several in one run; then on to the same bits."""
    whole = reference(trial)
    row = trial.count("deaths at the k-th call of a save", trial.size(20, 6))
    calls = _calls_of_a_save(trial, whole)
    points = [1 + round(k * (calls - 1) / (row.wanted - 1)) for k in range(row.wanted)]
    for first in range(0, len(points), _DEATHS_A_RUN):
        run = at(whole, trial.folder / f"run-{first}")
        problems = [
            _die(run, trial, number, point, half=number % 2 == 1)
            for number, point in enumerate(points[first : first + _DEATHS_A_RUN])
        ]
        process = finish(run, trial, trial.folder / f"run-{first}-end.log")
        end = difference(run, whole) if process.code() == 0 else f"it does not go on: {process.last_lines()}"
        for problem in problems:
            row.add(problem or end)


def _fault(run: Run, step: int, **how: object) -> Fault:
    """A fault in the save of a step, the removal of older checkpoints included, and up to the next save."""
    since, until = (f".step-{s:08d}." for s in (step, step + SAVE_EVERY))
    return Fault(under=str(run.checkpoints), since=since, until=until, **how)  # type: ignore[arg-type]


def _calls_of_a_save(trial: Trial, whole: Run) -> int:
    """How many calls that change files one save makes, once there are older checkpoints to remove.

    Others may make a few less, where fewer are removed: a death that was to come later comes at their end.
    """
    journal = trial.folder / "calls.jsonl"
    run = at(whole, trial.folder / "counted")
    fault = _fault(run, 4 * SAVE_EVERY, act="count", journal=str(journal))
    process = forked(run.argv(), trial.folder / "counted.log", fault=fault)
    process.watch(lambda: _newest(run) >= 6 * SAVE_EVERY, trial.left(60))
    process.kill()
    return len([json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()])


def _newest(run: Run) -> int:
    return max(checkpoints.steps(run.checkpoints), default=0)


def _die(run: Run, trial: Trial, number: int, point: int, *, half: bool) -> str | None:
    """One death, in the second save from where the run is; what is wrong after it."""
    step = _newest(run) + 2 * SAVE_EVERY
    log = trial.folder / f"{run.folder.name}-{number}.log"
    process = forked(run.argv(), log, fault=_fault(run, step, act="die", at=point, half=half))
    code = process.wait(trial.left(120))
    if code != -signal.SIGKILL:
        return f"call {point} of the save of step {step} did not come: exit code {code}, {process.last_lines()}"
    return _wrong(run.checkpoints, {step, step - SAVE_EVERY}, point)


def _wrong(folder: Path, expected: set[int], point: int) -> str | None:
    found, damaged = checkpoints.newest_valid(folder)
    if damaged:
        return f"death at call {point}: {damaged[0]}"
    if found is None or found.step not in expected:
        return f"death at call {point}: the newest checkpoint is {found.step if found else 'missing'}, not {expected}"
    return None
