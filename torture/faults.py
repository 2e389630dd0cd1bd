"""What goes wrong inside a process: it dies, or finds the disk full, at the k-th call that changes files in a folder.

Python tells of every such call by an audit event before it is made, whichever module makes it; two kinds it does not
tell of, syncing and the files that safetensors writes, and these are told here. Nothing of this is in the product.

    python -m torture.faults FAULT train digits ...     FAULT: JSON, as Fault.to_json gives it; for torchrun
"""

import errno
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torture.poison import Poison


@dataclass(frozen=True)
class Fault:
    """Which call goes wrong, and how."""

    act: str
    """die: SIGKILL to itself before the call; full: every call from this one on finds the disk full; count: nothing."""
    under: str
    """Only calls that change something below this folder count."""
    since: str = ""
    """Counting begins with the first call that has these characters in its path."""
    until: str = ""
    """... and ends with the first, after that, that has these. What is to die and has not dies there."""
    at: int = 0
    """Which of them, from 1."""
    half: bool = False
    """Whether a file that was to be written is left half-written."""
    journal: str | None = None
    """A file to which a line is written for each call that counts: its number, the process's memory, what and where."""

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))

    def install(self) -> None:
        """Let it go wrong in this process from here on."""
        _Injector(self).install()


_ASKING = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")


def run_here(argv: list[str], log: Path, fault: Fault | Poison | None) -> None:
    """``vitrail ARGV`` in this process, a new session, with its output in a file. The target of a forked process."""
    os.setsid()
    for name in _ASKING:  # whatever the shell in which the suite runs does at them
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell has what runs in the background ignore
    # loader workers start as they do in a new interpreter, and not as this process was started
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    _main(argv, fault)


def _main(argv: list[str], fault: Fault | Poison | None) -> None:
    import vitrail.cli

    if fault is not None:
        fault.install()
    sys.argv = ["vitrail", *argv]
    vitrail.cli.main()


_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.truncate", "os.link", "os.symlink"}


class _Injector:
    """Counts the calls of a Fault, and lets one go wrong."""

    def __init__(self, fault: Fault) -> None:
        self.fault, self.calls, self.since, self.over = fault, 0, not fault.since, False
        self.process, self.own = os.getpid(), threading.local()

    def install(self) -> None:
        """Listen to every call of this process; loader workers, forked from it, are left alone."""
        import safetensors.torch as safetensors

        sync, write = os.fsync, safetensors.serialize_file

        def told_sync(descriptor: int) -> None:
            self.told("fsync", _path_of(descriptor))
            sync(descriptor)

        def told_write(tensors: Any, filename: Any, *args: Any, **more: Any) -> None:
            self.told("write", str(filename), lambda: _half(lambda: write(tensors, filename, *args, **more), filename))
            write(tensors, filename, *args, **more)

        setattr(os, "fsync", told_sync)  # noqa: B010, their types are closer than ours
        setattr(safetensors, "serialize_file", told_write)  # noqa: B010
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if isinstance(path, str | bytes) and (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.told(event, os.fsdecode(path), lambda: _begin(os.fsdecode(path), flags))
        elif event in _CHANGES:
            paths = [os.fsdecode(arg) for arg in args[:2] if isinstance(arg, str | bytes | os.PathLike)]
            self.told(event, " ".join(paths))

    def told(self, what: str, where: str, half: Callable[[], object] | None = None) -> None:
        """A call is about to be made."""
        fault = self.fault
        busy = getattr(self.own, "busy", False)  # what this thread changes is our own doing
        if busy or self.over or fault.under not in where or os.getpid() != self.process:
            return
        self.since = self.since or fault.since in where
        if not self.since:
            return
        if fault.until and fault.until in where:
            self.over = True
            if fault.act == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            return
        self.own.busy = True
        try:
            self._count(what, where, half)
        finally:
            self.own.busy = False

    def _count(self, what: str, where: str, half: Callable[[], object] | None) -> None:
        fault = self.fault
        self.calls += 1
        if fault.journal is not None:
            self._note(fault.journal, what, where)
        if fault.at and self.calls >= fault.at and fault.act != "count":
            if fault.half and half is not None:
                half()
            if fault.act == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            _refuse(what, where)

    def _note(self, journal: str, what: str, where: str) -> None:
        import psutil

        line = {"call": self.calls, "memory": psutil.Process().memory_info().rss, "what": what, "where": where}
        with open(journal, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _refuse(what: str, where: str) -> None:
    """What a full disk answers; names are changed and files removed on it all the same."""
    reason = os.strerror(errno.ENOSPC)
    if what == "write":  # as safetensors words it
        from safetensors import SafetensorError

        raise SafetensorError(f"Error while serializing: I/O error: {reason} (os error {errno.ENOSPC})")
    if what in ("open", "os.mkdir", "fsync"):
        raise OSError(errno.ENOSPC, reason, where)


def _path_of(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:  # no Linux: the call is not counted
        return ""


def _begin(path: str, flags: int) -> None:
    """The first bytes of what was to be written, at the end of what is there unless that was to go."""
    with open(path, "wb" if flags & os.O_TRUNC else "ab") as file:
        file.write(b'{"')


def _half(write: Callable[[], object], filename: Any) -> None:
    write()
    os.truncate(filename, Path(filename).stat().st_size // 2)


if __name__ == "__main__":
    _main(sys.argv[2:], Fault(**json.loads(sys.argv[1])))
