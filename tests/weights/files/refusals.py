"""What every refusal of a file is held to: one line, no code run, little memory, little time."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vitrail.errors import UserError
from vitrail.weights.files.tensors import open_weights

SECONDS, MEGABYTES = 10, 60  # of processor time; ample for refusing a file, and a gigabyte shows
MARKER = "code-has-run"


class Evil:
    """Pickled, it is a call: of ``function``, when it is opened carelessly."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


TOUCH = Evil(os.system, f"touch {MARKER}")


@contextmanager
def little_memory_and_time() -> Iterator[None]:
    """Fails where the block raises the process's peak of memory, or takes long."""
    status = Path("/proc/self/status")
    if not status.exists():
        yield
        return

    def peak() -> float:
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024

    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start = peak(), time.process_time()
    yield
    assert time.process_time() - start < SECONDS
    assert peak() - before < MEGABYTES


def refused(path: Path, message: str) -> None:
    """Opening or reading the file is refused in one line, as the module promises."""
    with little_memory_and_time(), pytest.raises(UserError, match=message) as caught:
        open_weights([path]).read()
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert path.name in str(caught.value)
    assert not Path(MARKER).exists()
