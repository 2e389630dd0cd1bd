"""Predictions and features written for people and machines: a table, CSV, JSON lines, Parquet, npz."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from vitrail.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

    from vitrail.prediction import Prediction

Predictions = Iterable["Prediction"]
_BY_SUFFIX = {".csv": "csv", ".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".txt": "table"}


def choose_format(name: str | None, out: Path | None) -> str:
    """The format asked for, else that of ``out``'s suffix, else the table.

    Raises:
        UserError: unknown, or Parquet without a file to write.
    """
    if name is None:
        name = "table" if out is None else _BY_SUFFIX.get(out.suffix.lower(), "")
        if not name:
            raise UserError(f"--out {out}: the suffix names no format; add --format {', '.join(WRITERS)}")
    if name not in WRITERS:
        raise UserError(f"--format {name!r}: {did_you_mean(name, WRITERS)}")
    if name == "parquet" and out is None:
        raise UserError("--format parquet needs a file: add --out FILE.parquet")
    if out is not None and not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    return name


def write_table(predictions: Predictions, out: Path | None) -> None:
    """For people: file, label, probability, the next labels."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from vitrail.cli.console import console

    table = Table(header_style="bold")
    table.add_column("file", overflow="fold")
    table.add_column("label", overflow="fold")
    table.add_column("probability", justify="right")
    table.add_column("next")
    for p in predictions:
        if p.error is not None:
            table.add_row(escape(p.file or ""), f"[red]{escape(p.error.removeprefix(f'{p.file}: '))}[/red]")
            continue
        others = ", ".join(f"{label} {probability:.1%}" for label, probability in p.top[1:])
        table.add_row(escape(p.file or ""), escape(p.label or ""), f"{p.probability:.1%}", escape(others))
    if out is None:
        console().print(table)
        return
    with _writing(out) as file:
        Console(file=file, width=200).print(table)


def write_csv(predictions: Predictions, out: Path | None) -> None:
    """file, label, probability, label_2, probability_2 ..., error; one row an image."""
    with _writing(out) as file:
        writer = csv.writer(file, lineterminator="\n")
        width, rows = _width(predictions)
        more = [f"{key}_{rank}" for rank in range(2, width + 1) for key in ("label", "probability")]
        writer.writerow(["file", "label", "probability", *more, "error"])
        for p in rows:
            cells: list[object] = [cell for pair in p.top for cell in pair]
            writer.writerow([p.file, *cells, *[""] * (2 * width - len(cells)), p.error or ""])


def write_jsonl(predictions: Predictions, out: Path | None) -> None:
    """One object a line: file, label, probability, top; or file and error."""
    with _writing(out) as file:
        for p in predictions:
            file.write(json.dumps(p.to_dict(), ensure_ascii=False) + "\n")


def write_parquet(predictions: Predictions, out: Path | None) -> None:
    """Columns file, label, probability, top (a list of label and probability) and error."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vitrail.weights import replace

    assert out is not None
    pair = pa.struct([("label", pa.string()), ("probability", pa.float64())])
    text = [(name, pa.string()) for name in ("file", "label", "error")]
    schema = pa.schema([*text[:2], ("probability", pa.float64()), ("top", pa.list_(pair)), text[2]])
    rows = [
        {
            "file": p.file,
            "label": p.label,
            "probability": p.probability,
            "top": [{"label": label, "probability": probability} for label, probability in p.top],
            "error": p.error,
        }
        for p in predictions
    ]
    with replace.file(out) as staging:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), staging)


WRITERS: dict[str, Callable[[Predictions, Path | None], None]] = {
    "table": write_table,
    "csv": write_csv,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
}


def write_npz(out: Path, names: Sequence[str], features: "np.ndarray", labels: Sequence[str | None]) -> None:
    """Arrays ``names`` (n,), ``features`` (n, D) and, where the data have them, ``labels`` (n,)."""
    import numpy as np

    from vitrail.weights import replace

    arrays: dict[str, Any] = {"names": np.array(names), "features": features}
    if any(label is not None for label in labels):
        arrays["labels"] = np.array([label or "" for label in labels])
    with replace.file(out) as staging, staging.open("wb") as file:
        np.savez(file, **arrays)


def write_features_parquet(
    out: Path, names: Sequence[str], features: "np.ndarray", labels: Sequence[str | None]
) -> None:
    """Columns ``name``, ``features`` (a list of fixed length) and, where the data have them, ``label``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vitrail.weights import replace

    columns: dict[str, Any] = {
        "name": pa.array(names, pa.string()),
        "features": pa.FixedSizeListArray.from_arrays(pa.array(features.ravel(), pa.float32()), features.shape[1]),
    }
    if any(label is not None for label in labels):
        columns["label"] = pa.array(labels, pa.string())
    with replace.file(out) as staging:
        pq.write_table(pa.table(columns), staging)


FEATURE_WRITERS = {".npz": write_npz, ".parquet": write_features_parquet}


@contextmanager
def _writing(out: Path | None) -> Iterator[IO[str]]:
    """Standard output, or a file that appears whole or not at all."""
    if out is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    from vitrail.weights import replace

    with replace.file(out) as staging, staging.open("w", encoding="utf-8", newline="") as file:
        yield file


def _width(predictions: Predictions) -> tuple[int, Iterator["Prediction"]]:
    """How many labels a prediction has, as the first that is no error says, and all of them in order."""
    iterator, held = iter(predictions), []
    for p in iterator:
        held.append(p)
        if p.top:
            return len(p.top), chain(held, iterator)
    return 1, iter(held)
