"""A name given by a person -> a model, or what its configuration says."""

from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.weights.find import find
from vitrail.weights.folder import Description, describe, load_folder

if TYPE_CHECKING:
    from vitrail.model import ViT


def load(name: str | Path) -> "ViT":
    """The model that a name means (see ``find``): a ViT in evaluation mode with .config, .preprocess and .labels.

    Raises:
        UserError: nothing there, damaged, or not a model that opens here.
    """
    path = find(name)
    return load_folder(path) if path.is_dir() else load_folder(path.parent, weights=path.name)


def read(name: str | Path) -> Description:
    """What the model's ``config.json`` says, without its weights and without importing torch."""
    path = find(name)
    return describe(path if path.is_dir() else path.parent)
