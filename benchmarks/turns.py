"""Sides of a comparison, each in a process of its own, that take turns: what one does to memory or threads stays its own.

A side is a script of this folder that calls ``served``. Requests and answers are lines of JSON, through pipes.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

Answer = dict[str, Any]
Turn = Callable[[Mapping[str, Any]], Answer]
Prepare = Callable[[Mapping[str, Any]], tuple[Answer, Turn]]
"""The settings of a side -> what it says of itself, and what it does in a turn."""
Say = Callable[[str], None]

_PAUSE = 0.05  # seconds before a turn, in which the threads of the side before go to sleep
_STATUS = Path("/proc/self/status")


def served(prepare: Prepare) -> None:
    """Serve a side that ``Side`` has started in this process, until it is closed."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes elsewhere
    about, turn = prepare(json.loads(sys.argv[1]))
    print(json.dumps(about), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps({**turn(json.loads(line)), "peak_bytes": peak_bytes()}), file=answers, flush=True)


def peak_bytes() -> int | None:
    """The most memory that this process has had; None where the system does not tell it."""
    if not _STATUS.exists():
        return None
    return int(_STATUS.read_text().split("VmHWM:")[1].split()[0]) * 1024


class Side:
    """One process, ready for its turns."""

    def __init__(self, script: str, settings: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> None:
        """
        Raises:
            RuntimeError: it has ended before it was ready; with its last words.
        """
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(script)), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1"} | dict(environment or {}),
        )
        self.about = self._answer()

    def turn(self, **request: Any) -> Answer:
        """Have it do something, while the other sides wait."""
        time.sleep(_PAUSE)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # where it has ended, its last words say why
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _answer(self) -> Answer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            words = self._errors.read().decode(errors="replace").strip().splitlines()
            raise RuntimeError(words[-1] if words else f"ended with status {self._process.returncode}")
        answer: Answer = json.loads(line)
        return answer


class Sides:
    """Several sides by name; one that cannot start, or fails in a turn, is left out from then on, and said."""

    def __init__(self, say: Say = print) -> None:
        self.by_name: dict[str, Side] = {}
        self.errors: dict[str, str] = {}
        self.say = say

    def __enter__(self) -> "Sides":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for side in self.by_name.values():
            side.close()

    def start(
        self, name: str, script: str, settings: Mapping[str, Any], environment: Mapping[str, str] | None = None
    ) -> None:
        """Start a side, alone."""
        start = time.monotonic()
        try:
            self.by_name[name] = Side(script, settings, environment)
        except RuntimeError as error:
            self.fail(name, error)
            return
        self.say(f"{name}: ready after {time.monotonic() - start:.1f} s")

    def turn(self, name: str, **request: Any) -> Answer | None:
        """A turn of one side; None if it has failed."""
        if name not in self.by_name:
            return None
        try:
            return self.by_name[name].turn(**request)
        except RuntimeError as error:
            self.fail(name, error)
            return None

    def fail(self, name: str, error: Exception) -> None:
        """Leave a side out."""
        self.errors[name] = str(error)[:300]
        self.say(f"{name}: left out: {self.errors[name]}")
        side = self.by_name.pop(name, None)
        if side is not None:
            side.close()

    def rounds(self, most: int, seconds: float, take: Callable[[str], float | None]) -> dict[str, list[float]]:
        """Have every side take its turn in every round, in an order that is swapped every round.

        Args:
            most: rounds at most.
            seconds: a round is not begun if the longest one yet would not end within these; the first always is.
            take: a side's name -> what its turn gives; None if it has failed, and is left out.

        Returns:
            Of every side that has lasted, what each round has given.
        """
        start, longest = time.monotonic(), 0.0
        found: dict[str, list[float]] = {name: [] for name in self.by_name}
        for number in range(most):
            begun = time.monotonic()
            if number and begun - start + longest > seconds:
                self.say(f"{number} of {most} rounds fit into {seconds:.0f} s")
                break
            for name in list(self.by_name)[:: -1 if number % 2 else 1]:
                value = take(name)
                if value is not None:
                    found[name].append(value)
            longest = max(longest, time.monotonic() - begun)
        return {name: found[name] for name in found if name in self.by_name}
