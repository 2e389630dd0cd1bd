"""What is kept of a long job is what was found, is noticed when it is damaged, and belongs to that job alone."""

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from vitrail.batch import part
from vitrail.batch.flight import Flight
from vitrail.batch.job import Job, job_at
from vitrail.batch.part import Answer
from vitrail.errors import Failure, UserError
from vitrail.inputs import Source, file_source, stamp

IDENTITY = {"model": "small", "top": 3}


def answers(count: int, width: int = 0) -> list[Answer]:
    """Random answers, every fifth an error; with features where they have a width."""
    rng = np.random.default_rng(count)
    found = []
    for i in range(count):
        error = f"{i}: damaged" if i % 5 == 2 else None
        values = rng.normal(size=width).astype(np.float32) if width and error is None else None
        row = {"file": f"a\n{i}\udce9.png", "probability": float(rng.random(dtype=np.float32)), "error": error}
        found.append(Answer(row, values))
    return found


@pytest.mark.parametrize("width", [0, 7])
def test_a_part_gives_back_what_was_written(tmp_path: Path, width: int) -> None:
    written = answers(12, width)
    part.write(tmp_path / "p", written, "inputs")
    found = list(part.read(tmp_path / "p"))
    assert part.answered(tmp_path / "p") == "inputs"
    assert [a.row for a in found] == [a.row for a in written]
    for before, after in zip(written, found, strict=True):
        assert (before.values is None) == (after.values is None)
        np.testing.assert_array_equal(before.values, after.values)  # type: ignore[arg-type]


def test_a_part_with_any_byte_changed_or_missing_counts_for_nothing(tmp_path: Path) -> None:
    part.write(tmp_path / "p", answers(4, 3), "inputs")
    whole = (tmp_path / "p").read_bytes()
    for place in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        (tmp_path / "p").write_bytes(changed)
        assert part.answered(tmp_path / "p") is None
        (tmp_path / "p").write_bytes(whole[:place])
        assert part.answered(tmp_path / "p") is None
    with pytest.raises(Failure, match="damaged"):
        list(part.read(tmp_path / "p"))


def test_another_job_is_refused_by_what_differs_until_it_is_to_begin_anew(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    with job_at(out, lambda: IDENTITY, long=True) as job:
        job.store(0, answers(3), "x")
    with (
        pytest.raises(UserError, match=r"unfinished job with top 3, not 4: .*--restart"),
        job_at(out, lambda: {**IDENTITY, "top": 4}, long=True),
    ):
        pass
    with job_at(out, lambda: IDENTITY, long=False) as job:  # fewer images now: what was begun still counts
        assert job.answered(0) == "x"
    with job_at(out, lambda: {**IDENTITY, "top": 4}, long=True, restart=True) as job:
        assert not job.has(0)


def test_a_damaged_job_is_refused_in_one_line(tmp_path: Path) -> None:
    with job_at(tmp_path / "out.csv", lambda: IDENTITY, long=True) as job:
        (job.folder / "job.json").write_text("{")
    with (
        pytest.raises(UserError, match=r"job\.json is damaged: .*--restart"),
        job_at(tmp_path / "out.csv", lambda: IDENTITY, long=True),
    ):
        pass


@pytest.mark.parametrize("content", ["{", "[1]", "7", '{"1.png": "late"}', '{"1.png": {"stamp": 3}}', "\udcff"])
def test_a_damaged_list_of_images_set_aside_is_told_and_counts_for_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "1.png"
    path.write_bytes(random.Random(1).randbytes(5))
    source = Source("1.png", path.read_bytes, path=path)
    with job_at(tmp_path / "out.csv", lambda: IDENTITY, long=True) as job:
        job.set_aside(source, "crashes")
        (job.folder / "aside.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    said: list[str] = []
    with job_at(tmp_path / "out.csv", lambda: IDENTITY, long=True, say=said.append) as job:
        assert job.aside(source) is None
    assert len(said) == 1
    assert "aside.json is damaged" in said[0]


def test_what_differs_is_named_by_the_file_and_the_part_of_a_long_value(tmp_path: Path) -> None:
    def identity(digest: str, depth: int) -> dict[str, object]:
        model = f"ViTConfig(image_size=(224, 224), patch_size=16, classes=1000, channels=3, width=768, depth={depth})"
        return {"model": model, "weights": {"a.bin": digest * 64, "b.bin": "7" * 64}}

    with job_at(tmp_path / "out.csv", lambda: identity("1", 12), long=True):
        pass
    with pytest.raises(UserError) as refused, job_at(tmp_path / "out.csv", lambda: identity("2", 24), long=True):
        pass
    assert "with model ...depth=12), not ...depth=24); weights a.bin 11111111..., not 22222222...: " in str(
        refused.value
    )
    assert "b.bin" not in str(refused.value)


def test_what_a_person_has_put_beside_the_parts_stays_and_stops_nothing(tmp_path: Path) -> None:
    with job_at(tmp_path / "out.csv", lambda: IDENTITY, long=True) as job:
        (job.folder / "mine").mkdir()
        (job.folder / "mine" / "note.txt").write_text("keep")
        job.store(0, answers(2), "x")
        job.target.write_text("whole")
        job.deliver()
    assert (tmp_path / "out.csv").read_text() == "whole"
    assert sorted(path.name for path in job.folder.rglob("*")) == ["mine", "note.txt"]
    with job_at(tmp_path / "out.csv", lambda: {"another": "job"}, long=True) as job:  # nothing is left of the first
        assert not job.has(0)


def _hold(out: Path, ready: "multiprocessing.synchronize.Event") -> None:  # type: ignore[name-defined]
    with job_at(out, lambda: IDENTITY, long=True):
        ready.set()
        multiprocessing.Event().wait(60)


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrail.batch.job._PATIENCE", 0.2)
    context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "out.csv", ready))
    holder.start()
    try:
        assert ready.wait(30)
        with (
            pytest.raises(UserError, match="is being written by another process"),
            job_at(tmp_path / "out.csv", lambda: IDENTITY, long=True),
        ):
            pass
    finally:
        holder.kill()
        holder.join()
    with job_at(tmp_path / "out.csv", lambda: IDENTITY, long=True) as job:
        assert job.found()


