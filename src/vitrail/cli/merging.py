"""``--merge``: token merging as a person writes it, and the model that merges so."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from vitrail.errors import UserError

if TYPE_CHECKING:
    from vitrail.model import Model
    from vitrail.model.reduction import Merging

MergeOption = Annotated[
    str | None,
    typer.Option(
        "--merge",
        metavar="AMOUNT",
        help="Merge similar patches, faster and less exact: 8 a block, or 0.5 of all; falling:8 most in the first blocks.",
    ),
]
_FALLING = "falling:"


def merging(text: str) -> "Merging":
    """An amount as a person writes it: 8, 0.5, falling:8.

    Raises:
        UserError: anything else.
    """
    from vitrail.model.reduction import Merging

    number = text.strip().removeprefix(_FALLING)
    if not re.fullmatch(r"\d{1,6}|0?\.\d{1,9}", number):
        raise UserError(
            f"--merge {text.strip()!r}: give the patches that a block merges, such as 8, the share of all that is gone in the "
            "end, such as 0.5, or falling:8"
        )
    return Merging(float(number) if "." in number else int(number), text.strip().startswith(_FALLING))


def mergings(text: str) -> "list[Merging]":
    """One or several amounts with commas between, in the order in which they are written.

    Raises:
        UserError: as ``merging``; one that is written twice.
    """
    found = [merging(part) for part in text.split(",")]
    for one in found:
        if found.count(one) > 1:
            raise UserError(f"--merge {text!r}: {one} is written twice")
    return found


def merged(model: "Model", text: str | None) -> "Model":
    """The model, which from now on merges so many tokens; as it was without the option.

    Raises:
        UserError: as ``merging``; or a model that cannot merge.
    """
    if text is None:
        return model
    from vitrail.model import ViT
    from vitrail.model.reduction import require_reducible

    how = merging(text)
    require_reducible(model.config, f"--merge {how}")
    assert isinstance(model, ViT)
    model.merge = how
    return model
