"""Images and recipes that are not those a run began with, and images and loading processes lost while it runs."""

import shutil
from pathlib import Path

from torture import changes
from torture.loading import loading
from torture.processes import Running, forked
from torture.runs import Run, at, difference, finish, reference
from torture.trial import Trial
from vitrail.training import checkpoint

_STEPS, _SAVED = 60, 40
_REFUSED = {  # keys whose value changes what is computed
    "optimizer.lr": 0.5,
    "seed": 7,
    "regularization.dropout": 0.35,
    "model.depth": 1,
    "ema.decay": 0.5,
    "batch_size": 16,
    "augment.crop": "none",
    "mixup.mixup": 0.9,
}
_HARMLESS = {"checkpoint.every": 10, "checkpoint.keep": 2, "data.workers": 2}


def data(trial: Trial) -> None:
    """Between two starts first, and then while it runs."""
    images = trial.folder / "images"
    changes.make(images, trial.seed)
    whole = reference(
        trial,
        "whole-images",
        steps=_STEPS,
        data=str(images),
        changes={"checkpoint.every": 20, "checkpoint.keep": 3, "evaluate.every": 20, "data.cache": False},
    )
    loading(trial, images, lambda: _between(trial, images, whole))


def _between(trial: Trial, images: Path, whole: Run) -> None:
    kinds = list(changes.ALLOWED)
    row = trial.count("changed data, refused by name, allowed, brought back", trial.size(12, 2))
    for number in range(row.wanted):
        row.add(_changed(trial, whole, images, kinds[number % len(kinds)], number))
    row = trial.count("other classes, refused", 1)
    row.add(_changed(trial, whole, images, "a class added", 0))
    keys = trial.random.sample(sorted(_REFUSED), trial.size(len(_REFUSED), 1))
    row = trial.count("recipes that changed, refused by the key", 2 * len(keys))
    for key in keys:
        for edit in (False, True):
            row.add(_other_recipe(trial, whole, key, edit=edit))
    keys = trial.random.sample(sorted(_HARMLESS), trial.size(len(_HARMLESS), 1))
    row = trial.count("recipes that changed without harm, noted", 2 * len(keys))
    for key in keys:
        for edit in (False, True):
            row.add(_harmless(trial, whole, key, edit=edit))


def _interrupted(whole: Run, folder: Path) -> Run:
    """The run as it was at an earlier step."""
    run = at(whole, folder)
    shutil.copytree(whole.folder, run.folder)
    shutil.rmtree(run.checkpoints / f"step-{_STEPS:08d}")
    shutil.rmtree(run.folder / "model")
    return run


def _changed(trial: Trial, whole: Run, images: Path, kind: str, number: int) -> str | None:
    """Refused; gone on with if that is said, unless the classes are others; and brought back, to the same bits."""
    name = f"{kind.replace(' ', '-')}-{number}"
    run, allowed = _interrupted(whole, trial.folder / name), _interrupted(whole, trial.folder / f"{name}-allowed")
    how = changes.ALLOWED.get(kind) or changes.NEVER[kind]
    with how(images, trial.random) as words:
        process = forked(run.argv(), trial.folder / f"{name}.log")
        problem = _not_refused(process, trial, words) or _touched(run, whole)
        process = forked(allowed.argv(0, "--allow-data-change"), trial.folder / f"{name}-allowed.log")
        if kind in changes.NEVER:
            problem = problem or _not_refused(process, trial, words)
        elif process.wait(trial.left(120)) != 0:
            problem = problem or f"allowed, it does not go on: {process.last_lines()}"
        elif missing := [word for word in words if word not in process.said()]:
            problem = problem or f"allowed, it does not tell '{missing[0]}'"
        elif max(checkpoint.steps(allowed.checkpoints)) != _STEPS:
            problem = problem or "allowed, it does not come to its end"
    if kind in changes.NEVER:
        return None if problem is None else f"{kind}: {problem}"
    process = finish(run, trial, trial.folder / f"{name}-back.log")
    end = difference(run, whole) if process.code() == 0 else f"brought back, it does not go on: {process.last_lines()}"
    return None if (problem or end) is None else f"{kind}: {problem or end}"


def _not_refused(process: Running, trial: Trial, words: list[str]) -> str | None:
    code, errors = process.wait(trial.left(120)), process.error_lines()
    if code != 2 or len(errors) != 1 or "Traceback" in process.said():
        return f"exit code {code} and not one clear error: {process.last_lines()}"
    missing = [word for word in words if word not in errors[0]]
    return f"the error does not name '{missing[0]}': {errors[0]}" if missing else None


def _touched(run: Run, whole: Run) -> str | None:
    """Whether a run that was refused has lost something."""
    kept = [step for step in checkpoint.steps(whole.checkpoints) if step <= _SAVED]
    if checkpoint.steps(run.checkpoints) != kept or len(run.records()) != len(whole.records()):
        return "refused, it has changed the run"
    found, damaged = checkpoint.newest_valid(run.checkpoints)
    return damaged[0] if damaged or found is None else None


def _with_key(run: Run, key: str, value: object, *, edit: bool) -> list[str]:
    """The command with another value of a key: said, or written into the run's recipe."""
    if edit:
        path = run.folder / "recipe.yaml"
        text = path.read_text(encoding="utf-8")
        path.write_text(_edited(text, key, value), encoding="utf-8")
        return ["train", "--out", str(run.folder), "--resume"]
    return run.argv(0, "--set", f"{key}={value}")


def _edited(text: str, key: str, value: object) -> str:
    import yaml

    values = yaml.safe_load(text)
    inner = values
    *groups, last = key.split(".")
    for group in groups:
        inner = inner.setdefault(group, {})
    inner[last] = value
    return yaml.safe_dump(values, sort_keys=False)


def _other_recipe(trial: Trial, whole: Run, key: str, *, edit: bool) -> str | None:
    name = f"{key}-{'edited' if edit else 'said'}"
    run = _interrupted(whole, trial.folder / name)
    argv = _with_key(run, key, _REFUSED[key], edit=edit)
    process = forked(argv, trial.folder / f"{name}.log")
    problem = _not_refused(process, trial, [key]) or _touched(run, whole)
    return None if problem is None else f"{name}: {problem}"


def _harmless(trial: Trial, whole: Run, key: str, *, edit: bool) -> str | None:
    name = f"{key}-{'edited' if edit else 'said'}"
    run = _interrupted(whole, trial.folder / name)
    argv = _with_key(run, key, _HARMLESS[key], edit=edit)
    process = forked(argv, trial.folder / f"{name}.log")
    if process.wait(trial.left(120)) != 0:
        return f"{name}: it does not go on: {process.last_lines()}"
    if f"{key} is {_HARMLESS[key]} from here on" not in process.said():
        return f"{name}: it is not noted: {process.last_lines(8)}"
    ours, theirs = (checkpoint.newest_valid(r.checkpoints)[0] for r in (run, whole))
    if ours is None or theirs is None or ours.step != theirs.step:
        return f"{name}: it does not come to its end"
    for part, tensors in theirs.tensors.items():
        for tensor, values in tensors.items():
            if ours.tensors[part][tensor].numpy().tobytes() != values.numpy().tobytes():
                return f"{name}: {tensor} has other bits"
    return None
