"""A training run that has everything that could be lost, and whether two runs ended alike, to the bit."""

import fnmatch
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open

from torture.processes import Running, forked
from torture.trial import Trial
from vitrail.training import checkpoint

STEPS, EVALUATE_EVERY, SAVE_EVERY = 240, 20, 4
# Random numbers wherever a step can draw them, sums that a checkpoint cuts in two, and images that workers prepare.
SETTINGS = {
    "model.width": 32,
    "model.depth": 2,
    "model.heads": 2,
    "model.mlp_width": 64,
    "optimizer.accumulate": 2,
    "regularization.dropout": 0.1,
    "regularization.drop_path": 0.1,
    "mixup.mixup": 0.2,
    "mixup.probability": 0.5,
    "augment.crop": "random_resized",
    "ema.decay": 0.98,
    "evaluate.every": EVALUATE_EVERY,
    "checkpoint.every": SAVE_EVERY,
}
_OF_THE_CLOCK = {"images_per_second", "seconds"}


@dataclass(frozen=True)
class Run:
    """A run's folder and its command, which is the same whether the run begins or goes on."""

    folder: Path
    steps: int = STEPS
    data: str = "digits"
    recipe: str = "digits"
    changes: dict[str, Any] = field(default_factory=dict)

    def argv(self, workers: int = 0, *more: str) -> list[str]:
        """The arguments of ``vitrail``."""
        values = {**SETTINGS, "steps": self.steps, "batch_size": 32, **self.changes}
        settings = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
        start = ["train", self.data, "--recipe", self.recipe, "--out", str(self.folder), "--resume"]
        return [*start, "--workers", str(workers), *settings, *more]

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints are."""
        return self.folder / "checkpoints"

    def being_written(self) -> list[str]:
        """Names of what is half-written in the run's folder: all of it hidden, with .writing- in the name."""
        names = [name for _, folders, files in os.walk(self.folder) for name in (*folders, *files)]  # while it changes
        return fnmatch.filter(names, ".*.writing-*")

    def records(self) -> list[dict[str, Any]]:
        """metrics.jsonl, but for a last line that is cut off."""
        path = self.folder / "metrics.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def finish(run: Run, trial: Trial, log: Path, workers: int = 0) -> Running:
    """Let a run go on to its end, in peace; the process, ended."""
    process = forked(run.argv(workers), log)
    process.wait(trial.left(180))
    return process


def reference(trial: Trial, name: str = "whole", **changes: Any) -> Run:
    """The run that nothing happens to, computed once for all ordeals."""
    run = Run(trial.shared / name, **changes)
    done = run.folder.with_suffix(".seconds")
    if not done.exists():
        started = time.monotonic()
        process = finish(run, trial, run.folder.with_suffix(".log"))
        if process.code() != 0:
            raise RuntimeError(f"the run without any harm failed: {process.last_lines()}")
        done.write_text(str(time.monotonic() - started))
    return run


def duration(run: Run) -> float:
    """Seconds that the reference took, from its start to its report."""
    return float(run.folder.with_suffix(".seconds").read_text())


def at(run: Run, folder: Path) -> Run:
    """The same run in another folder."""
    return replace(run, folder=folder)


def difference(run: Run, whole: Run) -> str | None:
    """What a run that came to its end has otherwise than the reference, in a line; None if nothing."""
    return next(_differences(run, whole), None)


def _differences(run: Run, whole: Run) -> Iterator[str]:
    ours, theirs = checkpoint.steps(run.checkpoints), checkpoint.steps(whole.checkpoints)
    if ours != theirs:
        yield f"checkpoints {ours}, not {theirs}"
    for step in set(ours) & set(theirs):
        name = f"step-{step:08d}"
        yield from _other_tensors(run.checkpoints / name, whole.checkpoints / name)
        mine, other = (_state(r.checkpoints / name) for r in (run, whole))
        if different := sorted(key for key in {**mine, **other} if mine.get(key) != other.get(key)):
            yield f"{name}/state.json has other values of {', '.join(different)}"
    yield from _other_tensors(run.folder / "model", whole.folder / "model")
    yield from _other_metrics(run, whole)
    if left := run.being_written():
        yield f"left behind: {', '.join(left[:3])}{' ...' if len(left) > 3 else ''}"


def _other_tensors(mine: Path, other: Path) -> Iterator[str]:
    names = sorted(path.name for path in other.glob("*.safetensors"))
    if names != sorted(path.name for path in mine.glob("*.safetensors")):
        yield f"{mine} does not have the files {names}"
        return
    for name in names:
        with safe_open(mine / name, "pt") as a, safe_open(other / name, "pt") as b:
            if sorted(a.keys()) != sorted(b.keys()):
                yield f"{mine / name} has other tensors"
                continue
            for key in b.keys():  # noqa: SIM118, it is no dict
                if not _same_bits(a.get_tensor(key), b.get_tensor(key)):
                    yield f"{key} in {mine / name} has other bits"


def _same_bits(a: Any, b: Any) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


def _other_metrics(run: Run, whole: Run) -> Iterator[str]:
    mine, other = ([_timeless(record) for record in r.records()] for r in (run, whole))
    if mine == other:
        return
    places = [(record["step"], record["split"]) for record in mine]
    wanted = [(record["step"], record["split"]) for record in other]
    if doubled := sorted({place for place in places if places.count(place) > 1}):
        yield f"metrics.jsonl has {doubled[0]} twice"
    if holes := sorted(set(wanted) - set(places)):
        yield f"metrics.jsonl lacks {holes[0]}"
    first = next((a for a, b in zip(mine, other, strict=False) if a != b), "a record too many")
    yield f"metrics.jsonl has another record: {first}"


def _state(folder: Path) -> dict[str, Any]:
    """state.json, but for the clock and for how many processes load images, which may be any number."""
    values = _timeless(json.loads((folder / "state.json").read_text(encoding="utf-8")))
    values.get("recipe", {}).get("data", {}).pop("workers", None)
    return values


def _timeless(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in _OF_THE_CLOCK}
