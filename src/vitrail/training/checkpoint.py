"""The checkpoint format: a folder ``step-00001200`` that is complete or absent, with the SHA-256 of every file.

    model.safetensors      the weights as trained; of a model that is cut up between n processes, n files, in each of
                           which is what one of them holds: model-00001-of-00004.safetensors (see ``sharded``)
    ema.safetensors        their moving average, if the recipe has one
    optimizer.safetensors  the optimisers' tensors, ``parameter name:key``
    state.json             step, best validation result, recipe, seconds spent
    manifest.json          SHA-256 of the files above, written last

All randomness is a function of the seed and the step, so nothing else is needed to go on bit for bit.
"""

import json
import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitrail.weights import replace
from vitrail.weights.folder import sha256

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_NAME = re.compile(r"step-(\d{8,})$")
_MANIFEST = "manifest.json"
_STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on: tensors by part and name, and a few plain values."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    """Empty for one on the disk whose tensors are in pieces; ``sharded.load_parts`` reads them."""
    state: dict[str, Any]
    path: Path | None = None
    """Where it is on the disk."""


def save(
    folder: Path,
    checkpoint: Checkpoint,
    *,
    keep: int,
    spared: Collection[int] = (),
    logs: Sequence[Path] = (),
    group: "ProcessGroup | None" = None,
) -> Path:
    """Write a checkpoint below ``folder``, atomically, and remove old ones.

    Args:
        checkpoint: what to write.
        keep: how many of the newest are kept, this one included.
        spared: steps of those that are kept besides.
        logs: files that are brought to the disk before the checkpoint appears, as it says that they hold what they do.
        group: of the processes between which the tensors are cut up; all of them save.
    """
    target = folder / f"step-{checkpoint.step:08d}"
    if group is not None:
        _save_pieces(target, checkpoint, logs, group)
        if group.rank() != 0:
            return target
    else:
        with replace.folder(target) as staging:
            for part, tensors in checkpoint.tensors.items():
                plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
                save_file(plain, staging / f"{part}.safetensors")
            hashes = {file.name: sha256(file) for file in sorted(staging.iterdir())}
            _complete(staging, checkpoint, hashes, logs)
    older = [step for step in steps(folder) if step < checkpoint.step]
    for old in older[: max(0, len(older) - keep + 1)]:
        if old not in spared:
            _remove(folder / f"step-{old:08d}")
    return target


def _save_pieces(target: Path, checkpoint: Checkpoint, logs: Sequence[Path], group: "ProcessGroup") -> None:
    from vitrail.training import sharded

    with sharded.together(target, group) as staging:
        hashes = sharded.save_parts(staging, checkpoint.tensors, group)
        if group.rank() == 0:
            _complete(staging, checkpoint, hashes, logs)


def _complete(staging: Path, checkpoint: Checkpoint, hashes: dict[str, str], logs: Sequence[Path]) -> None:
    """Write what is not tensors, and last the manifest of all files."""
    (staging / _STATE).write_text(_json({"step": checkpoint.step, **checkpoint.state}), encoding="utf-8")
    hashes = {**hashes, _STATE: sha256(staging / _STATE)}
    (staging / _MANIFEST).write_text(_json({"sha256": dict(sorted(hashes.items()))}), encoding="utf-8")
    for log in logs:
        if log.exists():
            replace.sync(log)


def set_aside_after(folder: Path, step: int) -> None:
    """Rename checkpoints later than ``step``, which are damaged: a run that goes on from there writes them again."""
    for later in steps(folder):
        if later > step:
            damaged = folder / f"damaged-step-{later:08d}"
            shutil.rmtree(damaged, ignore_errors=True)
            (folder / f"step-{later:08d}").rename(damaged)


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints below ``folder``, oldest first."""
    if not folder.is_dir():
        return []
    found = (int(match[1]) for entry in folder.iterdir() if (match := _NAME.match(entry.name)) and entry.is_dir())
    return sorted(step for step in found if (folder / f"step-{step:08d}").exists())


def newest_valid(folder: Path, *, at_most: int | None = None) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose files are all there and unchanged, and a line for each newer one that is damaged.

    Args:
        folder: of the run's checkpoints.
        at_most: the latest step that will do.
    """
    damaged: list[str] = []
    for step in reversed(steps(folder)):
        if at_most is not None and step > at_most:
            continue
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
    state = json.loads((path / _STATE).read_text(encoding="utf-8"))
    names = [name for name in _hashes(path) if name.endswith(".safetensors")]
    in_pieces = any("-of-" in name for name in names)
    tensors = {} if in_pieces else {Path(name).stem: load_file(path / name) for name in names}
    return Checkpoint(state.pop("step"), tensors, state, path)


def _problem(path: Path) -> str | None:
    """What is wrong with a checkpoint's files, None if nothing is."""
    try:
        if not (path / _MANIFEST).is_file():
            return f"{_MANIFEST} is missing"
        for name, expected in _hashes(path).items():
            if not (path / name).is_file():
                return f"{name} is missing, which {_MANIFEST} lists"
            if sha256(path / name) != expected:
                return f"{name} has changed since it was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{_MANIFEST} cannot be read: {error}"
    return None


def _hashes(path: Path) -> dict[str, str]:
    """The manifest's files with their SHA-256. It must read exactly as it was written: it has no hash of its own."""
    text = (path / _MANIFEST).read_text(encoding="utf-8")
    values = json.loads(text)
    if text != _json(values):
        raise ValueError("it has changed since it was written")
    hashes: dict[str, str] = values["sha256"]
    if any(Path(name).name != name for name in hashes):
        raise ValueError("it lists files that are not beside it")
    there = {file.name for file in path.glob("*.safetensors")}
    parts = {Path(name).stem.partition("-")[0] for name in hashes if name.endswith(".safetensors")}
    if _STATE not in hashes or not {"model", "optimizer"} <= parts or not there <= hashes.keys():
        raise ValueError("it does not list every file")
    return hashes


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=1) + "\n"


def _remove(path: Path) -> None:
    """Remove a checkpoint, which is whole until it has lost its name."""
    doomed = path.with_name(f".{path.name}.writing-removed")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
