"""SIGKILL at random instants of a training run, and signals that ask it to stop: it ends with the bits of a whole run.

What a kill met is told by what it left: half of a checkpoint, or the metrics of a step whose validation is missing.
"""

import signal
import time
from dataclasses import dataclass, field

from torture.processes import Running, TookTooLong, forked, fresh
from torture.runs import EVALUATE_EVERY, SAVE_EVERY, Run, at, difference, duration, finish, reference
from torture.trial import Count, Trial
from vitrail.training import checkpoint

_KILLS_A_RUN = 9
_STOPS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 143}
_OTHER_STOPS = {signal.SIGUSR2: 143, signal.SIGXCPU: 143, signal.SIGHUP: 143}
_STOP_WITHIN = 10.0


@dataclass
class _Killed:
    """One run, begun and killed again and again."""

    run: Run
    met: list[str] = field(default_factory=list)
    problem: str | None = None
    over: bool = False


def kill(trial: Trial) -> None:
    """Kills first, then the signals."""
    whole = reference(trial)
    writes, validations = trial.size(10, 3), trial.size(5, 2)
    kills = trial.count("kills at random instants", trial.size(50, 10))
    rows = {
        "write": trial.count("of them, while a checkpoint is written", writes),
        "validation": trial.count("of them, in validation", validations),
        "main alone": trial.count("of them, of the main process, workers living", trial.size(4, 1)),
    }
    runs = 0
    while not (kills.tried >= kills.wanted and all(row.tried >= row.wanted for row in rows.values())):
        runs += 1
        killed = _Killed(at(whole, trial.folder / f"killed-{runs}"))
        try:
            _kill_often(killed, trial, whole, kills, rows)
        finally:
            problem = killed.problem or ("time ran out before the run ended" if not killed.over else None)
            kills.add(problem, len(killed.met))
            for name, row in rows.items():
                row.add(problem, killed.met.count(name))
    _stops(trial, whole)


def _kill_often(killed: _Killed, trial: Trial, whole: Run, kills: Count, rows: dict[str, Count]) -> None:
    """Kill a run until it is done, or has had its share; then let it end, and compare."""
    run = killed.run
    for number in range(_KILLS_A_RUN):
        missing = [name for name, row in rows.items() for _ in range(row.wanted - row.tried - killed.met.count(name))]
        left = kills.wanted - kills.tried - len(killed.met)
        if left <= 0 and not missing:
            break
        aim = trial.random.choice([*missing, *["any"] * (left - len(missing))])
        before = set(run.being_written())
        process = _start(
            run, trial, f"{run.folder.name}-{number}", workers=2 if aim == "main alone" else number % 2 * 2
        )
        _await(aim, process, run, trial, duration(whole), before)
        if process.code() is not None:  # it was done before the kill came
            break
        if aim == "main alone":
            process.send(signal.SIGKILL)
            process.wait(30)
        else:
            process.kill()
        killed.met.append("main alone" if aim == "main alone" else _met(run, before))
        killed.problem = killed.problem or process.orphans(30) or _broken(run)
    try:
        process = finish(run, trial, trial.folder / f"{run.folder.name}-end.log", workers=2)
        failed = None if process.code() == 0 else f"it does not go on: {process.last_lines()}"
    except TookTooLong as error:
        failed = str(error)
    killed.over = True
    killed.problem = killed.problem or failed or difference(run, whole)
    if killed.problem:
        killed.problem = f"{run.folder.name}, kills {', '.join(killed.met)}: {killed.problem}"


def _start(run: Run, trial: Trial, name: str, workers: int) -> Running:
    trial.left()
    log = trial.folder / f"{name}.log"
    return (forked if trial.short else fresh)(run.argv(workers), log)


