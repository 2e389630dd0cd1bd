"""The checkpoint format: a folder ``step-00001200`` that is complete or absent, with the SHA-256 of every file.

    model.safetensors      the weights as trained
    ema.safetensors        their moving average, if the recipe has one
    optimizer.safetensors  the optimisers' tensors, ``parameter name:key``
    state.json             step, best validation result, seconds spent
    manifest.json          SHA-256 of the files above, written last

All randomness is a function of the seed and the step, so nothing else is needed to go on bit for bit.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitrail.weights import replace
from vitrail.weights.folder import sha256

_NAME = re.compile(r"step-(\d{8,})$")


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on: tensors by part and name, and a few plain values."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write the checkpoint below ``folder``, atomically, and of those before it remove all but the newest ``keep - 1``."""
    target = folder / f"step-{checkpoint.step:08d}"
    with replace.folder(target) as staging:
        for part, tensors in checkpoint.tensors.items():
            plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            save_file(plain, staging / f"{part}.safetensors")
        _write(staging / "state.json", {"step": checkpoint.step, **checkpoint.state})
        hashes = {file.name: sha256(file) for file in sorted(staging.iterdir())}
        _write(staging / "manifest.json", {"sha256": hashes})
    older = [step for step in steps(folder) if step < checkpoint.step]
    for old in older[: len(older) - max(keep, 1) + 1]:
        shutil.rmtree(folder / f"step-{old:08d}", ignore_errors=True)
    return target


def drop_after(folder: Path, step: int) -> None:
    """Remove checkpoints later than ``step``: damaged ones, which a run that goes on from ``step`` will write again."""
    for later in steps(folder):
        if later > step:
            shutil.rmtree(folder / f"step-{later:08d}", ignore_errors=True)


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints below ``folder``, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for entry in folder.iterdir() if (match := _NAME.match(entry.name)))


def newest_valid(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose files are all there and unchanged, and a line for each newer one that is damaged."""
    damaged: list[str] = []
    for step in reversed(steps(folder)):
        path = folder / f"step-{step:08d}"
        problem = _problem(path)
        if problem is None:
            try:
                return _read(path), damaged
            except (SafetensorError, ValueError, KeyError, OSError) as error:
                problem = str(error)
        damaged.append(f"{path} is damaged ({problem}): passed over")
    return None, damaged


def _read(path: Path) -> Checkpoint:
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    tensors = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
    return Checkpoint(state.pop("step"), tensors, state)


def _problem(path: Path) -> str | None:
    try:
        hashes = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["sha256"]
        for name, expected in hashes.items():
            if sha256(path / name) != expected:
                return f"{name} has changed since it was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"manifest.json cannot be read: {error}"
    return None


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
