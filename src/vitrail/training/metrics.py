"""metrics.jsonl: one JSON object a logged step or evaluation. ``images_per_second`` alone depends on the clock."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.weights import replace

NAME = "metrics.jsonl"
REPORT = "report.html"  # beside it, once the run has come to its end
_DAMAGED = "metrics.damaged.jsonl"
_OF_THE_CLOCK = "images_per_second"
_TEXT = ("split", "files")  # the values that are no numbers


@dataclass(frozen=True)
class Logged:
    """What a run's metrics.jsonl holds, as its checkpoints keep it."""

    records: int
    sha256: str
    """Of the records in their order, as JSON without what depends on the clock, a line each."""


class MetricsLog:
    """Appends records to a run's metrics.jsonl, each line whole on disk before the next."""

    def __init__(self, run: Path) -> None:
        self.path = run / NAME
        self._count(read(self.path))

    @property
    def logged(self) -> Logged:
        """What it holds."""
        return Logged(self._records, self._digest.hexdigest())

    def _count(self, records: list[dict[str, Any]]) -> None:
        self._records, self._digest = 0, hashlib.sha256()
        for record in records:
            self._note(record)

    def _note(self, record: dict[str, Any]) -> None:
        self._records += 1
        of_the_run = {key: value for key, value in record.items() if key != _OF_THE_CLOCK}
        self._digest.update(f"{json.dumps(of_the_run)}\n".encode())

    def write(self, record: dict[str, Any]) -> None:
        """Append one line; keys that are None are left out."""
        record = {key: value for key, value in record.items() if value is not None}
        line = json.dumps(record)
        with self.path.open("ab", buffering=0) as file:
            rest = f"{line}\n".encode()  # in one piece, so that a crash cuts at most the last line short
            while rest:  # a full disk takes a part, and refuses the next
                rest = rest[file.write(rest) :]
        self._note(record)

    def scores(self, step: int) -> dict[str, float]:
        """What the evaluation after a step gave, by the names that a model's card has; empty if there was none."""
        found = [record for record in read(self.path) if record["split"] == "val" and record["step"] == step]
        return card_scores(found[-1]["top1"], found[-1]["loss"]) if found else {}

    def last_step(self) -> int:
        """The last step that a record is about; 0 without any."""
        return max((record["step"] for record in read(self.path)), default=0)

    def cut_after(self, step: int, evaluated: int, expected: Logged | None = None) -> str:
        """Drop what was logged after ``step``: a run that goes on from there writes it again.

        So it does with what follows the last evaluation that came to its end, at the step ``evaluated``, and with lines
        that are there twice. Where what is left is not what is ``expected``, the file as it was is kept beside, and what
        is wrong is returned; else nothing.
        """
        last = {"train": step, "skipped": step, "val": evaluated}
        before = [record for record in read(self.path) if record["step"] <= last.get(record["split"], -1)]
        kept = list({(record["step"], record["split"]): record for record in reversed(before)}.values())[::-1]
        self._count(kept)
        wrong = "" if expected in (None, self.logged) else self._compared(expected, step)
        if wrong and self.path.is_file():
            shutil.copy2(self.path, self.path.with_name(_DAMAGED))
        with replace.file(self.path) as staging:
            staging.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        return wrong

    def _compared(self, expected: Logged, step: int) -> str:
        lacks = expected.records - self._records
        what = (
            f"lacks {lacks} of the {expected.records} records" if lacks > 0 else "has other records than were written"
        )
        return f"{self.path} {what} up to step {step}: lines were removed or damaged; what was there is in {_DAMAGED}"


def card_scores(top1: float, loss: float) -> dict[str, float]:
    """The outcome of an evaluation, by the names that a model's card has."""
    return {"val top-1": top1, "val loss": loss}


def read(path: Path) -> list[dict[str, Any]]:
    """All records; a line that was cut off by a crash, or damaged, is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and _is_whole(record):
            records.append(record)
    return records


def _is_whole(record: dict[str, Any]) -> bool:
    numbers = (value for key, value in record.items() if key not in _TEXT)
    named = isinstance(record.get("step"), int) and isinstance(record.get("split"), str)
    return named and all(isinstance(value, int | float) for value in numbers)
