"""One of two processes is killed: the other ends soon, with a word; or torchrun starts both again, to the same bits."""

import signal

import psutil

from torture.processes import Running, TookTooLong
from torture.runs import Run, at, difference
from torture.trial import Trial
from torture.worlds import torchrun

_WITHIN = 60.0
_STEPS = 200
_TOLD = "another process of this run has ended or does not answer"


def ranks(trial: Trial) -> None:
    """Without restarts and with them; in full, also with a model that is cut up between the processes."""
    kinds = ("ddp",) if trial.short else ("ddp", "fsdp")
    whole = {kind: _whole(trial, kind) for kind in kinds}
    for what, happens in (("the others end within 60 s", _ends), ("restarted to the same bits", _restarts)):
        row = trial.count(f"killed ranks, {what}", trial.size(4, 1))
        for number in range(row.wanted):
            kind = kinds[number // 2 % len(kinds)]
            problem = happens(trial, whole[kind], number)
            row.add(None if problem is None else f"{kind}, rank {number % 2}: {problem}")


def _whole(trial: Trial, kind: str) -> Run:
    run = Run(trial.folder / f"whole-{kind}", steps=_STEPS, changes={"parallel": kind})
    process = torchrun(run, 2, run.folder.with_suffix(".log"))
    if process.wait(trial.left(180)) != 0:
        raise RuntimeError(f"training with two processes failed: {process.last_lines()}")
    return run


def _kill_one(process: Running, run: Run, trial: Trial, which: int) -> str | None:
    """Kill one of the two at a random instant of training."""
    path = run.folder / "metrics.jsonl"
    process.watch(lambda: path.exists() and path.stat().st_size > 0, trial.left(120), pause=0.01)
    process.watch(lambda: False, trial.random.uniform(0, 1))
    workers = [
        p for p in psutil.Process(process.pid).children() if "-m" not in p.cmdline()[:2] or "vitrail" in p.cmdline()
    ]
    if len(workers) != 2:
        return f"there are {len(workers)} processes to kill"
    sorted(workers, key=lambda p: p.environ().get("RANK", ""))[which].send_signal(signal.SIGKILL)
    return None


def _ends(trial: Trial, whole: Run, number: int) -> str | None:
    run = at(whole, trial.folder / f"ends-{number}")
    process = torchrun(run, 2, trial.folder / f"ends-{number}.log")
    if problem := _kill_one(process, run, trial, number % 2):
        process.kill()
        return problem
    try:
        code = process.wait(_WITHIN)
    except TookTooLong as error:
        return str(error)
    if code == 0:
        return "exit code 0 although a rank was killed"
    if problem := process.orphans(1):
        return problem
    if _TOLD not in process.said() or f"--resume --out {run.folder}" not in process.said():
        return f"it does not say what happened and how to go on: {process.last_lines(12)}"
    process = torchrun(run, 2, trial.folder / f"ends-{number}-on.log")
    if process.wait(trial.left(180)) != 0:
        return f"it does not go on: {process.last_lines()}"
    return difference(run, whole)


def _restarts(trial: Trial, whole: Run, number: int) -> str | None:
    run = at(whole, trial.folder / f"restarts-{number}")
    process = torchrun(run, 2, trial.folder / f"restarts-{number}.log", "--max-restarts=2")
    if problem := _kill_one(process, run, trial, number % 2):
        process.kill()
        return problem
    if process.wait(trial.left(240)) != 0:
        return f"it did not go on by itself: {process.last_lines()}"
    return difference(run, whole)
