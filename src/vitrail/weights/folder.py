"""The model folder: config.json, model.safetensors and README.md, written whole or not at all, and hashed.

``config.json`` carries timm's keys and one of ours, so that the folder opens in timm and transformers as it is.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.errors import UserError
from vitrail.weights import replace
from vitrail.weights.card import model_card
from vitrail.weights.formats import native, timm
from vitrail.weights.found import CARD, CONFIG, WEIGHTS, digest, is_model_folder

if TYPE_CHECKING:
    from vitrail.model import Model

RUN_MODEL = "model"  # where a run keeps its best model


def save(
    model: "Model", folder: str | Path, *, card: str | None = None, metrics: Mapping[str, object] | None = None
) -> None:
    """Write a model folder, atomically: a crash leaves the old folder or the new one, never neither, never half of one.

    Args:
        model: its weights are written as they are, on any device.
        folder: created; a model folder that is already there is replaced, keeping other files that lie in it.
        card: text of README.md; None writes one from the configuration.
        metrics: name -> value of what was measured, for the card.

    Raises:
        UserError: ``folder`` is something else than a model folder, or cannot be written.
    """
    folder = Path(folder)
    check_target(folder)
    write(model, folder, card=card, metrics=metrics)


def write(
    model: "Model", folder: Path, *, card: str | None = None, metrics: Mapping[str, object] | None = None
) -> None:
    """As ``save``, whatever is left there of a model: for a folder that is the caller's own, such as a run's."""
    with replace.folder(folder, keep_others=True) as staging:
        write_tensors(model.state_dict(), staging / WEIGHTS)
        values = timm.write(model.config, model.labels, model.preprocess)
        digests = {WEIGHTS: sha256(staging / WEIGHTS)}
        values[native.KEY] = native.write(model.config, model.preprocess, digests)
        values[native.KEY]["sha256"][CONFIG] = digest(values)
        write_json(values, staging / CONFIG)
        text = card or model_card(model.config, model.labels, model.preprocess, metrics or {}, name=_title(folder))
        (staging / CARD).write_text(text, encoding="utf-8")


def check_target(folder: Path) -> None:
    """Refuse to write over anything but a model folder."""
    if folder.exists() and not (folder.is_dir() and (is_model_folder(folder) or not any(folder.iterdir()))):
        raise UserError(f"{folder} exists and is not a model folder: choose another place")


def write_tensors(state: Mapping[str, Any], path: Path, **metadata: str) -> None:
    """A safetensors file of these tensors, from any device."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, path, metadata={"format": "pt", **metadata})


def write_json(values: Mapping[str, Any], path: Path) -> None:
    """JSON as a person reads it."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _title(folder: Path) -> str:
    """A run keeps its model in ``model/``: the run's name says more."""
    absolute = folder.absolute()
    return absolute.parent.name if absolute.name == RUN_MODEL else absolute.name
