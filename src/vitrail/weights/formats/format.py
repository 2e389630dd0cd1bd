"""Format: how one origin describes its models, names their tensors and lays them out, in both directions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vitrail.model import ModelConfig
from vitrail.weights.found import WEIGHTS, Found
from vitrail.weights.names import Entry, Shape, Tensors

if TYPE_CHECKING:
    from vitrail.data.preprocess import Preprocess

__all__ = ["Documents", "Format", "Json", "ModelConfig", "Shapes"]

Json = Mapping[str, Any]
Shapes = Mapping[str, Shape]
Documents = Mapping[str, Json]


def _unchanged(tensors: Tensors, config: ModelConfig) -> Tensors:
    return tensors


def _no_labels(found: Found) -> tuple[str, ...]:
    return ()


def _no_notes(found: Found) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Format:
    """One way of describing and naming. The functions that read import no torch."""

    name: str
    """Of the format, such as ``transformers dinov2``; it is said when a model opens."""
    origin: str
    """The library or the authors whose it is, such as ``transformers``: what ``convert --to`` takes."""
    recognises: Callable[[Found], bool]
    """Whether a model is of this format: by its ``config.json`` where it has one, else by its tensors' names."""
    read_config: Callable[[Found], ModelConfig]
    """The configuration. Raises UserError by key for what has no equal here."""
    entries: Callable[[ModelConfig, Shapes, Shapes], Iterable[Entry]]
    """Every tensor that a model of this configuration may have, by our name and theirs; those that it has not may be
    named too. The other arguments are the file's tensors, which tell its variety (a prefix, blocks in one stack) and are
    empty for writing; and the model's own."""
    read_preprocess: "Callable[[Found, ModelConfig], Preprocess | None]"
    """The pixel contract; None where nobody knows it."""
    read_labels: Callable[[Found], tuple[str, ...]] = _no_labels
    """Class names in the order of the logits; empty where unknown."""
    notes: Callable[[Found], tuple[str, ...]] = _no_notes
    """What was assumed and why, in sentences: what the file does not say, or says ambiguously."""
    excuses: Mapping[str, str] = field(default_factory=dict)
    """Pattern of a tensor's name -> why the model does not need it."""
    before_writing: Callable[[Tensors, ModelConfig], Tensors] = _unchanged
    """Our tensors, brought to what the origin can hold, answers unchanged."""
    no_equal: Callable[[Any], str | None] | None = None
    """What keeps the origin from building a configuration, in words, or None where nothing does. Without the function
    the format is only read."""
    documents: "Callable[[ModelConfig, Sequence[str], Preprocess | None], Documents]" = lambda *_: {}
    """File name -> JSON document that the origin's library needs beside the weights."""
    weights_file: str = WEIGHTS
    """Name of the weights; one that ends in ``.npz`` is NumPy's archive, without documents."""
