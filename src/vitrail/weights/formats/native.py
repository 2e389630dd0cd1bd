"""Our own key in ``config.json``: ``vitrail``, with the full configuration, the Preprocess and the hash of the weights."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from vitrail.errors import UserError
from vitrail.model.config import ViTConfig
from vitrail.model.resnet_config import ResNetConfig
from vitrail.weights.files.untrusted import shown
from vitrail.weights.formats.format import Format, ModelConfig, Shapes
from vitrail.weights.found import Found
from vitrail.weights.names import Entry, entry

if TYPE_CHECKING:
    from vitrail.data.preprocess import Preprocess

KEY = "vitrail"
FORMAT_VERSION = 1
_KINDS: Mapping[str, type[ViTConfig] | type[ResNetConfig]] = {"vit": ViTConfig, "resnet": ResNetConfig}


def write(config: ModelConfig, preprocess: "Preprocess | None", sha256: Mapping[str, str]) -> dict[str, Any]:
    """The value of the key; ``sha256`` is file name -> hexadecimal digest."""
    return {
        "format": FORMAT_VERSION,
        "kind": next(name for name, kind in _KINDS.items() if isinstance(config, kind)),
        "config": config.to_dict(),
        "preprocess": None if preprocess is None else preprocess.to_dict(),
        "sha256": dict(sha256),
    }


def recognises(found: Found) -> bool:
    """Whether the key is there, and was not copied by transformers into what it saved, with tensors of its own."""
    return KEY in found.config and "transformers_version" not in found.config


def read_config(found: Found) -> ModelConfig:
    """The model's configuration.

    Raises:
        UserError: written by a newer vitrail, or without a configuration.
    """
    ours = found.config[KEY]
    version = ours.get("format", 0) if isinstance(ours, Mapping) else 0
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(f"the model folder has format {version}; this vitrail reads up to {FORMAT_VERSION}: upgrade it")
    if not isinstance(version, int) or version < 1 or not isinstance(ours.get("config"), Mapping):
        raise UserError(f"{found.document}: its key {KEY!r} lacks format or config: save the model again")
    kind = ours.get("kind", "vit")
    if kind not in _KINDS:
        raise UserError(f"{found.document}: a model of kind {shown(repr(kind))} is unknown to this vitrail: upgrade it")
    return _KINDS[kind].from_dict(ours["config"])


def read_labels(found: Found) -> tuple[str, ...]:
    """Class names in the order of the logits; empty where unknown. They stand in timm's key ``label_names``."""
    return tuple(str(name) for name in found.config.get("label_names") or ())


def read_preprocess(found: Found, config: ModelConfig) -> "Preprocess | None":
    """The pixel contract; None where the model was saved without one."""
    from vitrail.data.preprocess import Preprocess

    saved = found.config[KEY].get("preprocess")
    return None if saved is None else Preprocess.from_dict(saved)


def entries(config: ModelConfig, theirs: Shapes, ours: Shapes) -> Iterable[Entry]:
    """Every tensor under its own name."""
    return (entry(name, name) for name in ours)


FORMATS = (Format("vitrail", "vitrail", recognises, read_config, entries, read_preprocess, read_labels),)
