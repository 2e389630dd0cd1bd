"""A model as a command takes it: opened, with what was assumed said, and with what the person says of it."""

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitrail.cli.pixels import Pixels

if TYPE_CHECKING:
    from vitrail.model import Model
    from vitrail.weights.description import Description

_OURS = "vitrail"

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Say of the model what its files do not, such as model.activation=relu; repeatable.",
    ),
]


def load_model(name: str, settings: list[str] | None = None, pixels: Pixels | None = None) -> "Model":
    """The model that a name means, and the notes about it on standard error.

    Args:
        name: a run, a model folder, a file of weights, or a hub id.
        settings: of ``--set``: fields of the configuration.
        pixels: changes of the pixel contract, which the model then has; None leaves it as it is, known or not.

    Raises:
        UserError: no such model, one that does not open here, or a contract that is not known.
    """
    from vitrail.device import keep_freed_memory
    from vitrail.weights.load import load_found

    keep_freed_memory()
    description = describe(name, settings)
    given = None if pixels is None else pixels.of(description, name)  # refused before any weights are read
    say_notes(description, pixels)
    return load_found(description, given)


def describe(name: str, settings: list[str] | None = None) -> "Description":
    """The model that a name means before its weights are read; settings that it cannot take are refused."""
    from vitrail.weights.description import read

    description = read(name, changes(settings or []))
    if settings:
        description.config  # noqa: B018  (made of the files and the settings, which is where they are checked)
    return description


def say_notes(description: "Description", pixels: Pixels | None = None) -> None:
    """Say once of which format a model is and what was assumed, but for what the person has said otherwise.

    There is nothing to say of our own folders.
    """
    from vitrail.cli.console import note

    if description.format.origin == _OURS or os.environ.get("RANK", "0") != "0":
        return
    settled = [f"--set model.{key}=" for key in description.found.said]
    settled += ["--mean"] if pixels is not None and pixels.mean else []
    taken = description.found.weights.notes if description.found.config else ()  # of a checkpoint that holds several
    for text in (*description.notes, *taken):
        if not any(option in text for option in settled):
            note(text)


def changes(settings: list[str]) -> dict[str, Any]:
    """The values of ``--set`` by field of the model's configuration: ``model.activation=relu`` or ``activation=relu``.

    Raises:
        UserError: not of the form KEY=VALUE. An unknown field is refused when it is applied.
    """
    from vitrail.errors import UserError

    if not settings:
        return {}
    for setting in settings:
        if not setting.partition("=")[1]:
            raise UserError(f"--set {setting}: write it as KEY=VALUE, such as model.activation=relu")
    from vitrail.recipes.files import parse_settings

    return {key.removeprefix("model."): value for key, value in parse_settings(settings).items()}
