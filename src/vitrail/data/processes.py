"""Batches prepared ahead by processes that are watched: one that dies or hangs ends the work, and its image is named.

torch's DataLoader is not used. It raises from a signal handler, wherever the main process stands, when a process
dies; it waits for ever on a process that was stopped, as it fetches the memory of each batch from it; and it leaves
that process behind. Here each process has a connection and memory of its own, so that none can hold up another.
"""

import atexit
import contextlib
import ctypes
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from vitrail.data.slots import Slot, open_slot
from vitrail.data.watch import Places, between, of_dead, of_hanging
from vitrail.errors import Failure, UserError

PATIENCE = 25.0  # seconds that a process may spend on one image
STARTING = 60.0  # seconds until it has begun, where it is not forked
GRACE = 1.0  # seconds in which it shows whether the whole work was told to stop
_POLL = 0.25  # seconds
_AHEAD = 2  # batches that a process may be ahead
_TRACEBACK = 8000  # characters
_PR_SET_PDEATHSIG = 1

Prepare = Callable[[int], Sequence[torch.Tensor]]


def load_in_processes(
    prepare: Prepare,
    numbers: Iterable[int],
    workers: int,
    name: Callable[[int], str],
    *,
    pin_memory: bool = False,
    stop: Callable[[], bool] | None = None,
) -> Iterator[list[torch.Tensor]]:
    """``prepare(number)`` for each number, in order. No process is left when this ends, however it ends.

    Args:
        prepare: runs in the processes, and says by ``watch.at`` at which sample it is.
        numbers: may be without end.
        workers: processes, at least 1.
        name: the name of a sample, for errors.
        pin_memory: give the tensors in page-locked memory.
        stop: asked while a batch is not ready, every quarter of a second; when it says so, there are no more batches.

    Raises:
        Failure: a process was killed, or has spent 25 seconds on one image.
        Exception: what ``prepare`` raised.
    """
    team = _Team(prepare, workers, name)
    tasks = enumerate(numbers)
    given = 0
    try:
        for turn, number in itertools.islice(tasks, workers * _AHEAD):
            team.give(turn, number)
            given += 1
        for turn in itertools.count():
            answer = team.answer(turn, stop) if turn < given else None
            if answer is None:
                return
            tensors = team.tensors(turn, answer, pin_memory)
            for task in itertools.islice(tasks, 1):
                team.give(*task)
                given += 1
            yield tensors
    finally:
        team.end()


@dataclass(frozen=True)
class _Member:
    """A process, and the ways to it."""

    process: Any  # multiprocessing's Process of whatever context
    connection: Connection
    slots: tuple[Slot | None, ...]


