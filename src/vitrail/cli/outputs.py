"""Predictions written for people and machines, as they come: a table, CSV, JSON lines, Parquet."""

import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vitrail.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from rich.table import Table

    from vitrail.prediction import Prediction

Predictions = Iterable["Prediction"]
_BLOCK = 10_000  # images that are held at once: rows of a table, or of a row group
# would move the cursor, break the line, turn the direction of writing, or are no characters
_UNSHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_BY_SUFFIX = {".csv": "csv", ".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".txt": "table"}


def choose_format(name: str | None, out: Path | None) -> str:
    """The format asked for, else that of ``out``'s suffix, else the table.

    Raises:
        UserError: unknown, Parquet without a file to write, or a file that cannot be written.
    """
    if name is None:
        name = "table" if out is None else _BY_SUFFIX.get(out.suffix.lower(), "")
        if not name:
            raise UserError(f"--out {out}: the suffix names no format; add --format {', '.join(WRITERS)}")
    if name not in WRITERS:
        raise UserError(f"--format {name!r}: {did_you_mean(name, WRITERS)}")
    if name == "parquet" and out is None:
        raise UserError("--format parquet needs a file: add --out FILE.parquet")
    if out is not None:
        require_file("--out", out)
    return name


def require_file(option: str, path: Path) -> None:
    """Refuse, before any work, a file that cannot be written: a new one takes the old one's place in its folder.

    Raises:
        UserError: there is no such folder; or a folder, a pipe or a device has the name.
    """
    try:
        path.resolve()
    except (OSError, RuntimeError):
        raise UserError(f"{option} {path}: a link that leads to itself: name a file") from None
    if not path.absolute().parent.is_dir():
        raise UserError(f"{option} {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise UserError(f"{option} {path}: a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise UserError(f"{option} {path}: a pipe or a device, and no file: name a file")


def write_table(predictions: Predictions, out: Path | None, width: int) -> None:
    """For people: file, label, probability, the next labels. Of very many images, one table after the other."""
    from rich.console import Console

    from vitrail.cli.console import console

    with _writing(out) as file:
        printer = console() if out is None else Console(file=file, width=200)
        for block in _blocks(predictions):
            printer.print(_table(block))


def _table(predictions: "list[Prediction]") -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(header_style="bold")
    table.add_column("file", overflow="fold")
    table.add_column("label", overflow="fold")
    table.add_column("probability", justify="right")
    table.add_column("next")
    for p in predictions:
        file = escape(shown(p.file or ""))
        if p.error is not None:
            table.add_row(file, f"[red]{escape(shown(p.error.removeprefix(f'{p.file}: ')))}[/red]")
            continue
        others = ", ".join(f"{label} {probability:.1%}" for label, probability in p.top[1:])
        table.add_row(file, escape(shown(p.label or "")), f"{p.probability:.1%}", escape(shown(others)))
    return table


def write_csv(predictions: Predictions, out: Path | None, width: int) -> None:
    """file, label, probability, label_2, probability_2 ..., error; one row an image."""
    with _writing(out) as file:
        writer = csv.writer(file, lineterminator="\n")
        quoting = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        more = [f"{key}_{rank}" for rank in range(2, width + 1) for key in ("label", "probability")]
        writer.writerow(["file", "label", "probability", *more, "error"])
        for p in predictions:
            cells: list[object] = [cell for pair in p.top for cell in pair]
            row = [p.file, *cells, *[""] * (2 * width - len(cells)), p.error or ""]
            # Python quotes a carriage return, which ends a row for most readers, only since 3.13
            (quoting if any("\r" in str(cell) for cell in row) else writer).writerow(row)


def write_jsonl(predictions: Predictions, out: Path | None, width: int) -> None:
    """One object a line: file, label, probability, top; or file and error."""
    with _writing(out) as file:
        for p in predictions:
            file.write(json.dumps(p.to_dict(), ensure_ascii=False) + "\n")


def write_parquet(predictions: Predictions, out: Path | None, width: int) -> None:
    """Columns file, label, probability, top (a list of label and probability) and error."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vitrail.weights import replace

    assert out is not None
    pair = pa.struct([("label", pa.string()), ("probability", pa.float64())])
    text = [(name, pa.string()) for name in ("file", "label", "error")]
    schema = pa.schema([*text[:2], ("probability", pa.float64()), ("top", pa.list_(pair)), text[2]])
    with replace.file(out) as staging, pq.ParquetWriter(staging, schema) as writer:
        for block in _blocks(predictions):
            rows = [
                {
                    "file": printable(p.file or ""),
                    "label": p.label and printable(p.label),
                    "probability": p.probability,
                    "top": [{"label": printable(label), "probability": probability} for label, probability in p.top],
                    "error": p.error and printable(p.error),
                }
                for p in block
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


# (predictions, file or standard output, most labels of an image)
WRITERS: dict[str, Callable[[Predictions, Path | None, int], None]] = {
    "table": write_table,
    "csv": write_csv,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
}


@contextmanager
def _writing(out: Path | None) -> Iterator[IO[str]]:
    """Standard output, or a file that appears whole or not at all."""
    if out is None:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # names of files are bytes, not always characters
        yield sys.stdout
        sys.stdout.flush()
        return
    from vitrail.weights import replace

    with (
        replace.file(out) as staging,
        staging.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        yield file


def _blocks(predictions: Predictions) -> "Iterator[list[Prediction]]":
    """Some thousand at a time; one block at least."""
    iterator = iter(predictions)
    yield list(islice(iterator, _BLOCK))
    while block := list(islice(iterator, _BLOCK)):
        yield block


def printable(text: str) -> str:
    """A file's name of bytes that are no characters, with these written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def shown(text: str) -> str:
    """A text for a terminal, with what is no character there written as escapes."""
    return _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
