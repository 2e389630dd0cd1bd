"""Signals that ask a run to stop: the step is finished and the state saved, then the run stops.

Ctrl-C (SIGINT) and SIGTERM; SIGUSR1, SIGUSR2 and SIGXCPU, by which batch systems announce the end of the time or of the
machine that a job was given; and SIGHUP, a terminal that has gone, unless it is ignored (nohup).
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
_INTERRUPTED, _TERMINATED = 130, 143
# seconds in which processes that train together must have agreed to stop; torchrun kills them after 30
_PATIENCE = 25.0


class Stopped(BaseException):
    """The run was asked to stop and has saved its state; ``exit_code`` is 130 (Ctrl-C), or 143 (any other signal).

    Like KeyboardInterrupt it is no Exception: a signal may come in the middle of anything that catches those.
    """

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StopRequest:
    """Whether the run has been asked to stop, and with which code it is to exit.

    Outside of ``deferred`` there is nothing to finish or to save, and a signal raises ``Stopped`` at once.
    """

    exit_code: int | None = None
    settled = False
    """Whether the processes that train together have agreed to stop, and are doing so."""

    last_word = False
    """Whether the run is ending by itself as another process is gone, and is to say so whatever torchrun sends it."""

    def __init__(self) -> None:
        self._deferred = False
        self._at_once = ""

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return self.exit_code is not None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within the context a signal is only noted, for whoever asks ``asked`` between two steps.

        If an error ends it, signals are noted from there on too: the run is about to end, and is to say why.
        """
        self._deferred = True
        yield
        self._deferred = False

    def at_once(self, message: str) -> None:
        """From here on, a signal outside of ``deferred`` stops the run with this message."""
        self._at_once = message

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            return  # the first signal is being obeyed: a second one does no harm
        self.exit_code = _INTERRUPTED if number == signal.SIGINT else _TERMINATED
        if not self._deferred:
            self.settled = True
            raise Stopped(self.exit_code, self._at_once or "stopped before the first step: nothing has changed")


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within the context the signals that ask to stop are noted; in another thread than the main one, they are others'.

    After ``last_word`` SIGTERM is ignored from there on: torchrun sends it to what a lost process leaves behind, and
    SIGKILL to what does not end.
    """
    request = StopRequest()
    previous = {}
    try:
        for name in _NAMES:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, request._note)
    except ValueError:  # not the main thread
        yield request
        return
    try:
        yield request
    finally:
        for number, handler in previous.items():
            ignored = request.last_word and number == signal.SIGTERM
            signal.signal(number, signal.SIG_IGN if ignored else handler)


@contextmanager
def not_for_ever(stop: StopRequest, patience: float = _PATIENCE) -> Iterator[None]:
    """End the process if it is told to stop and cannot, as it waits for another process that is gone.

    A thread sees the signal even while the main thread waits inside a collective operation, where Python's own handlers
    have to wait too. After ``patience`` seconds in which the processes have not agreed to stop, it says so and exits.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    stopping = {int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name)}

    def watch() -> None:
        while numbers := reader.recv(16):
            if stopping & set(numbers):
                break
        else:
            return  # closed: the context is left
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if stop.settled:
                return
            time.sleep(0.1)
        rank = os.environ.get("RANK", "0")
        print(
            f"[process {rank}] stopped without saving, as another process does not answer: --resume goes on from the "
            "last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(_TERMINATED)

    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.settled = True
        signal.set_wakeup_fd(previous)
        writer.close()
        watcher.join(timeout=1.0)
        reader.close()
