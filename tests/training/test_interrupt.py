"""Signals: a run finishes its step and saves; it never waits for ever."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_train import assert_same_run, quick

import vitrail
from vitrail.training.interrupt import Stopped, StopRequest, stop_requests
from vitrail.training.validation import Validation


@pytest.mark.parametrize(
    ("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 143), ("SIGUSR2", 143), ("SIGXCPU", 143)]
)
def test_each_signal_is_noted_while_there_is_something_to_finish(name: str, code: int) -> None:
    with stop_requests() as stop, stop.deferred():
        assert not stop.asked
        signal.raise_signal(getattr(signal, name))
        signal.raise_signal(getattr(signal, name))  # a second one does no harm
        signal.raise_signal(signal.SIGTERM)
        assert stop.exit_code == code


def test_where_there_is_nothing_to_finish_a_signal_stops_at_once() -> None:
    with stop_requests() as stop:
        with pytest.raises(Stopped, match="nothing has changed") as raised:
            signal.raise_signal(signal.SIGTERM)
        assert raised.value.exit_code == 143
        signal.raise_signal(signal.SIGTERM)
    with stop_requests() as stop:
        stop.at_once("trained, but not finished")
        with pytest.raises(Stopped, match="trained, but not finished"):
            signal.raise_signal(signal.SIGINT)


def test_a_run_that_ends_by_an_error_says_why_whatever_torchrun_sends() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(ZeroDivisionError), stop_requests() as stop:
            try:
                with stop.deferred():
                    _ = 1 // 0
            finally:
                signal.raise_signal(signal.SIGTERM)  # on the way out
                stop.last_word = True
        signal.raise_signal(signal.SIGTERM)  # and before the words are out
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_signals_are_given_back_and_ignored_ones_stay_ignored() -> None:
    before = signal.getsignal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with stop_requests() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.asked
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_stop_in_the_middle_of_an_evaluation_is_made_up_for(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vitrail.train(quick(), image_folder, out=tmp_path / "whole", quiet=True)
    for step in (4, 12):  # 12 is the last: only its evaluation is missing then
        parts = tmp_path / f"parts-{step}"
        original = Validation._between_batches

        def between(loop: Validation, done: int, total: int, step: int = step, original: object = original) -> None:
            if loop.state.step == step:
                loop.stop.exit_code = 143
            original(loop, done, total)  # type: ignore[operator]

        with monkeypatch.context() as patches:
            patches.setattr(Validation, "_between_batches", between)
            with pytest.raises(Stopped, match=f"stopped at step {step}, state saved"):
                vitrail.train(quick(), image_folder, out=parts, quiet=True)
        assert '"val"' not in (parts / "metrics.jsonl").read_text().splitlines()[-1]
        vitrail.train(out=parts, resume=True, quiet=True)
        assert_same_run(tmp_path / "whole", parts)


_WAITS_FOR_EVER = """
import socket, sys, time
from vitrail.training.interrupt import not_for_ever, stop_requests
here, there = socket.socketpair()
with stop_requests() as stop, stop.deferred():
    with not_for_ever(stop, patience=1.0):
        print("ready", flush=True)
        {wait}
        stop.settled = True
        time.sleep({after})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(
    ("wait", "after", "code"),
    [
        # As a collective operation does, this wait inside C never lets Python's own handler run.
        ("import ctypes; [ctypes.CDLL(None).recv(here.fileno(), ctypes.create_string_buffer(1), 1, 0) for _ in '12']", 0, 143),
        ("time.sleep(0.3)", 2.0, 0),
    ],
    ids=["waits in vain", "has agreed"],
)  # fmt: skip
def test_a_process_that_waits_for_one_that_is_gone_ends_by_itself(wait: str, after: float, code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _WAITS_FOR_EVER.format(wait=wait, after=after)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "ready\n"
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == code
    assert time.monotonic() - started < 10
    assert ("does not answer" in process.stderr.read()) == (code == 143)
    process.stdout.close()
    process.stderr.close()


def test_a_request_starts_unasked() -> None:
    assert not StopRequest().asked


def test_a_signal_while_the_last_checkpoint_is_written_stops_the_run(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitrail.training.saver import Saver

    original, run = Saver.wait, tmp_path / "run"

    def interrupted(saver: Saver) -> None:
        if (run / "checkpoints" / "step-00000012").exists() or any((run / "checkpoints").glob(".step-00000012.*")):
            signal.raise_signal(signal.SIGTERM)
        original(saver)

    with monkeypatch.context() as patches:
        patches.setattr(Saver, "wait", interrupted)
        with pytest.raises(Stopped, match="go on with"):
            vitrail.train(quick(), image_folder, out=run, quiet=True)
    assert not (run / "report.html").exists()
    vitrail.train(out=run, resume=True, quiet=True)
    vitrail.train(quick(), image_folder, out=tmp_path / "whole", quiet=True)
    assert_same_run(tmp_path / "whole", run)


def test_training_goes_on_though_nobody_reads_what_it_says(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed:
        encoding = "utf-8"

        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

        def isatty(self) -> bool:
            return False

    with monkeypatch.context() as patches:
        patches.setattr(sys, "stderr", Closed())
        result = vitrail.train(quick(), image_folder, out=tmp_path / "run")
    assert result.report.exists()
