"""Models for benchmarks, and their exports, made once and kept in a folder: quantising takes longer than measuring."""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from vitrail.errors import Failure, UserError
from vitrail.model import ViT, variant
from vitrail.weights.convert import convert
from vitrail.weights.folder import save
from vitrail.weights.load import load

WORK = Path(tempfile.gettempdir()) / "vitrail-benchmarks"
CLASSES = 1000
TINY: dict[str, Any] = {"width": 64, "depth": 2, "heads": 2, "mlp_width": 256}


def random_model(work: Path, name: str, classes: int = CLASSES, *, tiny: bool = False) -> Path:
    """A model folder with random weights; the head's too, which would be zeros."""
    from vitrail.data.preprocess import Preprocess

    folder = work / f"model-{name.replace('/', '-')}-{classes}{'-tiny' if tiny else ''}"
    if (folder / "config.json").exists():
        return folder
    torch.manual_seed(0)
    model = ViT(variant(name, classes=classes, **(TINY if tiny else {})))
    torch.nn.init.normal_(model.head.weight, std=0.1)
    model.labels = tuple(f"class {number}" for number in range(classes))
    half = (0.5,) * 3
    model.preprocess = Preprocess(model.config.image_size, mode="squash", mean=half, std=half)
    save(model, folder)
    return folder


def for_transformers(work: Path, model: Path) -> Path:
    """The model as transformers opens it."""
    folder = work / f"transformers-{digest(model)}"
    if not (folder / "config.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        convert(load(model), "transformers", folder)
    return folder


def exported(
    work: Path,
    model: Path,
    form: str,
    *,
    calibrate: Path | None = None,
    merge: str | None = None,
    max_loss: float = 0.5,
    fresh: bool = False,
) -> Path:
    """The folder that ``vitrail export`` writes, in int8 where there is something to calibrate with.

    Raises:
        RuntimeError: it writes none; with its last words.
    """
    how = [form, "float32" if calibrate is None else "int8", *([] if merge is None else [f"merge-{merge}"])]
    folder = work / f"export-{'-'.join(how).replace(':', '-')}-{digest(model)}"
    if (folder / "config.json").exists() and not fresh:
        return folder
    command = [sys.executable, "-m", "vitrail", "export", str(model), "--to", form, "--out", str(folder)]
    if calibrate is not None:
        command += ["--int8", "--calibrate", str(calibrate)]
    if calibrate is not None or merge is not None:
        command += ["--max-loss", f"{max_loss:g}"]
    if merge is not None:
        command += ["--merge", merge]
    print(f"writing {folder.name}", flush=True)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise RuntimeError(f"vitrail export: {' '.join(words[-2:])}")
    return folder


def attempt(made: dict[str, Path], errors: dict[str, str], name: str, *arguments: Any, **options: Any) -> None:
    """``exported``, or a note that it cannot be had."""
    try:
        made[name] = exported(*arguments, **options)
    except (RuntimeError, Failure, UserError) as error:
        errors[name] = str(error)[:300]
        print(f"{name}: left out: {errors[name]}", flush=True)


def said(folder: Path) -> dict[str, Any]:
    """What an export's check has found: its images, differences, agreement, and accuracy where there are labels."""
    export = json.loads((folder / "config.json").read_bytes())["export"]
    keys = ("precision", "merge", "calibration", "in_float32", "max_loss", "merging", "checks", "versions")
    return {key: export[key] for key in keys if key in export}


def digest(model: Path) -> str:
    """The first letters of the SHA-256 of a model folder's weights."""
    with (model / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]
