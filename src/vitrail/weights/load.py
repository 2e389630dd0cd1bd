"""A name given by a person -> a model, or what can be said of it without its weights."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.errors import UserError
from vitrail.model.cost import parameters
from vitrail.weights import embedded
from vitrail.weights.embedded import Embedded
from vitrail.weights.find import find
from vitrail.weights.formats import recognise
from vitrail.weights.formats.format import Format, ModelConfig
from vitrail.weights.found import Found, look
from vitrail.weights.names import Entry, Report, plan, to_ours

if TYPE_CHECKING:
    from vitrail.data.preprocess import Preprocess
    from vitrail.model import Model


@dataclass(frozen=True)
class Description:
    """A model before its weights are read. Nothing here imports torch, but for pixels."""

    found: Found
    format: Format

    embedded: Embedded | None = None
    """What vitrail wrote into a file of weights beside the tensors."""

    @property
    def config(self) -> ModelConfig:
        """The model's configuration. Raises UserError where it has no equal here."""
        return self.format.read_config(self.found).with_changes(**self.found.said)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits; empty where unknown."""
        return self.embedded.labels if self.embedded else self.format.read_labels(self.found)

    @property
    def preprocess(self) -> "Preprocess | None":
        """The pixel contract; None where unknown."""
        if self.embedded is None:
            return self.format.read_preprocess(self.found, self.config)
        from vitrail.data.preprocess import Preprocess

        return None if self.embedded.preprocess is None else Preprocess.from_dict(self.embedded.preprocess)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the person should know: the format, and what was assumed that the files do not say."""
        format_name = f"{self.found.path}: {self.format.name} format"
        if self.embedded:
            return (f"{format_name}, written by vitrail",)
        weights = self.found.weights.notes if not self.found.config else ()
        return (format_name, *weights, *self.format.notes(self.found))


def load(name: str | Path, changes: Mapping[str, Any] | None = None) -> "Model":
    """The model that a name means (see ``find``), in evaluation mode and float32, with .config, .preprocess and .labels.

    Args:
        name: a run, a model folder, a file of weights, or a hub id.
        changes: fields of the configuration that the files do not tell (``{"activation": "relu"}``).

    Raises:
        UserError: nothing there, damaged, or not a model that opens here.
    """
    return load_found(read(name, changes))


def read(name: str | Path, changes: Mapping[str, Any] | None = None) -> Description:
    """What can be said of a model without reading its weights, and without importing torch.

    Raises:
        UserError: nothing there, or of a format unknown here.
    """
    return describe(find(name), changes)


def load_folder(folder: str | Path) -> "Model":
    """The model of a folder in any of the known formats, as ``load`` gives it.

    Raises:
        UserError: files missing or damaged, a format or a choice unknown here, parameters that do not fit.
    """
    return load_found(describe(folder))


def describe(path: str | Path, changes: Mapping[str, Any] | None = None) -> Description:
    """What lies at a path, a model folder or a file of weights, and its format."""
    found = look(Path(path), changes)
    known = recognise(found)
    own = None if found.config or found.path.is_dir() else embedded.read(found.weights.paths[0])
    if own is not None:
        found = dataclasses.replace(found, said={**own.fields, **found.said})
    return Description(found, known, own)


def load_found(description: Description) -> "Model":
    """Read the weights and build the model."""
    from vitrail.weights.build import empty, fill

    config, labels, found = description.config, description.labels, description.found
    classes = getattr(config, "classes", 0)
    if labels and classes and len(labels) != classes:
        raise UserError(f"{found.document} names {len(labels)} labels for {classes} classes")
    _check_size(description)
    model = empty(config)
    chosen, report, wanted = _match(description, model)
    # What was written here is read even if it does not fit: that it is damaged says more than that a name is missing.
    tensors = found.weights.read() if found.recorded() or not (report.missing or report.leftover) else {}
    for excused in report.excused:
        tensors.pop(excused, None)
    fill(model, to_ours(chosen, report, tensors, wanted, _source(found)))
    model.preprocess, model.labels = description.preprocess, labels
    return model.eval()


def weights_report(description: Description) -> tuple[Report, Mapping[str, Any]]:
    """Where each tensor of the files goes in the model, without reading any; and the shapes that the model wants."""
    from vitrail.weights.build import empty

    _check_size(description)
    _, report, wanted = _match(description, empty(description.config))
    return report, wanted


def _check_size(description: Description) -> None:
    """Refuse a configuration that asks for far more than the files hold, before anything of its size is built."""
    asked = sum(parameters(description.config).values())
    held = sum(math.prod(shape) for shape in description.found.shapes.values())
    if asked > 10 * held + 10**7:
        raise UserError(
            f"{description.found.document} describes a model of {asked:,} parameters, and the files hold {held:,}: "
            "they do not belong together"
        )


def _match(description: Description, model: "Model") -> tuple[list[Entry], Report, Mapping[str, tuple[int, ...]]]:
    from vitrail.weights.build import shapes

    known, found, wanted = description.format, description.found, shapes(model)
    entries = known.entries(description.config, found.shapes, wanted)
    chosen, report = plan(entries, found.shapes, wanted, known.excuses)
    return chosen, report, wanted


def _source(found: Found) -> Path:
    return found.weights.paths[0]
