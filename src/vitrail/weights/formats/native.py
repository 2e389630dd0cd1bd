"""Our own key in ``config.json``: ``vitrail``, with the full ViTConfig, the Preprocess and the hash of the weights."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vitrail.errors import UserError
from vitrail.model.config import ViTConfig

if TYPE_CHECKING:
    from torch import Tensor

    from vitrail.data.preprocess import Preprocess

KEY = "vitrail"
FORMAT_VERSION = 1


def write(config: ViTConfig, preprocess: "Preprocess | None", sha256: Mapping[str, str]) -> dict[str, Any]:
    """The value of the key; ``sha256`` is file name -> hexadecimal digest."""
    return {
        "format": FORMAT_VERSION,
        "config": config.to_dict(),
        "preprocess": None if preprocess is None else preprocess.to_dict(),
        "sha256": dict(sha256),
    }


def recognises(values: Mapping[str, Any]) -> bool:
    """Whether the key is there."""
    return KEY in values


def read_config(values: Mapping[str, Any]) -> ViTConfig:
    """The model's configuration.

    Raises:
        UserError: written by a newer vitrail, or without a configuration.
    """
    ours = values[KEY]
    version = ours.get("format", 0) if isinstance(ours, Mapping) else 0
    if version > FORMAT_VERSION:
        raise UserError(f"the model folder has format {version}; this vitrail reads up to {FORMAT_VERSION}: upgrade it")
    if version < 1 or "config" not in ours:
        raise UserError(f"config.json's key {KEY!r} lacks format or config: save the model again")
    return ViTConfig.from_dict(ours["config"])


def read_labels(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Class names in the order of the logits; empty where unknown. They stand in timm's key ``label_names``."""
    return tuple(str(name) for name in values.get("label_names") or ())


def read_preprocess(values: Mapping[str, Any]) -> "Preprocess | None":
    """The pixel contract; None where the model was saved without one."""
    from vitrail.data.preprocess import Preprocess

    saved = values[KEY].get("preprocess")
    return None if saved is None else Preprocess.from_dict(saved)


def read_sha256(values: Mapping[str, Any]) -> Mapping[str, str]:
    """File name -> digest recorded when it was written; empty for folders of other origins."""
    ours = values.get(KEY)
    return ours.get("sha256", {}) if isinstance(ours, Mapping) else {}


def convert(state: "dict[str, Tensor]", values: Mapping[str, Any]) -> "dict[str, Tensor]":
    """The tensors as they are: our names are the model's names."""
    return state
