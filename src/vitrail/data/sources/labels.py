"""Label columns of tables: which one it is, and its values as class names."""

from collections.abc import Sequence
from typing import Any

from vitrail.errors import UserError

LABEL_COLUMNS = ("label", "labels", "class", "target", "category")


def label_column(columns: Sequence[str], class_labels: Sequence[str]) -> str | None:
    """The label column: one called so, else the first of those that the metadata declare as classes."""
    return next((column for column in (*LABEL_COLUMNS, *class_labels) if column in columns), None)


def class_names(source: object, values: Sequence[Any], names: Sequence[str] | None) -> list[str] | None:
    """Labels as class names, or None where all are withheld (missing or -1), as in many a test part.

    Args:
        source: the file or data set, for the error.
        values: indices into ``names``, or names themselves.
        names: the class names where the source declares them.

    Raises:
        UserError: a label is missing, or beyond the names.
    """
    if all(value is None or value == -1 for value in values):
        return None
    found = []
    for row, value in enumerate(values):
        if value is None:
            raise UserError(f"{source}: row {row} has no label")
        if names is None or isinstance(value, str):
            found.append(str(value))
        elif 0 <= value < len(names):
            found.append(names[value])
        else:
            raise UserError(f"{source}: row {row} has label {value}, but {len(names)} classes are named")
    return found
