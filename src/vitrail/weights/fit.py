"""Whether weights fit the model that their files describe, told from names and shapes without reading a weight."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitrail.errors import UserError
from vitrail.model import ViTConfig
from vitrail.model.cost import parameters
from vitrail.weights.description import Description
from vitrail.weights.names import SAME, Entry, Report, Shape, plan

if TYPE_CHECKING:
    from vitrail.model import Model


@dataclass(frozen=True)
class Fit:
    """Where every tensor of a file goes, and what the model wants."""

    chosen: list[Entry]
    """The entries of the format's table that the file has tensors for."""
    report: Report
    found: Mapping[str, Shape]
    """The file's tensors."""
    wanted: Mapping[str, Shape]
    """The model's."""


def fit(description: Description) -> Fit:
    """Match names and shapes.

    Raises:
        UserError: weights that cannot be opened, or a configuration without an equal here.
    """
    matched = match(description, empty_model(description))
    for one in matched.chosen:
        shape, wanted = _shape(one, matched.found, matched.wanted[one.ours]), matched.wanted[one.ours]
        if shape != wanted:
            matched.report.reshaped[one.ours] = (shape, wanted)
    return matched


def match(description: Description, model: "Model") -> Fit:
    """Match names alone."""
    from vitrail.weights.build import shapes

    found, wanted = description.found.shapes, shapes(model)
    entries = description.format.entries(description.config, found, wanted)
    chosen, report = plan(entries, found, wanted, description.format.excuses)
    return Fit(chosen, report, found, wanted)


def empty_model(description: Description) -> "Model":
    """The model, without memory for its weights.

    Raises:
        UserError: a configuration that asks for far more than the files hold.
    """
    from vitrail.weights.build import empty

    config = description.config
    asked = sum(parameters(config).values())
    if isinstance(config, ViTConfig) and config.position == "sincos2d":  # a table that is saved, and no parameter
        asked += config.position_rows * config.width
    held = sum(math.prod(shape) for shape in description.found.shapes.values())
    if asked > 10 * held + 10**7:
        raise UserError(
            f"{description.found.document} describes a model of {asked:,} parameters, and the files hold {held:,}: "
            "they do not belong together"
        )
    return empty(config)


def _shape(one: Entry, found: Mapping[str, Shape], wanted: Shape) -> Shape:
    """The shape that an entry's tensors have as one of ours; that of the first where they do not go together."""
    if one.layout is SAME:
        return found[one.theirs[0]]
    import torch

    for device in ("meta", "cpu"):  # without memory, unless the layout looks at values
        try:
            parts = [torch.zeros(found[name], device=device) for name in one.theirs]
            return tuple(one.layout.to_ours(parts, wanted).shape)
        except (RuntimeError, ValueError, IndexError):
            continue
    return found[one.theirs[0]] if one.theirs else ()
