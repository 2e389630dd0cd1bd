"""Loading processes that are killed, hang or are stopped: told by the image in time, and none is left behind."""

import contextlib
import faulthandler
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from pictures import encode, smooth

from vitrail.data import processes, slots
from vitrail.data.augment import Augment
from vitrail.data.batches import Batch, TrainBatches, eval_batches
from vitrail.data.decode import ImageError
from vitrail.data.preprocess import Preprocess
from vitrail.data.samples import Samples
from vitrail.errors import Failure

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals are sent to processes")

PREPROCESS = Preprocess((8, 8))
IMAGES = [encode(smooth(12, 10, seed=number), "PNG") for number in range(12)]
BAD = 7


@dataclass(frozen=True)
class Reader:
    """Reads an image of ``IMAGES``; at number ``BAD``, and at others that ``slow`` makes slow, something happens."""

    happens: Callable[[], object] = int
    slow: float = 0.0

    def __call__(self, index: int) -> bytes:
        time.sleep(self.slow)
        if index == BAD:
            self.happens()
        return IMAGES[index]


def samples(happens: Callable[[], object] = int, slow: float = 0.0) -> Samples:
    names = [f"cats/{number:02d}.png" for number in range(12)]
    return Samples(names, np.arange(12) % 3, ("a", "b", "c"), Reader(happens, slow))


def hang() -> None:
    time.sleep(1000)


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def dies_of(number: int) -> Callable[[], object]:
    def die() -> None:
        faulthandler.disable()  # pytest's, which would print where it was
        os.kill(os.getpid(), number)

    return die


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    yield
    assert children() == []


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 1.5)


def children() -> list[psutil.Process]:
    """Without the process that multiprocessing keeps for ever, once another test has needed it."""
    found = psutil.Process().children()
    return [child for child in found if "resource_tracker" not in " ".join(child.cmdline())]


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGKILL, r"signal 9 \(SIGKILL\) while at cats/07\.png: .*memory.*--workers"),
        (signal.SIGSEGV, r"signal 11 \(SIGSEGV\) while at cats/07\.png: that image may crash the decoder"),
        (signal.SIGTERM, r"signal 15 \(SIGTERM\) while at cats/07\.png: start again"),
    ],
)
def test_killed_process_is_told_with_its_image_at_once(number: int, told: str) -> None:
    began = time.monotonic()
    with pytest.raises(Failure, match=f"^a loading process was killed by {told}") as caught:
        list(eval_batches(samples(dies_of(number)), PREPROCESS, 2, workers=2))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 10


def test_process_that_ends_by_itself_is_told() -> None:
    with pytest.raises(Failure, match=r"ended early \(exit code 3\) while at cats/07\.png"):
        list(eval_batches(samples(lambda: os._exit(3)), PREPROCESS, 2, workers=2))


def test_idle_process_that_is_killed_is_told_though_others_have_batches_ready() -> None:
    loading = eval_batches(samples(), PREPROCESS, 1, workers=2)
    next(loading)
    time.sleep(0.3)  # both have prepared what they may
    children()[1].kill()
    with pytest.raises(Failure, match=r"signal 9 \(SIGKILL\) between two batches"):
        list(loading)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("happens", [hang, stop_itself])
def test_process_that_hangs_is_told_with_its_image(happens: Callable[[], object]) -> None:
    began = time.monotonic()
    with pytest.raises(Failure, match=r"^a loading process has been at cats/07\.png for [12] seconds: ") as caught:
        list(eval_batches(samples(happens), PREPROCESS, 2, workers=2))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 10


def test_patience_ends_within_half_a_minute() -> None:
    assert processes.PATIENCE + 2 * processes.GRACE + processes._POLL < 30


@pytest.mark.usefixtures("impatient")
def test_processes_stopped_between_batches_hold_nothing_up_for_ever() -> None:
    loading = eval_batches(samples(), PREPROCESS, 1, workers=2)
    found = [next(loading)]
    time.sleep(0.3)
    for child in children():
        child.suspend()
    with pytest.raises(Failure, match=r"has not begun its batch for [12] seconds"):
        for batch in loading:
            found.append(batch)
    assert len(found) == 5  # all that was ready is given, though its makers answer no more


@pytest.mark.usefixtures("impatient")
def test_slow_process_that_goes_on_is_no_error() -> None:
    few = samples(slow=0.6).subset(range(4))  # 2.4 seconds for a batch, more than the patience for an image
    assert [len(batch.targets) for batch in eval_batches(few, PREPROCESS, 4, workers=1)] == [4]


