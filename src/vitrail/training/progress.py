"""What a person sees while a run trains: a live line on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_PLAIN_EVERY = 10.0  # seconds between plain lines


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Where rich ends the program."""
        raise BrokenPipeError


class TrainingProgress:
    """Shows step, epoch, loss, images/s and time left, on standard error. A context manager."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.total = 0
        self.quiet = quiet
        self._console = _Console(stderr=True, soft_wrap=True, highlight=False)
        self._live = sys.stderr.isatty() and not quiet
        self._bar = Progress(
            TextColumn("[bold]step {task.completed}/{task.total}"),
            BarColumn(bar_width=None),
            TextColumn("{task.description}"),
            console=self._console,
            disable=not self._live,
        )
        self._last_plain = time.monotonic()

    def of(self, total: int) -> Self:
        """For a run of ``total`` steps."""
        self.total = total
        self._task = self._bar.add_task("", total=total)
        return self

    def __enter__(self) -> Self:
        self._print(self._bar.start)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._print(self._bar.stop)

    def update(
        self, step: int, *, epoch: float, loss: float, images_per_second: float, seconds_left: float | None
    ) -> None:
        """Show the state after ``step`` steps; on a plain output at most one line every ten seconds."""
        text = f"epoch {epoch:.1f}  loss {loss:.3f}"
        if seconds_left is not None:
            text += f"  {images_per_second:,.0f} images/s  {clock(seconds_left)} left"
        if self._live:
            self._print(lambda: self._bar.update(self._task, completed=step, description=text))
        elif not self.quiet and (step == self.total or time.monotonic() - self._last_plain >= _PLAIN_EVERY):
            self._last_plain = time.monotonic()
            self.say(f"step {step}/{self.total}  {text}")

    def looking(self, done: int, total: int) -> None:
        """How many images have been looked at before training, said every ten seconds."""
        if time.monotonic() - self._last_plain >= _PLAIN_EVERY:
            self._last_plain = time.monotonic()
            self.say(f"looked at {done:,} of {total:,} images")

    def say(self, text: str) -> None:
        """A line that stays."""
        if not self.quiet:
            self._print(lambda: self._console.print(text, markup=False))

    def _print(self, how: Callable[[], object]) -> None:
        """Training goes on although nobody reads any more: the terminal is closed, or the pipe's other end."""
        try:
            how()
        except OSError:
            self.quiet, self._live = True, False
            self._console.quiet = True


def clock(seconds: float) -> str:
    """A duration as people say it: 42 s, 3 min 20 s, 2 h 05 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
