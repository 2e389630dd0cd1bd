"""Two hundred saves, three kept: never more files, and no more memory, at the end than at the beginning."""

import json
import statistics

from torture.faults import Fault
from torture.processes import forked
from torture.runs import Run
from torture.trial import Trial

_KEEP = 3
_SETTLED = 30  # saves after which nothing new is loaded
_GROWTH = 4e6  # bytes; a checkpoint of this model takes ten times as much over the saves that are compared


def saves(trial: Trial) -> None:
    """A run that saves at every step, watched from within at every checkpoint that takes its name."""
    row = trial.count(f"saves, {_KEEP} kept", trial.size(200, 80))
    journal = trial.folder / "calls.jsonl"
    run = Run(
        trial.folder / "run",
        steps=row.wanted,
        changes={"checkpoint.every": 1, "checkpoint.keep": _KEEP, "evaluate.every": row.wanted, "augment.crop": "none"},
    )
    fault = Fault(act="count", under=str(run.checkpoints), journal=str(journal))
    process = forked(run.argv(), trial.folder / "run.log", fault=fault)
    most: list[int] = []

    def look() -> bool:
        most.append(len(list(run.checkpoints.iterdir())) if run.checkpoints.is_dir() else 0)
        return process.code() is not None

    process.watch(look, trial.left(400), pause=0.002)
    if process.wait(trial.left(60)) != 0:
        row.add(f"the run failed: {process.last_lines()}")
        return
    memory = _memory_at_saves(journal.read_text(encoding="utf-8").splitlines())
    growth = statistics.median(memory[-20:]) - statistics.median(memory[_SETTLED : _SETTLED + 20])
    names = sorted(path.name for path in run.checkpoints.iterdir())
    problem = None
    if growth > _GROWTH:
        problem = f"memory grew by {growth / 1e6:.1f} MB over {len(memory) - _SETTLED} saves"
    elif max(most) > _KEEP + 2:  # one that is written, and one that is removed
        problem = f"there were up to {max(most)} folders at a time"
    elif names != [f"step-{row.wanted - k:08d}" for k in reversed(range(_KEEP))]:
        problem = f"at the end there are {', '.join(names)}"
    row.add(problem, len(memory))


def _memory_at_saves(lines: list[str]) -> list[int]:
    """The memory of the process each time that a checkpoint took its name."""
    calls = [json.loads(line) for line in lines]
    renamed = [call for call in calls if call["what"] == "os.rename" and ".writing-" in call["where"]]
    return [call["memory"] for call in renamed if not call["where"].endswith("-removed")]
