"""metrics.jsonl: one JSON object a logged step or evaluation. ``images_per_second`` alone depends on the clock."""

import json
import shutil
from pathlib import Path
from typing import Any

from vitrail.weights import replace

NAME = "metrics.jsonl"
REPORT = "report.html"  # beside it, once the run has come to its end
_DAMAGED = "metrics.damaged.jsonl"


class MetricsLog:
    """Appends records to a run's metrics.jsonl, each line whole on disk before the next."""

    def __init__(self, run: Path) -> None:
        self.path = run / NAME
        self.count = len(read(self.path))
        """Records in it."""

    def write(self, record: dict[str, Any]) -> None:
        """Append one line; keys that are None are left out."""
        line = json.dumps({key: value for key, value in record.items() if value is not None})
        with self.path.open("ab", buffering=0) as file:
            rest = f"{line}\n".encode()  # in one piece, so that a crash cuts at most the last line short
            while rest:  # a full disk takes a part, and refuses the next
                rest = rest[file.write(rest) :]
        self.count += 1

    def scores(self, step: int) -> dict[str, float]:
        """What the evaluation after a step gave, by the names that a model's card has; empty if there was none."""
        found = [record for record in read(self.path) if record["split"] == "val" and record["step"] == step]
        return card_scores(found[-1]["top1"], found[-1]["loss"]) if found else {}

    def last_step(self) -> int:
        """The last step that a record is about; 0 without any."""
        return max((record["step"] for record in read(self.path)), default=0)

    def cut_after(self, step: int, evaluated: int, expected: int | None = None) -> str:
        """Drop what was logged after ``step``: a run that goes on from there writes it again.

        So it does with what follows the last evaluation that came to its end, at the step ``evaluated``. Where less is
        left than ``expected`` records, the file as it was is kept beside, and what is wrong is returned; else nothing.
        """
        last = {"train": step, "skipped": step, "val": evaluated}
        kept = [record for record in read(self.path) if record["step"] <= last.get(record["split"], -1)]
        lacks = 0 if expected is None else expected - len(kept)
        beside = self.path.with_name(_DAMAGED)
        if lacks > 0 and self.path.is_file():
            shutil.copy2(self.path, beside)
        with replace.file(self.path) as staging:
            staging.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        self.count = len(kept)
        if lacks <= 0:
            return ""
        return (
            f"{self.path} lacks {lacks} of the {expected} records up to step {step}: lines were removed or damaged; what "
            f"was there is in {beside.name}"
        )


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
        if isinstance(record, dict) and isinstance(record.get("step"), int) and isinstance(record.get("split"), str):
            records.append(record)
    return records