@pytest.mark.usefixtures("impatient")
def test_time_of_the_trainer_is_not_held_against_the_processes() -> None:
    loading = eval_batches(samples(slow=0.1), PREPROCESS, 1, workers=1)
    next(loading)
    time.sleep(2)
    assert len(list(loading)) == 11


def test_processes_are_gone_when_the_iteration_is_closed_early() -> None:
    endless = iter(TrainBatches(samples(), PREPROCESS, Augment(), batch_size=4, seed=0, workers=3))
    next(endless)
    assert len(children()) == 3
    children()[0].suspend()
    endless.close()
    assert children() == []


def test_few_batches_start_few_processes() -> None:
    loading = eval_batches(samples(), PREPROCESS, 6, workers=8)
    next(loading)
    assert len(children()) == 2
    loading.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_stop_ends_the_iteration_without_an_error(workers: int) -> None:
    told: list[int] = []
    loading = eval_batches(samples(slow=0.2), PREPROCESS, 1, workers=workers, stop=lambda: len(told) > 2)
    for batch in loading:
        told.append(len(batch.targets))
    assert 3 <= len(told) <= 7


def test_stop_is_heard_while_a_read_hangs() -> None:
    began = time.monotonic()
    batches = eval_batches(samples(hang), PREPROCESS, 2, workers=2, stop=lambda: time.monotonic() > began + 1)
    assert len(list(batches)) == 3
    assert time.monotonic() - began < 3


def test_process_that_dies_of_the_signal_that_stops_everything_is_no_error() -> None:
    began = time.monotonic()
    loading = eval_batches(
        samples(dies_of(signal.SIGTERM)), PREPROCESS, 2, workers=2, stop=lambda: time.monotonic() > began + 0.8
    )
    assert len(list(loading)) <= 3
    with pytest.raises(Failure, match="SIGTERM"):
        list(eval_batches(samples(dies_of(signal.SIGTERM)), PREPROCESS, 2, workers=2, stop=lambda: False))


def test_signals_for_the_main_process_do_not_disturb_the_others() -> None:
    loading = eval_batches(samples(slow=0.05), PREPROCESS, 1, workers=2)
    next(loading)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        for child in children():
            child.send_signal(number)
    assert len(list(loading)) == 11


def test_handlers_of_the_main_process_are_not_run_in_the_others() -> None:
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        with pytest.raises(Failure, match="SIGTERM"):
            list(eval_batches(samples(dies_of(signal.SIGTERM)), PREPROCESS, 2, workers=2))
        assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.signal(signal.SIGTERM, before)


def test_unexpected_error_keeps_its_type_and_its_traceback() -> None:
    def fails() -> None:
        raise KeyError("a fault of ours")

    with pytest.raises(KeyError, match="a fault of ours") as caught:
        list(eval_batches(samples(fails), PREPROCESS, 2, workers=2))
    assert "in fails" in "".join(caught.value.__notes__)


def test_error_that_cannot_be_sent_is_told() -> None:
    class Odd(Exception):
        pass

    def fails() -> None:
        raise Odd("x")

    with pytest.raises(Failure, match="Odd in a loading process: x"):
        list(eval_batches(samples(fails), PREPROCESS, 2, workers=1))


def test_image_error_comes_as_it_was_raised() -> None:
    def vanishes() -> None:
        raise FileNotFoundError(2, "No such file or directory")

    with pytest.raises(ImageError, match=r"^cats/07\.png: cannot be read \(No such file or directory\)$") as caught:
        list(eval_batches(samples(vanishes), PREPROCESS, 2, workers=2))
    assert not hasattr(caught.value, "__notes__")


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets) and torch.equal(a.indices, b.indices)
        for a, b in zip(first, second, strict=True)
    )


