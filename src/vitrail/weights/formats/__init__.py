"""The origins of model folders that open here, one module each; to add one, write its module and name it in FORMATS.

Reading a configuration imports neither torch nor the origin's own library, so that ``vitrail info`` is instant.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitrail.errors import UserError
from vitrail.model.config import ViTConfig
from vitrail.weights.formats import native, timm

if TYPE_CHECKING:
    from torch import Tensor

    from vitrail.data.preprocess import Preprocess

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Format:
    """How one origin writes a model folder's ``config.json`` and names its tensors."""

    name: str
    recognises: Callable[[Json], bool]
    """Whether a ``config.json`` is of this origin."""
    read_config: Callable[[Json], ViTConfig]
    read_labels: Callable[[Json], tuple[str, ...]]
    read_preprocess: Callable[[Json], "Preprocess | None"]
    convert: Callable[[dict[str, "Tensor"], Json], dict[str, "Tensor"]]
    """The origin's tensors -> ours, by name; what it does not know it passes on, for ``match`` to report."""


FORMATS = (
    Format(
        "vitrail",
        native.recognises,
        native.read_config,
        native.read_labels,
        native.read_preprocess,
        native.convert,
    ),
    Format("timm", timm.recognises, timm.read_config, timm.read_labels, timm.read_preprocess, timm.convert),
)


def recognise(values: Json, source: object) -> Format:
    """The first format that knows a ``config.json``.

    Raises:
        UserError: none does.
    """
    for known in FORMATS:
        if known.recognises(values):
            return known
    kind = values.get("model_type")
    found = f"model_type {kind!r}" if kind else f"keys {', '.join(list(values)[:6]) or 'none'}"
    raise UserError(
        f"{source} is not a configuration that opens here ({found}): "
        f"it must come from {' or '.join(known.name for known in FORMATS)}"
    )
