"""metrics.jsonl: one JSON object a logged step or evaluation. ``images_per_second`` alone depends on the clock."""

import json
from pathlib import Path
from typing import Any

from vitrail.weights import replace

NAME = "metrics.jsonl"


class MetricsLog:
    """Appends records to a run's metrics.jsonl, each line whole on disk before the next."""

    def __init__(self, run: Path) -> None:
        self.path = run / NAME

    def write(self, record: dict[str, Any]) -> None:
        """Append one line; keys that are None are left out."""
        line = json.dumps({key: value for key, value in record.items() if value is not None})
        with self.path.open("ab", buffering=0) as file:
            rest = f"{line}\n".encode()  # in one piece, so that a crash cuts at most the last line short
            while rest:  # a full disk takes a part, and refuses the next
                rest = rest[file.write(rest) :]

    def scores(self, step: int) -> dict[str, float]:
        """What the evaluation after a step gave, by the names that a model's card has; empty if there was none."""
        found = [record for record in read(self.path) if record["split"] == "val" and record["step"] == step]
        return card_scores(found[-1]["top1"], found[-1]["loss"]) if found else {}

    def cut_after(self, step: int, evaluated: int) -> None:
        """Drop what was logged after ``step``: a run that goes on from there writes it again.

        So it does with what follows the last evaluation that came to its end, at the step ``evaluated``.
        """
        last = {"train": step, "skipped": step, "val": evaluated}
        kept = [record for record in read(self.path) if record["step"] <= last.get(record["split"], -1)]
        with replace.file(self.path) as staging:
            staging.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")


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
