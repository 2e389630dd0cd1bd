"""Files as samples: their bytes, and what tells whether they have changed."""

import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import numpy as np

from vitrail.data.samples import UNKNOWN, Stats

_THREADS = 16  # a network's file system answers many at a time
_AT_ONCE = 2048  # files that a thread asks for, one after another
# A pipe in a file's place would be waited for for ever. For files these two say nothing new.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_file(path: str | Path) -> FileIO:
    """A file to read from. Raises OSError, also for what is no file, such as a pipe or a device."""
    file = open(os.open(path, _FLAGS), "rb", buffering=0)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("it is not a file")
    return file


def read_file(path: str | Path) -> bytes:
    """The bytes of a file. Raises OSError, as ``open_file``."""
    with open_file(path) as file:
        return file.read()


def stats_of(root: Path, names: Sequence[str]) -> Stats:
    """Size and time of change of files below a folder; unknown where there is none."""
    found = np.full((2, len(names)), UNKNOWN, dtype=np.int64)
    folder = str(root)

    def ask(start: int) -> None:
        for i in range(start, min(start + _AT_ONCE, len(names))):
            try:
                status = os.stat(os.path.join(folder, names[i]))
            except (OSError, ValueError):
                continue
            found[:, i] = status.st_size, status.st_mtime_ns

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(ask, range(0, len(names), _AT_ONCE)))
    return Stats(found[0], found[1])
