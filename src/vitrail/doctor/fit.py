"""Whether weights fit the model that their files describe, told from names and shapes without reading a weight."""

from collections.abc import Mapping
from dataclasses import dataclass

from vitrail.weights.load import Description
from vitrail.weights.names import SAME, Entry, Report, Shape, plan


@dataclass(frozen=True)
class Fit:
    """Where every tensor of a file goes, and what the model wants."""

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
    from vitrail.weights.build import empty, shapes

    found, wanted = description.found.shapes, shapes(empty(description.config))
    entries = description.format.entries(description.config, found, wanted)
    chosen, report = plan(entries, found, wanted, description.format.excuses)
    for one in chosen:
        shape = _shape(one, found, wanted[one.ours])
        if shape != wanted[one.ours]:
            report.reshaped[one.ours] = (shape, wanted[one.ours])
    return Fit(report, found, wanted)


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
