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

    def cut_after(self, step: int) -> None:
        """Drop what was logged after ``step``: a run that goes on from an earlier checkpoint writes it again."""
        kept = [record for record in read(self.path) if record["step"] <= step and record["split"] != "test"]
        with replace.file(self.path) as staging:
            staging.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")


def read(path: Path) -> list[dict[str, Any]]:
    """All records; a last line that was cut off by a crash is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records
