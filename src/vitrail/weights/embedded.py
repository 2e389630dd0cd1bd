"""What vitrail writes into a file of weights that has no ``config.json``: what names and shapes do not tell of the model.

It stands where others ignore it: in the metadata of a safetensors file, or the comment of an ``.npz`` archive.
"""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitrail.model import Model

KEY = "vitrail"
# Fields of a configuration that change answers, and are in no tensor.
UNSAID = ("image_size", "heads", "head_width", "activation", "norm_eps", "position_interpolation", "rotary_base")
_LONGEST = 65_000  # bytes of an archive's comment


@dataclass(frozen=True)
class Embedded:
    """What a file of weights says of its model beside the tensors; a stranger's file may say anything."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    """Of the configuration."""
    preprocess: Mapping[str, Any] | None = None
    """The pixel contract, as ``Preprocess.to_dict`` gives it."""
    labels: tuple[str, ...] = ()


def write(model: "Model") -> str:
    """The text for a model: JSON on one line."""
    config = model.config.to_dict()
    return json.dumps(
        {
            "model": {name: config[name] for name in UNSAID if name in config},
            "preprocess": None if model.preprocess is None else model.preprocess.to_dict(),
            "label_names": list(model.labels),
        }
    )


def comment(text: str) -> bytes:
    """The same as an archive's comment; without the class names where these are too many for it."""
    if len(text) > _LONGEST:
        text = json.dumps({**json.loads(text), "label_names": []})
    return text.encode()


def read(path: Path) -> Embedded | None:
    """What a file of weights, whose headers have been checked, says of its model; None where vitrail wrote nothing."""
    text: str | bytes | None = None
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            text = archive.comment
    elif path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(KEY)
    try:
        values = json.loads(text or "null")
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or not isinstance(fields := values.get("model"), dict):
        return None
    labels, pixels = values.get("label_names"), values.get("preprocess")
    return Embedded(
        fields,
        pixels if isinstance(pixels, dict) else None,
        tuple(map(str, labels)) if isinstance(labels, list) else (),
    )
