"""One process at a time in a run's folder: a lock that the system releases when its holder dies."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from vitrail.errors import UserError
from vitrail.training.device import Devices
from vitrail.weights import replace

_LOCK = ".lock"
_HOLDER = ".lock-holder"
_NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOENT)
_PATIENCE = 5.0  # seconds: what a killed run leaves behind ends by then


@contextmanager
def alone(folder: Path, place: Devices, *, new: bool = False) -> Iterator[None]:
    """Make the run's folder, and keep it for the processes that train together, until the context is left.

    What a run that was killed was writing there is removed.

    Args:
        folder: of the run.
        place: where this process stands among those that train together.
        new: whether it must be empty: another process may have begun in it since this one looked.

    Raises:
        UserError: another process is training there, or has been; or it cannot be written to.
    """
    lock: FileLock | None = None
    problem = ""
    if place.first:
        lock = FileLock(folder / _LOCK)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=_PATIENCE)
            if new and any(not path.name.startswith(".") for path in folder.iterdir()):
                problem = f"{folder} already holds a run, which another process has begun: take another --out"
        except Timeout:
            problem = f"{folder} is being trained by {_holder(folder)}: wait for it, stop it, or take another --out"
        except (OSError, NotImplementedError) as error:  # a file system without locks; a full disk shows itself later
            if isinstance(error, OSError) and error.errno in _NO_PLACE:
                problem = f"{folder} cannot be written to ({error.strerror}): take another --out"
            lock = None
    try:
        if place.any(bool(problem)):
            raise UserError(problem or f"{folder} is being trained by another process")
        if place.first:
            with suppress(OSError):
                (folder / _HOLDER).write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
            for part in (folder, folder / "checkpoints"):
                replace.sweep(part)
        yield
    finally:
        if lock is not None and lock.is_locked:
            with suppress(OSError):
                (folder / _HOLDER).unlink(missing_ok=True)
            lock.release()


def _holder(folder: Path) -> str:
    try:
        return (folder / _HOLDER).read_text(encoding="utf-8") or "another process"
    except OSError:
        return "another process"
