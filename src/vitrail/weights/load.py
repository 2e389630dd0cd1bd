"""A name given by a person -> a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.errors import UserError
from vitrail.weights.description import Description, describe, read
from vitrail.weights.fit import empty_model, match
from vitrail.weights.names import to_ours

if TYPE_CHECKING:
    from vitrail.data.preprocess import Preprocess
    from vitrail.model import Model


def load(name: str | Path, changes: Mapping[str, Any] | None = None) -> "Model":
    """The model that a name means (see ``find``), in evaluation mode and float32, with .config, .preprocess and .labels.

    Args:
        name: a run, a model folder, a file of weights, or a hub id.
        changes: fields of the configuration that the files do not tell (``{"activation": "relu"}``).

    Raises:
        UserError: nothing there, damaged, or not a model that opens here.
    """
    return load_found(read(name, changes))


def load_folder(folder: str | Path) -> "Model":
    """The model of a folder in any of the known formats, as ``load`` gives it.

    Raises:
        UserError: files missing or damaged, a format or a choice unknown here, parameters that do not fit.
    """
    return load_found(describe(folder))


def load_found(description: Description, preprocess: "Preprocess | None" = None) -> "Model":
    """Read the weights and build the model.

    Args:
        description: what is to be read.
        preprocess: the model's pixel contract, where the person knows better than the files.
    """
    from vitrail.weights.build import fill

    labels, found = description.labels, description.found
    classes = description.config.classes
    if labels and classes and len(labels) != classes:
        raise UserError(f"{found.document} names {len(labels)} labels for {classes} classes")
    model = empty_model(description)
    fit = match(description, model)
    # What was written here is read even if it does not fit: that it is damaged says more than that a name is missing.
    fits = not (fit.report.missing or fit.report.leftover)
    needed = {name for one in fit.chosen for name in one.theirs}
    tensors = found.weights.read(needed) if fits or found.recorded() else {}
    fill(model, to_ours(fit.chosen, fit.report, tensors, fit.wanted, found.weights.paths[0]))
    model.preprocess, model.labels = preprocess or description.preprocess, labels
    return model.eval()
