"""``predict --out`` and ``embed`` as processes: killed and continued, stopped, and met with files that crash the decoder."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitrail
from vitrail.cli.predict import Errors, kind_of
from vitrail.data.preprocess import Preprocess
from vitrail.model import ViT, ViTConfig

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="one process works alone on this system")

# What a process gets beside the product: an image's first bytes say how the decoder misbehaves.
FAULTS = """
import os, signal, time
import vitrail.data.decode as decode
real = decode.open_image
def open_image(data, *arguments, **named):
    if data[:8] == b"SEGFAULT":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data[:8] == b"HANGHANG":
        time.sleep(600)
    if os.environ.get("SLOW"):
        time.sleep(float(os.environ["SLOW"]))
    return real(data, *arguments, **named)
decode.open_image = open_image
"""
BATCH = 250  # parts of four batches: 1,000 images


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, 2,500 images, and a module that brings faults."""
    root = tmp_path_factory.mktemp("batch")
    torch.manual_seed(0)
    vit = ViT(ViTConfig(image_size=(16, 16), patch_size=8, classes=3, width=16, depth=1, heads=2, mlp_width=16))
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    vit.preprocess, vit.labels = Preprocess((16, 16)), ("a", "b", "c")
    vitrail.save(vit, root / "model")
    rng = np.random.default_rng(0)
    for i in range(2500):
        folder = root / "images" / str(i // 500)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i:04d}.png")
    (root / "faults").mkdir()
    (root / "faults" / "sitecustomize.py").write_text(FAULTS)
    return root


def start(place: Path, command: str, images: str, out: Path, **env: str) -> "subprocess.Popen[str]":
    """A command in a session of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VITRAIL_DEVICE": "cpu", "COLUMNS": "200", **env}
    return subprocess.Popen(
        [sys.executable, "-m", "vitrail", command, "model", images, "--out", str(out), "--batch-size", str(BATCH)],
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Its exit code, and what it said."""
    _, err = process.communicate(timeout=120)
    return process.returncode, err


def until(process: "subprocess.Popen[str]", path: Path) -> None:
    """Wait until a file is there."""
    for _ in range(6000):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError(f"{path} does not come")


def alive(session: int) -> Iterator[int]:
    """The processes of a session, on Linux."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(state[3]) == session and state[0] != "Z":
                yield int(entry.name)


@pytest.fixture(scope="module")
def whole(place: Path) -> bytes:
    """The output of a run that nothing interrupts."""
    process = start(place, "predict", "images", place / "whole.jsonl")
    assert end(process) == (0, "")
    rows = [json.loads(line) for line in (place / "whole.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == [f"images/{i // 500}/{i:04d}.png" for i in range(2500)]
    assert not (place / ".whole.jsonl.parts").exists()
    return (place / "whole.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["group", "main"])
def test_killed_and_continued_the_output_is_that_of_an_uninterrupted_run(
    place: Path, whole: bytes, tmp_path: Path, target: str
) -> None:
    out = tmp_path / "out.jsonl"
    parts = tmp_path / ".out.jsonl.parts"
    chance = random.Random(target)
    for number in range(2):
        process = start(place, "predict", "images", out)
        until(process, parts / f"{number:06d}.part")
        time.sleep(chance.random() * 0.05)
        if target == "group":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.communicate()  # returns when the last process that could write to it is gone
        assert not out.exists()
    if sys.platform == "linux":
        assert not list(alive(process.pid))
    code, err = end(start(place, "predict", "images", out))
    assert code == 0
    assert "going on: " in err
    assert out.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_stop_it_stops_at_once_and_goes_on_later(
    place: Path, whole: bytes, tmp_path: Path, number: int, code: int
) -> None:
    out = tmp_path / "out.jsonl"
    process = start(place, "predict", "images", out, PYTHONPATH=str(place / "faults"), SLOW="0.002")
    until(process, tmp_path / ".out.jsonl.parts" / "000000.part")
    asked = time.monotonic()
    os.killpg(process.pid, number)  # as a terminal does, and twice, as people do
    process.send_signal(number)
    ended, err = end(process)
    assert time.monotonic() - asked < 10
    assert ended == code
    assert "stopped: 1,000 of 2,500 images done; the same command goes on from there" in err
    assert end(start(place, "predict", "images", out))[0] == 0
    assert out.read_bytes() == whole


@pytest.mark.slow
def test_an_image_that_crashes_the_decoder_is_set_aside_and_the_rest_goes_on(
    place: Path, whole: bytes, tmp_path: Path
) -> None:
    names = [f"images/{i // 500}/{i:04d}.png" for i in (3, 1700)]
    before = {name: (place / name).read_bytes() for name in names}
    try:
        for name in names:
            (place / name).write_bytes(b"SEGFAULT")
        process = start(place, "predict", "images", tmp_path / "out.jsonl", PYTHONPATH=str(place / "faults"))
        code, err = end(process)
    finally:
        for name, content in before.items():
            (place / name).write_bytes(content)
    assert code == 0
    assert "2 of 2500 images cannot be read" in err
    assert f"2  crashes the decoder: {', '.join(names)}" in err
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for row, line in zip(rows, whole.decode().splitlines(), strict=True):
        expected = json.loads(line)
        if row["file"] in names:
            assert row["error"] == f"{row['file']}: crashes the decoder (signal 11: SIGSEGV)"
        else:
            assert row["label"] == expected["label"]
            assert row["probability"] == pytest.approx(expected["probability"], rel=1e-5)  # batches of one less
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


@pytest.mark.slow
def test_features_of_an_interrupted_run_are_those_of_a_whole_one(place: Path, tmp_path: Path) -> None:
    for name in ("whole.npz", "killed.npz"):
        process = start(place, "embed", "images/*/*.png", tmp_path / name)
        if name == "killed.npz":
            until(process, tmp_path / ".killed.npz.parts" / "000000.part")
            process.kill()
            process.communicate()
            process = start(place, "embed", "images/*/*.png", tmp_path / name)
        assert end(process)[0] == 0
    assert (tmp_path / "whole.npz").read_bytes() == (tmp_path / "killed.npz").read_bytes()
    with np.load(tmp_path / "whole.npz") as found:
        np.savez(tmp_path / "numpy.npz", **{key: found[key] for key in found.files})
    assert (tmp_path / "numpy.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


@pytest.mark.slow
def test_ten_kinds_of_bad_files_are_listed_each_with_its_reason(place: Path, tmp_path: Path) -> None:
    good = sorted((place / "images" / "0").iterdir())[0].read_bytes()
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (60, 60, 3), dtype=np.uint8)).save(folder / "cut.jpg")
    reasons = {
        "bomb.png": "more than the limit",
        "cut.jpg": "damaged or incomplete image",
        "cut.png": "damaged",
        "empty.jpg": "an empty file",
        "folder.jpg": "Is a directory",
        "gone.png": "No such file",
        "link.png": "No such file",
        "noise.jpg": "not an image in a format",
        "pipe.jpg": "a pipe, and no file",
        "text.png": "not an image in a format",
        "unknown.tif": "not an image in a format",
    }
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:900])
    (folder / "cut.png").write_bytes(good[:60])
    (folder / "empty.jpg").touch()
    (folder / "folder.jpg").mkdir()
    (folder / "link.png").symlink_to("nowhere.png")
    (folder / "noise.jpg").write_bytes(rng.bytes(500))
    os.mkfifo(folder / "pipe.jpg")
    (folder / "text.png").write_text("no picture")
    (folder / "unknown.tif").write_bytes(b"8BPS" + rng.bytes(400))
    Image.new("1", (30_000, 30_000)).save(folder / "bomb.png")
    if os.geteuid():  # root reads everything
        (folder / "closed.png").write_bytes(good)
        (folder / "closed.png").chmod(0)
        reasons["closed.png"] = "Permission denied"
    for i in range(40):
        (folder / f"good{i}.png").write_bytes(good)
    (folder.parent / "list.csv").write_text(
        "file_name\n" + "".join(f"images/{name}\n" for name in [*os.listdir(folder), "gone.png"])
    )
    for inputs, out in ((str(folder), "a.jsonl"), (str(tmp_path / "list.csv"), "b.jsonl")):
        code, err = end(start(place, "predict", inputs, tmp_path / out))
        assert code == 0
        rows = [json.loads(line) for line in (tmp_path / out).read_text().splitlines()]
        bad = {Path(row["file"]).name: row["error"] for row in rows if "error" in row}
        expected = dict(reasons)
        if inputs == str(folder):
            del expected["gone.png"]
        assert bad.keys() == expected.keys()
        for name, reason in expected.items():
            assert reason in bad[name]
        assert len(rows) == 40 + len(expected)
        assert f"{len(expected)} of {len(rows)} images cannot be read" in err
        assert sum(int(line.split()[0]) for line in err.splitlines()[1:]) == len(expected)


def test_an_image_that_takes_for_ever_is_set_aside(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitrail.batch import trial
    from vitrail.batch.flight import Flight

    monkeypatch.setattr(trial, "PATIENCE", 1.0)
    waits = [lambda: None, lambda: time.sleep(30), lambda: 1 / 0, lambda: os.kill(os.getpid(), signal.SIGKILL)]
    found = list(trial.crashes(waits, Flight()))
    assert found == [(1, "is not read within 1 s"), (3, "crashes the decoder (signal 9: SIGKILL)")]


def test_errors_are_counted_by_kind_with_a_few_names() -> None:
    errors = Errors()
    for i in range(5):
        errors.add(f"{i}.png", f"{i}.png: damaged or incomplete image (broken at byte {i})")
    errors.add("x", "x: 20000x30000 pixels are more than the limit of 100; make it smaller")
    assert errors.lines() == [
        "     5  damaged or incomplete image: 0.png, 1.png, 2.png, ...",
        "     1  more pixels than the limit of 100; make it smaller: x",
    ]
    assert kind_of("cannot be read (No such file or directory)") == "cannot be read (No such file or directory)"
    for i in range(100):
        errors.add(f"{i}", f"{i}: reason {i}")
    assert len(errors.lines()) <= 22
    assert errors.count == 106