class _Team:
    """The processes: turn t is prepared by number t % workers, into the slots of it by turns."""

    def __init__(self, prepare: Prepare, workers: int, name: Callable[[int], str]) -> None:
        self._prepare, self._workers, self._name = prepare, workers, name
        self._context = multiprocessing.get_context()
        self._places = Places(self._context, workers)
        self._members: list[_Member] = []
        self._owner = os.getpid()
        # a process that is forked is there at once, another one imports everything anew
        self._starting = PATIENCE if self._context.get_start_method() == "fork" else STARTING
        atexit.register(self.end)  # before multiprocessing's own, which would wait for a stopped process for ever

    def give(self, turn: int, number: int) -> None:
        """Ask for a batch. Processes are started as they get something to do."""
        if len(self._members) < self._workers:
            self._members.append(self._started(len(self._members)))
        with contextlib.suppress(OSError):  # the process is dead, which shows when its batch is waited for
            self._members[turn % self._workers].connection.send((number, turn // self._workers % _AHEAD))

    def answer(self, turn: int, stop: Callable[[], bool] | None) -> Any:
        """The answer for a turn, or None if the work is to stop. Raises Failure."""
        process = turn % self._workers
        own = self._members[process]
        sentinels = [member.process.sentinel for member in self._members]
        quiet, count = 0.0, 0
        patience = 0.0
        while True:
            before = time.monotonic()
            ready = wait([own.connection, *sentinels], patience)
            patience = _POLL
            if any(sentinel in ready for sentinel in sentinels):
                return self._lost(stop)
            if ready:
                try:
                    return own.connection.recv()
                except (EOFError, OSError):
                    return self._lost(stop)
            if stop is not None and stop():
                return None
            # only time in which this process has run counts: both may have been stopped and continued
            quiet += min(time.monotonic() - before, 2 * _POLL)
            if self._places.count(process) != count:
                quiet, count = 0.0, self._places.count(process)
            if quiet > (PATIENCE if count else self._starting):
                sample = self._places.sample(process)
                raise Failure(of_hanging(None if sample is None else self._name(sample), quiet))

    def tensors(self, turn: int, answer: Any, pin_memory: bool) -> list[torch.Tensor]:
        """What an answer stands for. Raises what the process has raised."""
        if isinstance(answer, Exception):
            raise answer
        slot = self._members[turn % self._workers].slots[turn // self._workers % _AHEAD]
        if slot is not None:
            start, length = answer
            return slot.read(start, length, pin_memory)
        tensors = [torch.from_numpy(values) for values in answer]
        return [tensor.pin_memory() for tensor in tensors] if pin_memory else tensors

    def end(self) -> None:
        """Kill all processes, and wait until they are gone."""
        if os.getpid() != self._owner:
            return
        for member in self._members:
            member.process.kill()  # SIGTERM would not reach one that is stopped
        atexit.unregister(self.end)
        for member in self._members:
            member.process.join(5 * GRACE)  # one that the system itself cannot interrupt goes when it can
            member.connection.close()
            for slot in member.slots:
                if slot is not None:
                    slot.close()
        self._members = []

    def _started(self, process: int) -> _Member:
        here, there = self._context.Pipe()
        slots = tuple(open_slot() for _ in range(_AHEAD))
        server = self._context.get_start_method() == "forkserver"
        tied = server or threading.current_thread() is threading.main_thread()
        started = self._context.Process(
            target=_work, args=(self._prepare, self._places, process, there, slots, tied), daemon=True
        )
        with _signals_held():
            started.start()
        there.close()
        return _Member(started, here, slots)

    def _lost(self, stop: Callable[[], bool] | None) -> None:
        """Raise Failure for processes that have died, unless it was because everything is to stop."""
        deadline = time.monotonic() + GRACE
        while stop is not None and time.monotonic() < deadline:
            if stop():
                return
            time.sleep(_POLL / 5)
        found = wait([member.process.sentinel for member in self._members], GRACE)
        dead = [i for i, member in enumerate(self._members) if member.process.sentinel in found]
        for i in dead:
            self._members[i].process.join(GRACE)  # its files are closed a moment before its exit code can be had
        samples = [sample for i in dead if (sample := self._places.sample(i)) is not None]
        code = self._members[dead[0]].process.exitcode if dead else None
        raise Failure(of_dead(code, [self._name(sample) for sample in samples]))


_IGNORED = [
    getattr(signal, name) for name in ("SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU") if hasattr(signal, name)
]


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold signals back, here and in a process that is started, until it has settled what it does at them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [*_IGNORED, signal.SIGTERM])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(
    prepare: Prepare, places: Places, process: int, connection: Connection, slots: Sequence[Slot | None], tied: bool
) -> None:
    """What a loading process does: batches, until it is killed."""
    places.enter(process)
    for number in _IGNORED:  # what these mean is for the main process to say
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [*_IGNORED, signal.SIGTERM])
    _die_with_parent(tied)
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):  # the main process has gone
        while True:
            number, place = connection.recv()
            connection.send(_answer(prepare, number, slots[place]))
            between()


def _answer(prepare: Prepare, number: int, slot: Slot | None) -> Any:
    """Small, where there is a slot: it is sent in one piece, so that the main process never waits for a second one."""
    try:
        tensors = [tensor.contiguous() for tensor in prepare(number)]
        return [tensor.numpy() for tensor in tensors] if slot is None else slot.write(tensors)
    except Exception as error:
        return _sendable(error)


def _sendable(error: Exception) -> Exception:
    """An error as it can be sent, with the traceback of this process as a note, unless it is told in one line anyhow."""
    text = traceback.format_exc()[-_TRACEBACK:]
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        copy = None
    if type(copy) is not type(error):
        return Failure(f"{type(error).__name__} in a loading process: {error}")
    if not isinstance(copy, (UserError, Failure)):
        copy.add_note(f"in a loading process:\n{text}")
    return copy


def _die_with_parent(tied: bool) -> None:
    """See to it that this process does not outlive the main one, also where that is killed.

    A thread waits for that, but does not get its turn while a decoder hangs and holds Python's lock; Linux kills this
    process in any case. It does so when the *thread* that started it ends, so ``tied`` says whether that is the main one.
    """
    threading.Thread(target=_follow, daemon=True).start()
    if tied and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            os._exit(1)


def _follow() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