def test_batches_are_the_same_without_the_memory_that_linux_has(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = list(eval_batches(samples(), PREPROCESS, 5))
    assert same(alone, list(eval_batches(samples(), PREPROCESS, 5, workers=2)))
    monkeypatch.delattr(os, "memfd_create")
    assert slots.open_slot() is None
    assert same(alone, list(eval_batches(samples(), PREPROCESS, 5, workers=2)))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_batches_are_the_same_however_processes_are_started(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = list(eval_batches(samples(), PREPROCESS, 5))
    context = processes.multiprocessing.get_context(method)
    monkeypatch.setattr(processes.multiprocessing, "get_context", lambda: context)
    with not_counted():
        assert same(alone, list(eval_batches(samples(), PREPROCESS, 5, workers=2)))
        with pytest.raises(Failure, match=r"signal 9 \(SIGKILL\) while at cats/07\.png"):
            list(eval_batches(samples(die), PREPROCESS, 2, workers=1))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def not_counted() -> Iterator[None]:
    """Processes that multiprocessing itself keeps for later, its server and its tracker, are ended."""
    from multiprocessing import forkserver, resource_tracker

    yield
    forkserver._forkserver._stop()
    resource_tracker._resource_tracker._stop()


def test_memory_of_a_slot_grows_with_what_is_written() -> None:
    slot = slots.open_slot()
    assert slot is not None
    other = slots.Slot(os.dup(slot._descriptor))  # as the other process has it
    generator = torch.Generator().manual_seed(0)
    for size in (3, 5000, 40, 90_000):
        tensors = [torch.randint(0, 256, (2, size), generator=generator).to(torch.uint8), torch.arange(size)]
        found = other.read(*slot.write(tensors), pin_memory=False)
        assert all(torch.equal(a, b) for a, b in zip(found, tensors, strict=True))
    slot.close()
    other.close()


def test_loading_again_and_again_keeps_no_descriptors() -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    list(eval_batches(samples(), PREPROCESS, 6, workers=2))
    before = open_files()
    for _ in range(5):
        list(eval_batches(samples(), PREPROCESS, 6, workers=2))
    assert open_files() == before


SCRIPT = """
import ctypes, os, signal, sys, time
sys.path.insert(0, {tests!r})
from test_watch import PREPROCESS, samples
from vitrail.data.augment import Augment
from vitrail.data.batches import TrainBatches, eval_batches
import psutil

def tell():
    print(*[child.pid for child in psutil.Process().children()], flush=True)
"""


@contextlib.contextmanager
def program(text: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A program of its own in a process group of its own; it prints the numbers of its loading processes first."""
    text = SCRIPT.format(tests=str(Path(__file__).parent)) + textwrap.dedent(text)
    started = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert started.stdout is not None
    line = started.stdout.readline()
    workers = [int(number) for number in line.split()]
    try:
        assert workers, started.communicate()[1]
        yield started, workers
        assert gone(workers)
    finally:
        for number in (started.pid, *workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        started.communicate()


def gone(numbers: list[int], within: float = 6.0) -> bool:
    """Whether processes end in time; a zombie that nobody has fetched has ended."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if not any(running(number) for number in numbers):
            return True
        time.sleep(0.05)
    return False


def running(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_no_process_outlives_a_main_process_that_is_killed() -> None:
    with program("""
        kept = []
        for happens in (
            int,  # it waits for work
            lambda: time.sleep(1000),
            lambda: ctypes.PyDLL(None).sleep(1000),  # with Python's lock held, as a decoder may hang
            lambda: os.kill(os.getpid(), signal.SIGSTOP),
        ):
            loading = eval_batches(samples(happens).subset([0, 7]), PREPROCESS, 1, workers=1)
            next(loading)
            kept.append(loading)
        time.sleep(0.5)
        tell()
        time.sleep(1000)
        """) as (main, workers):
        assert len(workers) == 4
        main.kill()
        main.wait()


@pytest.mark.slow
def test_program_that_ends_with_a_loading_open_is_not_held_up() -> None:
    with program("""
        loading = eval_batches(samples(lambda: os.kill(os.getpid(), signal.SIGSTOP)), PREPROCESS, 2, workers=2)
        next(loading)
        time.sleep(0.5)
        keep = [loading]
        sys.keep = keep
        tell()
        """) as (main, workers):
        assert len(workers) == 2
        assert main.wait(10) == 0


@pytest.mark.slow
def test_signal_to_the_whole_group_lets_the_main_process_end_as_it_wants() -> None:
    with program("""
        told = []
        signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
        signal.signal(signal.SIGINT, lambda number, frame: None)
        batches = TrainBatches(
            samples(slow=0.05), PREPROCESS, Augment(), batch_size=4, seed=0, workers=2, stop=lambda: bool(told)
        )
        for step, batch in enumerate(batches):
            if step == 2: tell()
            if told: break
        print("ended well", flush=True)
        """) as (main, workers):
        assert len(workers) == 2
        os.killpg(main.pid, signal.SIGINT)
        time.sleep(0.5)
        assert all(running(number) for number in (main.pid, *workers))
        os.killpg(main.pid, signal.SIGTERM)
        out, errors = main.communicate(timeout=20)
        assert (main.returncode, out, errors) == (0, "ended well\n", "")


def test_steps_are_the_same_for_any_number_of_processes() -> None:
    def stream(workers: int) -> list[Batch]:
        batches = TrainBatches(
            samples(), PREPROCESS, Augment(crop="random_resized"), batch_size=5, seed=3, workers=workers
        )
        return list(islice(batches, 9))

    alone = stream(0)
    assert all(same(alone, stream(workers)) for workers in (1, 2, 3))
