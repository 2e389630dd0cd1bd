"""The model folder: config.json, model.safetensors and README.md, written whole or not at all, and hashed.

``config.json`` carries timm's keys and one of ours, so that the folder opens in timm and transformers as it is.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.errors import UserError
from vitrail.model.config import ViTConfig
from vitrail.weights import replace
from vitrail.weights.card import model_card
from vitrail.weights.formats import Format, native, recognise, timm

if TYPE_CHECKING:
    from vitrail.data.preprocess import Preprocess
    from vitrail.model import ViT

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
RUN_MODEL = "model"  # where a run keeps its best model


@dataclass(frozen=True)
class Description:
    """What a model folder's ``config.json`` says, read without its weights and without importing torch."""

    folder: Path
    format: Format
    values: Mapping[str, Any]

    @property
    def config(self) -> ViTConfig:
        """The model's configuration. Raises UserError where the folder's has no equal here."""
        return self.format.read_config(self.values)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits; empty where unknown."""
        return self.format.read_labels(self.values)

    @property
    def preprocess(self) -> "Preprocess | None":
        """The pixel contract; None where unknown."""
        return self.format.read_preprocess(self.values)


def save(
    model: "ViT", folder: str | Path, *, card: str | None = None, metrics: Mapping[str, object] | None = None
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
    from safetensors.torch import save_file

    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and (is_model_folder(folder) or not any(folder.iterdir()))):
        raise UserError(f"{folder} exists and is not a model folder: choose another place")
    with replace.folder(folder, keep_others=True) as staging:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(tensors, staging / WEIGHTS, metadata={"format": "pt"})
        values = timm.write(model.config, model.labels, model.preprocess)
        values[native.KEY] = native.write(model.config, model.preprocess, {WEIGHTS: sha256(staging / WEIGHTS)})
        (staging / CONFIG).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        text = card or model_card(model.config, model.labels, model.preprocess, metrics or {}, name=_title(folder))
        (staging / CARD).write_text(text, encoding="utf-8")


def load_folder(folder: str | Path, weights: str = WEIGHTS) -> "ViT":
    """The model of a folder in any of the known formats, in evaluation mode and float32.

    Args:
        folder: holds ``config.json`` and the weights.
        weights: file name of the weights in it.

    Raises:
        UserError: files missing or damaged, a format or a choice unknown here, parameters that do not fit.
    """
    from vitrail.weights.match import build

    description = describe(folder)
    path = description.folder / weights
    config, labels = description.config, description.labels
    if labels and len(labels) != config.classes:
        raise UserError(f"{description.folder / CONFIG} names {len(labels)} labels for {config.classes} classes")
    state = description.format.convert(_read(path, native.read_sha256(description.values)), description.values)
    model = build(config, state, path)
    model.preprocess, model.labels = description.preprocess, labels
    return model.eval()


def describe(folder: str | Path) -> Description:
    """Read ``config.json`` alone.

    Raises:
        UserError: it is missing, not JSON, or of an unknown format.
    """
    folder = Path(folder)
    replace.recover(folder)
    path = folder / CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} is not a model folder: it has no {CONFIG}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no JSON object")
    return Description(folder, recognise(values, path), values)


def is_model_folder(folder: Path) -> bool:
    """Whether a configuration lies there."""
    return (folder / CONFIG).is_file()


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _title(folder: Path) -> str:
    """A run keeps its model in ``model/``: the run's name says more."""
    absolute = folder.absolute()
    return absolute.parent.name if absolute.name == RUN_MODEL else absolute.name


def _read(path: Path, recorded: Mapping[str, str]) -> dict[str, Any]:
    """The tensors of a safetensors file, checked against the hash recorded for it; floating ones as float32."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        others = sorted(p.name for p in path.parent.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".safetensors"))
        there = f"; there is {', '.join(others)}, which does not open here" if others else ""
        raise UserError(f"{path.parent} has no {path.name}{there}")
    if path.name in recorded and sha256(path) != recorded[path.name]:
        raise UserError(
            f"{path} is damaged or was changed: its SHA-256 is not the one in {CONFIG}; restore it, or save the model again"
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from None
    # A copy, so that the file may be replaced while the model lives, and so that memory is aligned as torch likes it.
    return {
        name: tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
        for name, tensor in tensors.items()
    }
