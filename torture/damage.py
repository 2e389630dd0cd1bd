"""Flipped bits and cut-off files: refused by the name of the file, and the older checkpoint is taken."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from torture.processes import forked
from torture.runs import Run, at, difference, finish, reference
from torture.trial import Trial
from vitrail import load
from vitrail.errors import UserError
from vitrail.training import checkpoint

_HASHED = ("model.safetensors", "config.json")  # README.md is for people


def damage(trial: Trial) -> None:
    """In the newest of two checkpoints, and in a model folder; by the library, and by a few commands."""
    whole = reference(trial)
    row = trial.count("flipped bits in a checkpoint", trial.size(100, 40))
    for _ in range(row.wanted):
        row.add(_harm(trial, whole.checkpoints, _flip, _refused_checkpoint))
    row = trial.count("files of a checkpoint cut off", trial.size(20, 10))
    for _ in range(row.wanted):
        row.add(_harm(trial, whole.checkpoints, _cut, _refused_checkpoint))
    row = trial.count("flipped bits in a model folder", trial.size(40, 15))
    for _ in range(row.wanted):
        row.add(_harm(trial, whole.folder / "model", _flip, _refused_model))
    row = trial.count("files of a model folder cut off", trial.size(10, 4))
    for _ in range(row.wanted):
        row.add(_harm(trial, whole.folder / "model", _cut, _refused_model))
    row = trial.count("runs that go on from the older checkpoint", trial.size(3, 1))
    for number in range(row.wanted):
        row.add(_goes_on(trial, whole, number))
    row = trial.count("commands that refuse a damaged model", 2)
    for number, (command, name) in enumerate((("info", "config.json"), ("evaluate", "model.safetensors"))):
        row.add(_command_refuses(trial, whole, command, name, number))


def _flip(path: Path, trial: Trial) -> str:
    """One bit of one byte."""
    whole = path.read_bytes()
    while True:
        offset, bit = trial.random.randrange(len(whole)), trial.random.randrange(8)
        data = bytearray(whole)
        data[offset] ^= 1 << bit
        if not (path.suffix == ".json" and _says_the_same(data, whole)):  # 1e-06 and 1E-06
            break
    path.write_bytes(data)
    return f"bit {bit} of byte {offset:,} of {path.name}"


def _says_the_same(a: bytes, b: bytes) -> bool:
    try:
        return bool(json.loads(a) == json.loads(b))
    except ValueError:
        return False


def _cut(path: Path, trial: Trial) -> str:
    """Some bytes, or all, from the end on."""
    length = trial.random.randrange(path.stat().st_size)
    with path.open("rb+") as file:
        file.truncate(length)
    return f"{path.name} cut to {length:,} bytes"


def _harm(
    trial: Trial,
    folder: Path,
    how: Callable[[Path, Trial], str],
    refused: Callable[[Path, Path], str | None],
) -> str | None:
    """Harm a file of a copy, and see that it is refused."""
    trial.left()
    copy = trial.folder / "copy"
    shutil.copytree(folder, copy)
    try:
        inner = copy if (copy / "config.json").exists() else sorted(copy.iterdir())[-1]
        files = sorted(path for path in inner.iterdir() if inner != copy or path.name in _HASHED)
        file = trial.random.choice(files)
        done = how(file, trial)
        problem = refused(copy, file)
        return None if problem is None else f"{done}: {problem}"
    finally:
        shutil.rmtree(copy)


def _refused_checkpoint(folder: Path, file: Path) -> str | None:
    found, damaged = checkpoint.newest_valid(folder)
    if found is None or found.step != min(checkpoint.steps(folder)):
        return f"the checkpoint taken is {found.step if found else 'none'}"
    # a digest that has another digit may as well be right, and the file that it is about wrong
    names = [path.name for path in file.parent.iterdir()] if file.name == "manifest.json" else [file.name]
    return None if any(name in damaged[0] for name in names) else f"the file is not named: {damaged[0]}"


def _refused_model(folder: Path, file: Path) -> str | None:
    try:
        load(folder)
    except UserError as error:
        return None if file.name in str(error) else f"the file is not named: {error}"
    return "it was read"


def _goes_on(trial: Trial, whole: Run, number: int) -> str | None:
    """By the command: the damage is told, and the run ends with the same bits."""
    run = at(whole, trial.folder / f"goes-on-{number}")
    shutil.copytree(whole.folder, run.folder)
    inner = sorted(run.checkpoints.iterdir())[-1]
    file = trial.random.choice(sorted(inner.glob("*.safetensors")))
    _flip(file, trial)
    process = finish(run, trial, trial.folder / f"goes-on-{number}.log")
    if process.code() != 0:
        return f"it does not go on: {process.last_lines()}"
    if file.name not in process.said():
        return f"{file.name} of {inner.name} was damaged, and is not named"
    return difference(run, whole)


def _command_refuses(trial: Trial, whole: Run, command: str, name: str, number: int) -> str | None:
    folder = trial.folder / f"model-{number}"
    shutil.copytree(whole.folder / "model", folder)
    done = _flip(folder / name, trial)
    more = ["digits"] if command == "evaluate" else []
    process = forked([command, str(folder), *more], trial.folder / f"{command}.log")
    code = process.wait(trial.left(60))
    if code != 2 or not any(name in line for line in process.error_lines()):
        return f"{command} after {done}: exit code {code}, {process.last_lines()}"
    return None
