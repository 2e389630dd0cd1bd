"""vitrail study: a design choice, measured."""

import math
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vitrail.studies.findings import Findings


def study(
    name: Annotated[
        str | None, typer.Argument(help="A shipped study, or the path of a YAML file; without it, what there is.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="DATA as for train; by default the built-in digits.")] = None,
    init: Annotated[
        list[str] | None, typer.Option(help="A start model, which becomes an arm; repeatable (study bias).")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of each arm, each with its own seed.")] = None,
    lr: Annotated[str | None, typer.Option(help="Learning rates that each arm tries: 1e-3,3e-3.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training images.")] = None,
    image_size: Annotated[str | None, typer.Option(help="Pixels: 224, or height x width as 384x256.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe that all arms share, in place of the usual one.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A recipe value for all arms; repeatable.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time that all of it may take: 20m, 3h; longer runs are shortened.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Runs side by side; by default what the machine can bear.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the study; by default studies/NAME-DATA.")] = None,
) -> None:
    """Compare design choices: several runs of each, a table, a figure and a page. The same command goes on if stopped."""
    if name is None:
        _list()
        return
    from vitrail.cli.console import note
    from vitrail.cli.sizes import image_size as parse_image_size
    from vitrail.recipes.files import parse_settings

    changes: dict[str, Any] = {
        "epochs": epochs,
        "image_size": None if image_size is None else parse_image_size(image_size),
    }
    changes = {key: value for key, value in changes.items() if value is not None} | parse_settings(set_ or [])
    rates, seconds = _rates(lr), _seconds(budget)

    from vitrail.studies.run import folder_of
    from vitrail.studies.run import study as run

    found = run(
        name,
        data,
        out=out,
        recipe=recipe,
        changes=changes,
        init=init or (),
        seeds=seeds,
        lr=rates,
        budget=seconds,
        jobs=jobs,
        say=note,
        command=shlex.join(["vitrail", *sys.argv[1:]]),
    )
    _say(found, out or folder_of(name, data))


def _list() -> None:
    """The shipped studies and their questions."""
    from vitrail.cli.console import console
    from vitrail.studies import files

    for name in files.shipped():
        own = files.load(name)
        console().print(f"[bold]{name}[/bold]  {own.title}\n    {own.question}", soft_wrap=False)


def _rates(text: str | None) -> list[float] | None:
    from vitrail.errors import UserError

    if text is None:
        return None
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(math.isfinite(rate) and rate > 0 for rate in rates):
        raise UserError(f"--lr {text!r}: write learning rates above 0 with commas between, such as 1e-3,3e-3")
    return rates


def _seconds(text: str | None) -> float | None:
    """``90s``, ``20m``, ``1.5h``."""
    from vitrail.errors import UserError

    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)", text.strip())
    if match is None or float(match[1]) == 0:
        raise UserError(f"--budget {text!r}: write a time such as 90s, 20m or 3h")
    return float(match[1]) * {"s": 1, "m": 60, "min": 60, "h": 3600}[match[2]]


def _say(found: "Findings", folder: Path) -> None:
    from vitrail.cli.console import console

    out = console()
    for sentence in (*found.conclusions, *found.advice):
        out.print(sentence, markup=False)
    out.print(f"page:   {folder / 'index.html'}", markup=False)
    out.print(f"table:  {folder / ('sizes.csv' if found.sizes else 'results.csv')}", markup=False)
    out.print(f"figure: {folder / 'figure.svg'}", markup=False)
