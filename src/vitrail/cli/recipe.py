"""vitrail recipe: the shipped recipes, one of them as it is, or every key with its meaning."""

from typing import Annotated

import typer


def recipe(
    name: Annotated[
        str | None, typer.Argument(help="A recipe's name or file; without it, all names are listed.")
    ] = None,
    keys: Annotated[bool, typer.Option("--keys", help="List every key, its default and what it means.")] = False,
) -> None:
    """Show the shipped recipes, the text of one, or every key that a recipe and --set know."""
    from vitrail.cli.console import console
    from vitrail.recipes import files
    from vitrail.recipes.recipe import documented_keys

    out = console()
    if keys:
        for key, (default, meaning) in documented_keys().items():
            shown = "" if default is None else f" [default {default}]"
            out.print(f"{key}: {meaning}{shown}", markup=False)
    elif name:
        files.load(name)  # one that cannot be used is refused, not shown
        out.print(files.text(name).rstrip(), markup=False)
    else:
        for shipped in files.shipped():
            out.print(files.text(shipped).splitlines()[0].removeprefix("# "), markup=False)