def test_a_second_process_goes_on_when_the_first_is_done_and_has_removed_its_folder(tmp_path: Path) -> None:
    first, second = (Job(tmp_path / "out.csv", lambda: IDENTITY, print) for _ in range(2))
    first.keep()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second.keep)
        time.sleep(0.3)
        first.discard()
        first.release()
        waiting.result(timeout=20)
    assert second.found()
    second.release()


_TRIES = """
import time
from vitrail.batch import trial
from vitrail.batch.flight import Flight
def hangs():
    print(__import__("os").getpid(), flush=True)
    time.sleep(600)
list(trial.crashes([hangs], Flight()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it ends within a minute")
def test_what_tries_an_image_ends_with_the_process_that_has_it_tried() -> None:
    import psutil

    process = subprocess.Popen([sys.executable, "-c", _TRIES], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 5
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_an_edit_whose_time_was_set_back_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    source, status = file_source("a.png", path), path.stat()
    before = stamp(source)
    time.sleep(0.02)
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert stamp(source) != before


def test_delivering_leaves_the_output_alone(tmp_path: Path) -> None:
    with job_at(tmp_path / "out.csv", lambda: IDENTITY, long=True) as job:
        job.store(0, answers(2), "x")
        job.target.write_text("whole")
        job.deliver()
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    assert (tmp_path / "out.csv").read_text() == "whole"


def test_a_short_job_makes_no_folder_unless_an_image_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "1.png"
    path.write_bytes(random.Random(0).randbytes(5))
    source = Source("1.png", path.read_bytes, path=path)
    with job_at(tmp_path / "out.csv", lambda: IDENTITY, long=False) as job:
        job.store(0, answers(2), "x")
        assert [a.row for a in job.answers(1)] == [a.row for a in answers(2)]
        assert not job.folder.exists()
        assert job.target == tmp_path / "out.csv"
        job.set_aside(source, "crashes")
    with job_at(tmp_path / "out.csv", lambda: IDENTITY, long=False) as job:
        assert job.aside(source) == "crashes"
        path.write_bytes(b"another picture")
        assert job.aside(source) is None


def test_a_full_disk_is_one_clear_error_and_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with job_at(tmp_path / "out.csv", lambda: IDENTITY, long=True) as job:
        job.store(0, answers(2), "x")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with (
        pytest.raises(Failure, match=r"the disk is full\): what is done is kept, and the same command goes on"),
        job_at(tmp_path / "out.csv", lambda: IDENTITY, long=True) as job,
    ):
        monkeypatch.setattr("vitrail.weights.replace.sync", full)
        job.store(1, answers(2), "y")
    monkeypatch.undo()
    with job_at(tmp_path / "out.csv", lambda: IDENTITY, long=True) as job:
        assert (job.answered(0), job.answered(1)) == ("x", None)
        assert sorted(p.name for p in job.folder.iterdir()) == ["000000.part", "job.json", "lock"]
        assert json.loads((job.folder / "job.json").read_text()) == IDENTITY


def test_the_identity_is_asked_for_only_where_something_is_kept(tmp_path: Path) -> None:
    def never() -> dict[str, object]:
        raise AssertionError("digesting weights takes time")

    with job_at(tmp_path / "out.csv", never, long=False) as job:
        job.store(0, answers(1), "x")
        assert isinstance(job, Job)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="one process works alone on this system")
def test_another_process_sees_what_is_being_decoded() -> None:
    flight = Flight()
    child = os.fork()
    if child == 0:
        flight.total, flight.done = 10, 4
        with flight.decoding(7), flight.decoding(8):  # one thread: the later one
            os._exit(0)
    os.waitpid(child, 0)
    assert (flight.total, flight.done, flight.aloft(), flight.aloft(60)) == (10, 4, [8], [])
    flight.suspects = flight.aloft()
    flight.land()
    assert (flight.aloft(), flight.suspects) == ([], [8])
