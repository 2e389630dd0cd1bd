"""Very many predictions with bad files among them: each input once, each bad one with its reason, memory flat."""

import json
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import psutil

from torture.pictures import many, picture, tiny_model
from torture.processes import Running, fresh
from torture.trial import Trial

_GROWTH = 24e6  # bytes between a tenth of the files and all of them: names, and what the allocator keeps


def predictions(trial: Trial) -> None:
    """A tenth of the files first, to compare the memory with, then all of them."""
    n = trial.size(10_000, 2_000)
    each = n // 1000
    row = trial.count("predictions, each input once", n)
    bad = trial.count(f"of them bad, in {len(_BAD)} ways, told with a reason", each * len(_BAD))
    flat = trial.count("memory no higher than for a tenth of them", 1)
    model = tiny_model(trial)
    peaks = []
    for name, count in (("tenth", n // 10), ("all", n)):
        folder = trial.folder / name
        wrong = _fill(folder, count, max(1, each * count // n), trial.seed)
        out = trial.folder / f"{name}.jsonl"
        argv = ["predict", str(model), str(folder), "--out", str(out), "--top", "1"]
        process = fresh(argv, trial.folder / f"{name}.log")
        peaks.append(_peak(process, trial))
        code = process.wait(trial.left(60))
        if code != 0:
            row.add(f"{name}: exit code {code}: {process.last_lines()}")
            return
    inputs = {str(path) for path in folder.rglob("*") if path.suffix in _SUFFIXES}
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    files = [line["file"] for line in lines]
    row.add(None, len(inputs & set(files)))
    for name in sorted(inputs - set(files)):
        row.add(f"{name} is missing")
    if len(files) != len(set(files)) or set(files) - inputs:
        row.add(f"{len(files)} rows for {len(inputs)} inputs")
    reasons = {line["file"]: line.get("error") for line in lines}
    for path in wrong:
        reason = reasons.get(str(path)) or ""
        bad.add(None if len(reason) > len(str(path)) else f"{path.name} has no reason: {reason!r}")
    told = sum(error is not None for error in reasons.values())
    if told != len(wrong):
        bad.add(f"{told} errors for {len(wrong)} bad files")
    growth = peaks[1] - peaks[0]
    flat.add(None if growth < _GROWTH else f"{growth / 1e6:.0f} MB more for {n:,} files than for {n // 10:,}")


def _peak(process: Running, trial: Trial) -> float:
    """The most memory that the process and what belongs to it had, in bytes."""
    most = 0.0

    def look() -> bool:
        nonlocal most
        now = 0
        try:
            leader = psutil.Process(process.pid)
            for part in (leader, *leader.children(recursive=True)):
                now += part.memory_info().rss
        except psutil.Error:
            pass
        most = max(most, now)
        return process.code() is not None

    process.watch(look, trial.left(500), pause=0.02)
    return most


def _fill(folder: Path, n: int, each: int, seed: int) -> list[Path]:
    """``n`` inputs, ``each`` times every kind of bad file among them; the bad ones."""
    many(folder, n - each * len(_BAD), seed)
    wrong = []
    for k in range(each):
        for kind, (suffix, make) in _BAD.items():
            path = folder / "000" / f"{k * 37:06d}-{kind}.{suffix}"
            make(path, seed + k)
            wrong.append(path)
    return wrong


def _bomb(path: Path, seed: int) -> None:
    """A PNG of a few bytes that says it is 60,000 pixels wide and high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def _cut(kind: str, share: float) -> Callable[[Path, int], None]:
    def make(path: Path, seed: int) -> None:
        data = picture(seed, 0, kind)
        path.write_bytes(data[: int(share * len(data))])

    return make


_BAD: dict[str, tuple[str, Callable[[Path, int], object]]] = {
    "empty": ("jpg", lambda path, seed: path.write_bytes(b"")),
    "cut-jpeg": ("jpg", _cut("JPEG", 0.4)),
    "cut-png": ("png", _cut("PNG", 0.5)),
    "random": ("png", lambda path, seed: path.write_bytes(random.Random(seed).randbytes(500))),
    "text": ("jpg", lambda path, seed: path.write_text("not a picture\n", encoding="utf-8")),
    "folder": ("jpg", lambda path, seed: path.mkdir()),
    "dangling": ("jpg", lambda path, seed: path.symlink_to(path.parent / "gone.jpg")),
    "fifo": ("jpg", lambda path, seed: os.mkfifo(path)),
    "bomb": ("png", _bomb),
    "riff": ("webp", lambda path, seed: path.write_bytes(b"RIFF\x10\x00\x00\x00WEBPVP9?" + bytes(16))),
}
_SUFFIXES = {".jpg", ".png", ".webp"}
