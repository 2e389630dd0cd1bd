"""The command line: a table from command name to function. Nothing heavy is imported before a command runs."""

import os
import signal
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib import import_module
from types import FrameType

import typer

# each the function of that name in the module of that name, here
COMMANDS = (
    *("train", "evaluate", "predict", "embed", "probe", "inspect", "study"),
    *("info", "convert", "resize", "export", "doctor", "recipe"),
)
_DEBUG = "--debug"


def app_of(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """The command line with these commands, whose modules are imported."""
    app = typer.Typer(
        help="From images to a trained, understood and deployed Vision Transformer, at any resolution.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in names:
        app.command(name)(getattr(import_module(f"{__name__}.{name}"), name))
    app.callback()(_options)
    return app


def __getattr__(name: str) -> typer.Typer:
    """``app``, the whole command line: made where it is asked for, as a command needs no other's module."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return app_of()


def _options(debug: bool = typer.Option(False, _DEBUG, help="Show the traceback of an error.")) -> None:
    """From images to a trained, understood and deployed Vision Transformer, at any resolution."""
    if debug:
        os.environ["VITRAIL_DEBUG"] = "1"


def _needed(arguments: Sequence[str]) -> Sequence[str]:
    """The commands that the arguments can mean: the one that they begin with, or all, to help or to suggest one."""
    first = next((argument for argument in arguments if argument != _DEBUG), "")
    return (first,) if first in COMMANDS else COMMANDS


def main() -> None:
    """Run a command; what goes wrong is one line on standard error and an exit code (see the design's table)."""
    from vitrail.errors import Failure, UserError

    signal.signal(signal.SIGTERM, _terminated)
    try:
        app_of(_needed(sys.argv[1:]))()
    except (UserError, Failure) as error:
        _fail(error, 2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe has gone: that is its right
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        _fail(error, 1, f"{type(error).__name__}: ")
    except SystemExit:
        raise
    except BaseException as error:
        code = getattr(error, "exit_code", None)
        if not isinstance(code, int):
            raise
        for number in (
            signal.SIGINT,
            signal.SIGTERM,
        ):  # training.Stopped: a further signal must not change the exit code
            signal.signal(number, signal.SIG_IGN)
        _say(str(error))
        sys.exit(code)
    finally:
        if signal.getsignal(signal.SIGTERM) is _terminated:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what is left is to leave


def _terminated(number: int, frame: FrameType | None) -> None:
    """Leave as a program does that is told to end, but by the ordinary way out, which cleans up behind it."""
    _say("terminated")
    sys.exit(143)


def _fail(error: Exception, code: int, prefix: str = "") -> None:
    """Say what went wrong, with the traceback if it was asked for, and leave."""
    if os.environ.get("VITRAIL_DEBUG"):
        import traceback

        traceback.print_exception(error)
    from vitrail.cli.outputs import shown

    rank = os.environ.get("RANK", "0")
    text = "\n".join(map(shown, str(error).split("\n")))  # it may name a file by what a terminal would obey
    _say(f"error: {prefix}{text}" if rank == "0" else f"[process {rank}] error: {prefix}{text}")
    sys.exit(code)


def _say(text: str) -> None:
    from vitrail.cli.console import note

    # a terminal that is closed, a pipe that nobody reads, at which rich exits: the exit code is to be the command's own
    with suppress(OSError, SystemExit):
        note(text)
