"""A batch prediction that is killed again and again, and continued by the same command: the same bytes in the end.

So is one with files that crash the decoder, which takes the process with it: they are set aside, the rest is answered.
"""

import json
import signal
from dataclasses import dataclass, field
from pathlib import Path

from torture.pictures import many, picture, tiny_model
from torture.processes import Running, fresh
from torture.trial import Trial

_KILLS_A_JOB = 5
_CRASHING = 3
_PART = 1000  # images, four batches of 250: what may be lost by a kill
# What a process gets beside the product, as Python imports it at its start: a decoder that some bytes crash.
_DECODER = """
import os, signal
import vitrail.data.decode as decode
real = decode.open_image
def open_image(data, *arguments, **named):
    if data[:8] == b"SEGFAULT":
        os.kill(os.getpid(), signal.SIGSEGV)
    return real(data, *arguments, **named)
decode.open_image = open_image
"""


@dataclass
class _Job:
    """One prediction, and what is known of its finished parts: their names, and by what a new one would differ."""

    trial: Trial
    name: str
    model: Path
    pictures: Path
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        return self.trial.folder / f"{self.name}.jsonl"

    def start(self, log: str, env: dict[str, str] | None = None) -> Running:
        self.trial.left()
        argv = ["predict", str(self.model), str(self.pictures), "--out", str(self.out), "--batch-size", "250"]
        return fresh(argv, self.trial.folder / f"{self.name}-{log}.log", env=env)

    def finished(self) -> dict[str, tuple[int, int]]:
        """The parts that are there now."""
        folder = self.out.with_name(f".{self.out.name}.parts")
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("[0-9]*.part")}


def batch_kills(trial: Trial) -> None:
    """SIGKILL at random instants, of all its processes or of the first alone; then crashes of the decoder."""
    row = trial.count("kills of a batch prediction, to the same bytes", trial.size(20, 4))
    kept = trial.count("of them, with finished parts, which were kept", trial.size(8, 1))
    model, folder = tiny_model(trial), trial.folder / "pictures"
    many(folder, trial.size(6, 3) * _PART, trial.seed)
    whole = _Job(trial, "whole", model, folder)
    started = trial.seconds
    process = whole.start("log")
    if process.wait(trial.left(180)) != 0:
        raise RuntimeError(f"the prediction without any harm failed: {process.last_lines()}")
    seconds, jobs = trial.seconds - started, 0
    while row.tried < row.wanted or kept.tried < kept.wanted:
        job = _Job(trial, f"job-{jobs}", model, folder)
        kills = min(_KILLS_A_JOB, max(row.wanted - row.tried, kept.wanted - kept.tried))
        problem, done, with_parts = _killed(job, whole, seconds, kills)
        jobs += 1
        row.add(problem, done)
        kept.add(problem, with_parts)
    crashes = trial.count(f"predictions, {_CRASHING} files in each crash the decoder", trial.size(3, 1))
    for number in range(crashes.wanted):
        crashes.add(_crashes(trial, model, number))


def _killed(job: _Job, whole: _Job, seconds: float, kills: int) -> tuple[str | None, int, int]:
    """One job with its kills; what is wrong in the end, how many kills there were, and how many met finished parts."""
    problem: str | None = None
    done, met = 0, 0
    process = job.start("0")
    for number in range(kills):
        if number % 2 == 0:  # once one more part is finished
            process.watch(lambda: len(job.finished()) > len(job.parts), job.trial.left(120), pause=0.002)
            process.watch(lambda: False, job.trial.random.uniform(0, 0.1) * seconds)
        else:
            process.watch(lambda: False, job.trial.random.uniform(0.05, 0.6) * seconds)
        if process.code() is not None:  # it was done before the kill came
            break
        if job.trial.random.random() < 0.5:
            process.kill()
        else:
            process.send(signal.SIGKILL)
        process.wait(30)
        done += 1
        problem = problem or process.orphans(30)
        if job.out.exists():  # all was done, and the process only had to tidy up: the same once more
            problem = problem or _other_bytes(job, whole)
            job.out.unlink()
            job.parts = {}
        else:
            problem = problem or _lost_parts(job)
            job.parts = job.finished()
        process, before = job.start(f"{number + 1}"), len(job.parts)
        if before:
            met += 1
            if not process.says(f"going on: {before * _PART:,} of ", job.trial.left(60)):
                problem = problem or f"{before} parts are finished, and it says: {process.last_lines()}"
    if process.wait(job.trial.left(180)) != 0:
        problem = problem or f"it does not go on: {process.last_lines()}"
    problem = problem or _other_bytes(job, whole)
    others = [path.name for path in job.trial.folder.iterdir() if f"{job.out.name}." in path.name]
    if others:
        problem = problem or f"left behind: {', '.join(sorted(others))}"
    return None if problem is None else f"{job.name}: {problem}", done, met


def _other_bytes(job: _Job, whole: _Job) -> str | None:
    same = job.out.exists() and job.out.read_bytes() == whole.out.read_bytes()
    return None if same else "other bytes than those of the whole prediction"


def _lost_parts(job: _Job) -> str | None:
    """Whether a part that was finished before is gone, or written anew."""
    now = job.finished()
    anew = [name for name, identity in job.parts.items() if now.get(name) != identity]
    return f"{anew[0]} was finished, and was not kept" if anew else None


def _crashes(trial: Trial, model: Path, number: int) -> str | None:
    """Files that crash the decoder among many: their process is started again, and they are told; nothing else is lost."""
    job = _Job(trial, f"crashes-{number}", model, trial.folder / f"crashing-{number}")
    many(job.pictures, 1500, trial.seed)
    files = sorted(job.pictures.rglob("*.*"))
    wrong = trial.random.sample(files, _CRASHING)
    for path in wrong:
        path.write_bytes(b"SEGFAULT" + picture(trial.seed, number, "PNG"))
    faults = trial.folder / "faults"
    faults.mkdir(exist_ok=True)
    (faults / "sitecustomize.py").write_text(_DECODER, encoding="utf-8")
    process = job.start("log", {"PYTHONPATH": str(faults)})
    if process.wait(trial.left(180)) != 0:
        return f"it does not go on: {process.last_lines()}"
    rows = [json.loads(line) for line in job.out.read_text(encoding="utf-8").splitlines()]
    if [row["file"] for row in rows] != [str(path) for path in files]:
        return f"{len(rows)} rows for {len(files)} inputs, or in another order"
    told = {row["file"]: row["error"] for row in rows if row.get("error") is not None}
    if set(told) != {str(path) for path in wrong}:
        return f"set aside are {sorted(told)}, and not {sorted(map(str, wrong))}"
    if not all("crashes the decoder" in reason for reason in told.values()):
        return f"the reason is not told: {told}"
    return process.orphans(5)
