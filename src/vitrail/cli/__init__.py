"""The command line: a table from command name to function. Nothing heavy is imported before a command runs."""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

import typer

from vitrail.cli import (
    convert,
    doctor,
    embed,
    evaluate,
    export,
    info,
    inspect,
    predict,
    probe,
    recipe,
    resize,
    study,
    train,
)

COMMANDS: dict[str, Callable[..., None]] = {
    "train": train.train,
    "evaluate": evaluate.evaluate,
    "predict": predict.predict,
    "embed": embed.embed,
    "probe": probe.probe,
    "inspect": inspect.inspect,
    "study": study.study,
    "info": info.info,
    "convert": convert.convert,
    "resize": resize.resize,
    "export": export.export,
    "doctor": doctor.doctor,
    "recipe": recipe.recipe,
}

app = typer.Typer(
    help="From images to a trained, understood and deployed Vision Transformer, at any resolution.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, command in COMMANDS.items():
    app.command(name)(command)


@app.callback()
def options(debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error.")) -> None:
    """From images to a trained, understood and deployed Vision Transformer, at any resolution."""
    if debug:
        os.environ["VITRAIL_DEBUG"] = "1"


def main() -> None:
    """Run a command; what goes wrong is one line on standard error and an exit code (see the design's table)."""
    from vitrail.errors import Failure, UserError

    signal.signal(signal.SIGTERM, _terminated)
    try:
        app()
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
        for number in (signal.SIGINT, signal.SIGTERM):  # training.Stopped: a further signal must not change the exit code
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
    rank = os.environ.get("RANK", "0")
    _say(f"error: {prefix}{error}" if rank == "0" else f"[process {rank}] error: {prefix}{error}")
    sys.exit(code)


def _say(text: str) -> None:
    from vitrail.cli.console import note

    note(text)
