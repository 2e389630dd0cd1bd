"""Losses, gradients and weights that are not finite: left out or the end of the run, and never in anything saved."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from torture.poison import Poison
from torture.processes import Running, forked
from torture.runs import Run, at, difference, finish, reference
from torture.trial import Trial

_STEPS = 60
_BATCH = 32
# every checkpoint of the run is kept, so that each can be looked into
_CHANGES = {"checkpoint.every": 4, "checkpoint.keep": 100, "evaluate.every": 20}


def numbers(trial: Trial) -> None:
    """Steps that are left out, returns to earlier weights, and ends, at steps that are drawn."""
    row = trial.count("steps that are not finite, left out to the same bits", trial.size(9, 1))
    for number in range(row.wanted):
        row.add(_left_out(trial, number))
    row = trial.count("losses that shoot up, gone back from", trial.size(3, 1))
    for number in range(row.wanted):
        row.add(_gone_back(trial, number))
    row = trial.count("runs that stop, and go on once mended", trial.size(6, 1))
    for number in range(row.wanted):
        row.add(_stops_and_goes_on(trial, number))
    row = trial.count("runs that cannot go on, told and nothing bad saved", trial.size(12, 3))
    for number in range(row.wanted):
        row.add(_stops(trial, number))


def _run(trial: Trial, name: str, changes: Mapping[str, Any] | None = None) -> Run:
    return Run(trial.folder / name, steps=_STEPS, changes={**_CHANGES, **(changes or {})})


def _poisoned(run: Run, trial: Trial, name: str, poison: Poison | None) -> Running:
    trial.left()
    return forked(run.argv(), trial.folder / f"{name}.log", fault=poison)


def _left_out(trial: Trial, number: int) -> str | None:
    """A run with up to five such steps, whole and cut in two: the steps are named, and the bits are the same."""
    kind = ("nan", "inf", "gradient")[number % 3]
    first = trial.random.randrange(3, _STEPS - 8)
    steps = tuple(range(first, first + trial.random.randint(1, 5)))  # the recipe goes on after five in a row
    poison, said = Poison(kind, steps), f"{kind} at steps {steps}"
    whole, cut = _run(trial, f"left-out-{number}"), _run(trial, f"left-out-{number}-cut")
    process = _poisoned(whole, trial, whole.folder.name, poison)
    if process.wait(trial.left(120)) != 0:
        return f"{said}: {process.last_lines()}"
    told = [record for record in whole.records() if record["split"] == "skipped"]
    if [record["step"] for record in told] != [step + 1 for step in steps]:
        return f"{said}: metrics.jsonl tells of {[record['step'] for record in told]}"
    if any(len(set(record["files"])) != _BATCH for record in told):
        return f"{said}: not all images of the steps are named"
    if process.said().count("the step is left out") != len(steps):
        return f"{said}: not each is told: {process.last_lines()}"
    if problem := not_finite(whole.folder):
        return f"{said}: {problem}"
    process = _poisoned(cut, trial, cut.folder.name, poison)
    process.watch(lambda: len(cut.records()) > steps[0], trial.left(60))  # a kill in their midst, as near as it gets
    process.kill()
    process = _poisoned(cut, trial, f"{cut.folder.name}-on", poison)
    if process.wait(trial.left(120)) != 0:
        return f"{said}, killed: {process.last_lines()}"
    problem = difference(cut, whole)
    return None if problem is None else f"{said}, killed: {problem}"


def _gone_back(trial: Trial, number: int) -> str | None:
    step = trial.random.randrange(20, _STEPS - 5)
    run = _run(trial, f"back-{number}", {"guard.spike": 20})
    process = _poisoned(run, trial, run.folder.name, Poison("spike", (step,)))
    if process.wait(trial.left(120)) != 0:
        return f"a spike at step {step}: {process.last_lines()}"
    back = [record for record in run.records() if record.get("back_to_step") is not None]
    if [record["step"] for record in back] != [step + 1] or not 0 < back[0]["back_to_step"] <= step:
        return f"a spike at step {step}: metrics.jsonl tells of {back}"
    if "back to the weights of step" not in process.said():
        return f"a spike at step {step} is not told: {process.last_lines()}"
    return not_finite(run.folder)


def _stops_and_goes_on(trial: Trial, number: int) -> str | None:
    """By the recipe's guard.nonfinite=stop; without what was wrong, it ends as if nothing had been."""
    kind = ("nan", "gradient", "inf")[number % 3]
    step = trial.random.randrange(3, _STEPS)
    changes = {**_CHANGES, "guard.nonfinite": "stop"}
    whole = reference(trial, "whole-stop", steps=_STEPS, changes=changes)
    run = at(whole, trial.folder / f"stop-{number}")
    process = _poisoned(run, trial, run.folder.name, Poison(kind, (step,)))
    if problem := _wrong_end(process, run, trial, f"at step {step + 1}, with "):
        return f"{kind} at step {step}: {problem}"
    process = finish(run, trial, trial.folder / f"stop-{number}-on.log")
    problem = difference(run, whole) if process.code() == 0 else f"it does not go on: {process.last_lines()}"
    return None if problem is None else f"{kind} at step {step}: {problem}"


def _stops(trial: Trial, number: int) -> str | None:
    """Too many such steps in a row; a weight that is NaN; a learning rate that no weight survives."""
    way, step = number % 4, trial.random.randrange(3, _STEPS - 10)
    poison, changes, words = [
        (Poison("nan", tuple(range(step, step + 6))), {}, "the 6th such step in a row"),
        (Poison("weight", (step,)), {}, "try a lower optimizer.lr"),
        (None, {"optimizer.lr": 1e30}, "try a lower optimizer.lr"),
        (None, {"optimizer.lr": 3e38, "guard.most_skipped": 1000}, "try a lower optimizer.lr"),
    ][way]
    run = _run(trial, f"end-{number}", changes)
    process = _poisoned(run, trial, run.folder.name, poison)
    problem = _wrong_end(process, run, trial, words)
    return None if problem is None else f"{poison or changes}: {problem}"


def _wrong_end(process: Running, run: Run, trial: Trial, words: str) -> str | None:
    code, errors = process.wait(trial.left(120)), process.error_lines()
    if code != 1 or len(errors) != 1 or "Traceback" in process.said():
        return f"exit code {code} and not one clear error: {process.last_lines()}"
    if words not in errors[0]:
        return f"the error does not say '{words}': {errors[0]}"
    return not_finite(run.folder)


def not_finite(folder: Path) -> str | None:
    """The first tensor below a folder that is not finite."""
    for path in sorted(folder.rglob("*.safetensors")):
        for name, tensor in load_file(path).items():
            if not torch.isfinite(tensor).all():
                return f"{name} in {path.relative_to(folder)} is not finite"
    return None
