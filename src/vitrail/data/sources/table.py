"""A CSV, TSV or JSON-lines file that names images and their labels: columns file_name, label, and optionally split."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitrail.data.sources.folder import FileReader
from vitrail.data.sources.listing import Listing, Part
from vitrail.data.split import SPLIT_NAMES, split_of
from vitrail.errors import UserError, did_you_mean

TEXT = frozenset({".csv", ".tsv"})
JSON_LINES = frozenset({".jsonl", ".ndjson"})
MOST_CHARACTERS = 1 << 20  # of one CSV field

Row = dict[str, Any]


def open_table(path: Path) -> Listing:
    """The images that the rows name, relative to the table's own folder.

    Raises:
        UserError: the file cannot be read as a table, a column is missing, a row has no label, a split is unknown, or
            none of the image files is there.
    """
    rows = list(_rows(path))
    if not rows:
        raise UserError(f"{path}: it has no rows")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if "file_name" not in columns:
        raise UserError(f"{path}: column file_name is missing; the columns are {', '.join(columns)}")
    labelled = "label" in columns
    groups: dict[str, tuple[list[str], list[str]]] = {}
    for number, row in enumerate(rows, start=1):
        names, classes = groups.setdefault(_split(path, number, row), ([], []))
        names.append(_cell(path, number, row, "file_name"))
        if labelled:
            classes.append(_cell(path, number, row, "label"))
    _check_files(path, [name for names, _ in groups.values() for name in names])
    return Listing(
        {
            split: Part(names, classes if labelled else None, FileReader(path.parent, names))
            for split, (names, classes) in groups.items()
        },
        missing_labels=f"column label is needed; the columns are {', '.join(columns)}",
    )


def _rows(path: Path) -> Iterator[Row]:
    try:
        # utf-8-sig: spreadsheets open their files with a byte-order mark
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() in JSON_LINES:
                yield from _json_rows(path, file)
            else:
                first = file.readline()
                file.seek(0)
                delimiter = max("\t,;", key=first.count)
                csv.field_size_limit(MOST_CHARACTERS)
                for row in csv.DictReader(file, delimiter=delimiter):
                    yield {key: value for key, value in row.items() if key is not None}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from error
    except csv.Error as error:
        raise UserError(f"{path}: not a table ({error})") from error


def _json_rows(path: Path, lines: Iterator[str] | Any) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: line {number} is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}: line {number} is not a JSON object with file_name and label")
        yield row


def _cell(path: Path, number: int, row: Row, column: str) -> str:
    value = row.get(column)
    if value is None or str(value).strip() == "":
        raise UserError(f"{path}: row {number} has no {column}")
    return str(value).strip()


def _split(path: Path, number: int, row: Row) -> str:
    if "split" not in row:
        return "train"
    name = _cell(path, number, row, "split")
    split = split_of(name)
    if split is None:
        raise UserError(f"{path}: row {number} has split {name!r}; {did_you_mean(name, SPLIT_NAMES)}")
    return split


def _check_files(path: Path, names: list[str]) -> None:
    """Refuse a table none of whose files is there; some that are missing are bad images like others, found later."""
    if not any((path.parent / name).is_file() for name in names):
        raise UserError(
            f"{path}: none of its {len(names)} image files is there, the first is {names[0]}; "
            f"file_name is taken relative to {path.parent}"
        )
