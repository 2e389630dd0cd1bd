"""Models <-> files: the model folder, the formats that open here and are written, and the start of fine-tuning.

The names are loaded on first use, so that a module of this package which needs little costs little. Importing them does
not import torch; loading a model does.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitrail.weights.convert import convert
    from vitrail.weights.description import describe, read
    from vitrail.weights.find import find
    from vitrail.weights.folder import save
    from vitrail.weights.load import load, load_folder

__all__ = ["convert", "describe", "find", "load", "load_folder", "read", "save"]

_HOME = {
    "convert": "convert",
    "describe": "description",
    "find": "find",
    "load": "load",
    "load_folder": "load",
    "read": "description",
    "save": "folder",
}


class _Package(ModuleType):
    """This module, in which a name stays that of a function also where the function's module has the same name."""

    def __getattr__(self, name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):  # as an import does with a module, once it is loaded
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
