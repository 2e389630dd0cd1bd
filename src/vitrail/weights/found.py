"""Found: what lies where a person pointed, the weights and the documents beside them, each read when it is needed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vitrail.errors import UserError
from vitrail.weights import replace
from vitrail.weights.files.tensors import Weights, inside, open_weights, read_json, weights_files
from vitrail.weights.files.untrusted import shown

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
PROCESSOR, PROCESSOR_OF_ALL = "preprocessor_config.json", "processor_config.json"
_OF_A_MODEL = (CONFIG, CARD, PROCESSOR, PROCESSOR_OF_ALL, ".gitattributes", "generation_config.json")
SUFFIXES = frozenset([".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".npz"])  # of files of weights

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """A model as it lies on disk, in the format of any origin."""

    path: Path
    """A model folder, or a file of weights."""
    config: Json
    """``config.json``, empty where there is none."""
    processor: Json
    """transformers' ``preprocessor_config.json``, empty where there is none."""
    said: Json = field(default_factory=dict)
    """Fields of the configuration that the person gives: what the files do not say, or say wrongly."""

    @cached_property
    def weights(self) -> Weights:
        """The weights, of which only names and shapes are read yet. Raises UserError where there are none to read."""
        if self.exported:
            raise UserError(
                f"{self.path} is a model exported to {self.exported['form']} ({self.exported.get('precision')}), for predict, "
                "evaluate and embed; anything else needs the model that it was exported from: give that"
            )
        files = weights_files(self.path) if self.path.is_dir() else (self.path,)
        return open_weights(files, recorded=self.recorded(), replaced=self._replaced)

    def _replaced(self) -> Weights | None:
        """The weights that are there now, where a run has written this model again since its configuration was read.

        None where the digests are as they were; or where anything else has changed too, for then it is another model.
        """
        if not self.recorded():
            return None
        now = look(self.path, self.said)
        if now.recorded() == self.recorded() or _but_digests(now.config) != _but_digests(self.config):
            return None
        return now.weights

    @property
    def exported(self) -> Json:
        """What ``vitrail export`` says of a model in the form of a runtime, which lies in place of weights; else empty."""
        export = self.config.get("export")
        return export if "vitrail" in self.config and isinstance(export, Mapping) and "form" in export else {}

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Tensor name -> shape."""
        return self.weights.shapes

    @property
    def document(self) -> Path:
        """Where the configuration stands, for errors: ``config.json``, or the file of weights itself."""
        if self.path.is_dir():
            return self.path / CONFIG
        return self.path.parent / CONFIG if self.config else self.path

    def recorded(self) -> Mapping[str, str]:
        """File name -> SHA-256 of when it was written; only our own folders have them.

        transformers copies them into what it saves, with tensors of its own: there they mean nothing.
        """
        if "transformers_version" in self.config:
            return {}
        ours = self.config.get("vitrail")
        digests = ours.get("sha256") if isinstance(ours, Mapping) else None
        return {name: str(digest) for name, digest in digests.items()} if isinstance(digests, Mapping) else {}


def look(path: Path, said: Json | None = None) -> Found:
    """What is at a path: a model folder, or a file of weights with or without ``config.json`` beside it.

    Args:
        path: the folder or the file.
        said: fields of the configuration that the person gives.

    Raises:
        UserError: a folder without ``config.json``, or one that is not JSON.
    """
    if path.is_dir():
        replace.recover(path)
        if not is_model_folder(path):
            raise UserError(f"{path} is not a model folder: it has no {CONFIG}")
        found = Found(path, _json(path, CONFIG), _processor(path), said or {})
        if (stray := _stray(path, found)) is not None:
            raise UserError(f"{path / CONFIG} is damaged: {stray}; restore it")
        if found.recorded().get(CONFIG, (own := digest(found.config))) != own:
            raise UserError(
                f"{path / CONFIG} is damaged or was changed: its SHA-256 is not the one that it records; restore it or, "
                f"if you changed it yourself, take {CONFIG} out of its vitrail.sha256"
            )
        return found
    return Found(path, _json(path.parent, CONFIG), _processor(path.parent), said or {})


def _stray(path: Path, found: Found) -> str | None:
    """What is wrong if the digests are there under another name, where nothing would be compared with them."""
    ours = found.config.get("vitrail")
    for key, value in found.config.items():
        if key != "vitrail" and isinstance(value, Mapping) and "sha256" in value:
            return f"what should be its key vitrail is called {shown(repr(key))}"
    for key, value in ours.items() if isinstance(ours, Mapping) else ():
        if key != "sha256" and isinstance(value, Mapping) and CONFIG in value:
            return f"what should be its vitrail.sha256 is called {shown(repr(key))}"
    recorded = found.recorded()
    absent = [name for name in recorded if not (path / name).is_file()]
    if absent and any(name not in recorded and (path / name).is_file() for name in (CONFIG, WEIGHTS)):
        return f"it records the SHA-256 of {shown(repr(absent[0]))}, and there is no such file"
    return None


def digest(config: Json) -> str:
    """SHA-256 of what one of our ``config.json`` says, but for the digests themselves; however it is spaced."""
    return hashlib.sha256(json.dumps(_but_digests(config), sort_keys=True).encode()).hexdigest()


def _but_digests(config: Json) -> Json:
    ours = config.get("vitrail")
    return {**config, "vitrail": {**ours, "sha256": None} if isinstance(ours, Mapping) else None}


def is_model_file(path: Path) -> bool:
    """Whether a file in a model folder belongs to the model, by its name."""
    if not path.is_file() or path.name.endswith(".index.json"):
        return path.is_file()
    return path.name in _OF_A_MODEL or path.suffix in (".safetensors", ".bin")


def is_model_folder(folder: Path) -> bool:
    """Whether a configuration lies there."""
    return (folder / CONFIG).is_file()


def _processor(folder: Path) -> Json:
    """What transformers says of pixels: in a file of its own, or with a text tower's in one for both."""
    whole = _json(folder, PROCESSOR) or _json(folder, PROCESSOR_OF_ALL).get("image_processor")
    return whole if isinstance(whole, Mapping) else {}


def _json(folder: Path, name: str) -> Json:
    path = folder / name
    return read_json(inside(folder, path)) if path.is_file() else {}