def _await(aim: str, process: Running, run: Run, trial: Trial, seconds: float, before: set[str]) -> None:
    """Sleep until the instant of the kill, or the process's end; ``before``: what was half-written when it began."""
    if aim == "write":
        reached = max(checkpoint.steps(run.checkpoints), default=0) + trial.random.randint(1, 6) * SAVE_EVERY
        process.watch(lambda: max(checkpoint.steps(run.checkpoints), default=0) >= reached, trial.left(60))
        process.watch(lambda: not before.issuperset(run.being_written()), trial.left(5), pause=0.0001)
        time.sleep(trial.random.random() * 0.002)
        return
    if aim == "validation":
        _trains(process, run, trial)
        evaluations = _validations(run) + trial.random.randint(0, 1)
        process.watch(lambda: _in_validation(run) and _validations(run) >= evaluations, trial.left(60))
        return
    if aim == "main alone" or trial.random.random() < 0.7:
        _trains(process, run, trial)
        wait = trial.random.uniform(0, 0.15) * seconds
    else:
        wait = trial.random.uniform(0, 1) * seconds  # loading, looking at the data, finishing
    process.watch(lambda: False, wait)


def _trains(process: Running, run: Run, trial: Trial) -> None:
    """Wait until this process has logged a step."""
    before = _size(run)
    process.watch(lambda: _size(run) > before, trial.left(60), pause=0.002)


def _size(run: Run) -> int:
    """Bytes of metrics.jsonl, which going on makes smaller first."""
    path = run.folder / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


def _step(run: Run) -> int:
    """The last step that is logged."""
    return max((record["step"] for record in run.records()), default=0)


def _met(run: Run, before: set[str]) -> str:
    """What a process that is dead was doing, by what it left."""
    if not before.issuperset(run.being_written()):
        return "write"
    return "validation" if _in_validation(run) else "any"


def _in_validation(run: Run) -> bool:
    """Whether the last record is of a step that is followed by a validation."""
    records = run.records()
    return bool(records) and records[-1]["split"] == "train" and records[-1]["step"] % EVALUATE_EVERY == 0


def _validations(run: Run) -> int:
    return sum(record["split"] == "val" for record in run.records())


def _broken(run: Run) -> str | None:
    """A kill leaves whole checkpoints, under their names, and nothing else under such a name."""
    _, damaged = checkpoint.newest_valid(run.checkpoints)
    return damaged[0] if damaged else None


def _stops(trial: Trial, whole: Run) -> None:
    """Each signal at random steps all along one run, a second one a moment later; then on to the same bits."""
    for number, expected in (_STOPS if trial.short else {**_STOPS, **_OTHER_STOPS}).items():
        row = trial.count(f"{number.name}, and again 0.2 s later", trial.size(4 if number in _STOPS else 2, 1))
        run = at(whole, trial.folder / number.name)
        problems: list[str | None] = []
        for k in range(row.wanted):
            trial.left()
            process = forked(run.argv(k % 2 * 2), trial.folder / f"{number.name}-{k}.log")
            _trains(process, run, trial)
            step = run.steps * (k + trial.random.random()) / (row.wanted + 1)
            process.watch(lambda: _step(run) >= step, trial.left(60), pause=0.002)  # noqa: B023, called at once
            process.watch(lambda: False, trial.random.uniform(0, 0.02))
            problems.append(_stop(process, number, expected))
        process = finish(run, trial, trial.folder / f"{number.name}-end.log")
        end = difference(run, whole) if process.code() == 0 else f"it does not go on: {process.last_lines()}"
        for problem in problems:
            row.add(problem or end)


def _stop(process: Running, number: signal.Signals, expected: int) -> str | None:
    if process.code() is not None:
        return "the run was done before the signal came"
    process.send(number)
    process.watch(lambda: False, 0.2)
    process.send(number)
    try:
        code = process.wait(_STOP_WITHIN)
    except TookTooLong as error:
        return str(error)
    if code != expected:
        return f"exit code {code} instead of {expected}: {process.last_lines()}"
    return process.orphans(5)
