"""What can be said of a model before its weights are read: its format, configuration, labels, pixels, and what was assumed."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.errors import UserError
from vitrail.weights import embedded
from vitrail.weights.embedded import Embedded
from vitrail.weights.files.untrusted import shown
from vitrail.weights.find import find
from vitrail.weights.formats import recognise
from vitrail.weights.formats.format import Format, ModelConfig
from vitrail.weights.found import Found, look

if TYPE_CHECKING:
    from vitrail.data.preprocess import Preprocess


@dataclass(frozen=True)
class Description:
    """A model before its weights are read. Nothing here imports torch."""

    found: Found
    format: Format

    embedded: Embedded | None = None
    """What vitrail wrote into a file of weights beside the tensors."""

    @property
    def config(self) -> ModelConfig:
        """The model's configuration. Raises UserError where it has no equal here."""
        with _one_line(self.found):
            return self.format.read_config(self.found).with_changes(**self.found.said)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the logits; empty where unknown."""
        with _one_line(self.found):
            return self.embedded.labels if self.embedded else self.format.read_labels(self.found)

    @property
    def preprocess(self) -> "Preprocess | None":
        """The pixel contract; None where unknown."""
        from vitrail.data.preprocess import Preprocess

        with _one_line(self.found):
            if self.embedded is None:
                return self.format.read_preprocess(self.found, self.config)
            return None if self.embedded.preprocess is None else Preprocess.from_dict(self.embedded.preprocess)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the person should know: the format, and what was assumed that the files do not say."""
        if export := self.found.exported:
            images = "any number of images" if export.get("batch") is None else f"{export['batch']} images"
            kept = f"; in float32: {', '.join(map(str, export['in_float32']))}" if export.get("in_float32") else ""
            form = f"exported to {export['form']} in {export.get('precision')}, {images} at a time{kept}"
            return (f"{self.found.path}: {form}; for predict, evaluate and embed",)
        format_name = f"{self.found.path}: {self.format.name} format"
        if self.embedded:
            return (f"{format_name}, written by vitrail",)
        weights = self.found.weights.notes if not self.found.config else ()
        with _one_line(self.found):
            return (format_name, *weights, *self.format.notes(self.found))


@contextmanager
def _one_line(found: Found) -> Iterator[None]:
    """Values of kinds that nobody expects, such as a list for a number, are one clear error too."""
    try:
        yield
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError, RecursionError) as error:
        text = f"{type(error).__name__}: {shown(error)}"
        raise UserError(f"{found.document} has a value of a kind that makes no model ({text})") from error


def read(name: str | Path, changes: Mapping[str, Any] | None = None) -> Description:
    """What can be said of a model without reading its weights, and without importing torch.

    Raises:
        UserError: nothing there, or of a format unknown here.
    """
    return describe(find(name), changes)


def describe(path: str | Path, changes: Mapping[str, Any] | None = None) -> Description:
    """What lies at a path, a model folder or a file of weights, and its format."""
    found = look(Path(path), changes)
    own = None if found.path.is_dir() else embedded.read(found.weights.paths[0])
    if own is not None:  # then a config.json beside it is of another model
        found = dataclasses.replace(found, config={}, processor={}, said={**own.fields, **found.said})
    return Description(*_recognised(found), own)


def _recognised(found: Found) -> tuple[Found, Format]:
    """The format; a ``config.json`` that lies beside a file of weights by chance is passed over."""
    with _one_line(found):
        try:
            return found, recognise(found)
        except UserError:
            if found.path.is_dir() or not found.config:
                raise
            bare = dataclasses.replace(found, config={}, processor={})
            try:
                return bare, recognise(bare)
            except UserError:
                pass
            raise
