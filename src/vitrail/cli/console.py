"""The one way to the terminal: results to standard output, notes and progress to standard error."""

import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@cache
def console() -> "Console":
    """The console for results that people read (standard output)."""
    from rich.console import Console

    return Console(soft_wrap=not sys.stdout.isatty(), highlight=False)


@cache
def notes() -> "Console":
    """The console for what a command says about its work (standard error), so that results can be piped."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True, highlight=False)


def note(text: str) -> None:
    """Say one line about the work to the person at the terminal; square brackets are printed as they are."""
    notes().print(text, markup=False)
