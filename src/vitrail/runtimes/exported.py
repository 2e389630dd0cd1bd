"""Exported: what an exported folder says of the model in it. Nothing here imports torch, nor any runtime.

The folder is a model folder: ``config.json`` with the key ``vitrail`` (configuration, pixel contract, digests) and the
class names; beside these the key ``export``, and the runtime's model in place of the weights.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.data.preprocess import Preprocess
from vitrail.errors import UserError, did_you_mean
from vitrail.model import ModelConfig, ResNetConfig, ViTConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

# as in weights/found.py and formats/native.py, whose import takes longer than reading the folder
CONFIG, KEY, EXPORT, FORMAT_VERSION = "config.json", "vitrail", "export", 1
_KINDS: Mapping[str, type[ViTConfig] | type[ResNetConfig]] = {"vit": ViTConfig, "resnet": ResNetConfig}


@dataclass(frozen=True)
class Form:
    """A form that a model is exported to: its files, and what runs them."""

    files: tuple[str, ...]
    """The first is the one that is opened."""
    engines: tuple[str, ...]
    """Names in ``engine.ENGINES``, the best first."""
    needs: tuple[str, ...]
    """The packages that write it."""
    extra: str
    """The extra of vitrail that installs them."""


FORMS: Mapping[str, Form] = {
    "onnx": Form(("model.onnx", "model.onnx.data"), ("openvino", "onnxruntime"), ("onnx", "onnxscript"), "onnx"),
    "openvino": Form(("model.xml", "model.bin"), ("openvino",), ("openvino",), "openvino"),
    "pt2": Form(("model.pt2",), ("torch",), ("torch",), ""),
}


@dataclass(frozen=True)
class Exported:
    """A model in the form of a runtime."""

    folder: Path
    form: str
    """A name in FORMS."""
    precision: str
    """float32, or int8."""
    config: ModelConfig
    preprocess: Preprocess
    labels: tuple[str, ...]
    """In the order of the logits; empty where unknown."""
    batch: int | None
    """How many images the model takes at a time; None for any number."""
    outputs: tuple[str, ...]
    """Their names, in the order in which the runtime gives them."""
    details: Mapping[str, Any]
    """All that stands under ``export``: versions, checks ..."""
    digests: Mapping[str, str]
    """File name -> SHA-256, of the runtime's files."""

    @property
    def path(self) -> Path:
        """The file that the runtime opens."""
        return self.folder / FORMS[self.form].files[0]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that it takes."""
        return self.preprocess.channels, *self.preprocess.image_size

    def verify(self) -> None:
        """Read every file of the runtime and compare its digest.

        Raises:
            UserError: a file is missing or is not what was written.
        """
        for name, digest in self.digests.items():
            path = self.folder / name
            try:
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise UserError(f"{path} cannot be read ({error.strerror or error}): export the model again") from None
            if found != digest:
                raise UserError(
                    f"{path} is damaged or was changed: its SHA-256 is not the recorded one; export it again"
                )


def read_exported(folder: str | Path) -> Exported:
    """What an exported folder says of its model.

    Raises:
        UserError: not such a folder, damaged, or written by a newer vitrail.
    """
    folder = Path(folder).expanduser()
    path = folder / CONFIG
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): it is no exported model") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON: export the model again") from None
    if not isinstance(values, Mapping) or not isinstance(values.get(EXPORT), Mapping):
        raise UserError(f"{folder} is not an exported model: write one with vitrail export MODEL --to onnx --out DIR")
    try:
        return _exported(folder, values)
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): export the model again") from None


def _exported(folder: Path, values: Mapping[str, Any]) -> Exported:
    ours, export = values[KEY], values[EXPORT]
    for version, what in ((ours["format"], "the model folder"), (export["format"], "the export")):
        if version > FORMAT_VERSION:
            raise UserError(
                f"{folder}: {what} has format {version}; this vitrail reads up to {FORMAT_VERSION}: upgrade it"
            )
    digests = dict(ours["sha256"])
    if digests.pop(CONFIG, None) != config_digest(values):
        raise UserError(
            f"{folder / CONFIG} is damaged or was changed: its SHA-256 is not the recorded one; export it again"
        )
    form = export["form"]
    if form not in FORMS:
        raise UserError(f"{folder}: a model in the form {form!r}: {did_you_mean(str(form), FORMS)}")
    config = _KINDS[ours["kind"]].from_dict(ours["config"])
    preprocess = Preprocess.from_dict(ours["preprocess"])
    labels = tuple(str(name) for name in values.get("label_names") or ())
    batch = None if export["batch"] is None else int(export["batch"])
    outputs = tuple(export["outputs"])
    if labels and len(labels) != config.classes:
        raise ValueError(f"{len(labels)} labels of a model with {config.classes} classes")
    if batch is not None and batch < 1:
        raise ValueError(f"batch {batch}")
    if set(outputs) != ({"features", "logits"} if config.classes else {"features"}):
        raise ValueError(f"outputs {', '.join(map(str, outputs)) or 'none'}")
    return Exported(
        folder=folder,
        form=form,
        precision=str(export["precision"]),
        config=config,
        preprocess=preprocess,
        labels=labels,
        batch=batch,
        outputs=outputs,
        details=export,
        digests=digests,
    )


def config_digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of what ``config.json`` says, but for the digests themselves; however it is spaced."""
    said = {**values, KEY: {**values[KEY], "sha256": None}}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def config_values(
    config: ModelConfig,
    preprocess: Preprocess,
    labels: "Sequence[str]",
    export: Mapping[str, Any],
    digests: Mapping[str, str],
) -> dict[str, Any]:
    """What ``config.json`` says of an exported model; the inverse of `read_exported`."""
    values: dict[str, Any] = {
        "num_classes": config.classes,
        "label_names": list(labels),
        EXPORT: {"format": FORMAT_VERSION, **export},
        KEY: {
            "format": FORMAT_VERSION,
            "kind": next(name for name, kind in _KINDS.items() if isinstance(config, kind)),
            "config": config.to_dict(),
            "preprocess": preprocess.to_dict(),
            "sha256": dict(digests),
        },
    }
    values[KEY]["sha256"][CONFIG] = config_digest(values)
    return values
