"""Parquet files with an image column, as Hugging Face writes them: a struct {bytes, path} or bytes, and a label."""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vitrail.data.samples import Stats
from vitrail.data.sources.files import open_file, read_file, stats_of
from vitrail.data.sources.labels import class_names, label_column
from vitrail.data.sources.listing import Listing, Part
from vitrail.data.split import split_of_file
from vitrail.errors import UserError

MEMORY = 1 << 30  # bytes of image columns that a process keeps
LARGEST_GROUP = 128 << 20  # bytes of a row group that may be read for the sake of one image, beyond that memory


@dataclass(frozen=True)
class RowGroup:
    """A part of a file that is read at once."""

    file: Path
    number: int
    bytes: int
    """Of its image column, uncompressed."""


class GroupReader:
    """Reads images by row; keeps the latest row groups in memory, all of them where they fit."""

    def __init__(self, column: str, groups: Sequence[RowGroup], rows: Sequence[int], memory: int = MEMORY) -> None:
        self.column = column
        self.groups = groups
        self.starts = np.concatenate([[0], np.cumsum(rows)[:-1]]).astype(np.int64)  # the first row of each group
        self.memory = memory
        self._forget()

    def __call__(self, index: int) -> bytes:
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        with self._lock:
            group = self._group(number)
            row = index - int(self.starts[number])
            if row >= len(group):
                raise OSError(f"{self.groups[number].file} has been replaced: it has fewer rows")
            value = group[row].as_py()
        content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if content is not None:
            return content
        if path:
            return read_file(self.groups[number].file.parent / path)
        raise OSError("the row holds no image")

    def stats(self, indices: np.ndarray) -> Stats:
        """Of the Parquet file that holds each row."""
        files = list(dict.fromkeys(group.file for group in self.groups))
        places = {file: place for place, file in enumerate(files)}
        of_group = np.array([places[group.file] for group in self.groups], dtype=np.int64)
        of_row = of_group[np.searchsorted(self.starts, indices, side="right") - 1]
        found = stats_of(Path(), [str(file) for file in files])
        return Stats(found.sizes[of_row], found.modified[of_row])

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_kept", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._kept: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self._lock = threading.Lock()  # images are checked in threads

    def _group(self, number: int) -> pa.ChunkedArray:
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        group = self.groups[number]
        while self._kept and sum(self.groups[n].bytes for n in self._kept) + group.bytes > self.memory:
            self._kept.popitem(last=False)
        try:
            open_file(group.file).close()  # what is no file would be waited for
            with pq.ParquetFile(group.file) as file:
                self._kept[number] = file.read_row_group(group.number, columns=[self.column]).column(0)
        except (pa.ArrowException, IndexError) as error:  # IndexError: another file has come in its place
            raise OSError(f"{group.file} is damaged: {error}") from error
        return self._kept[number]


def open_parquet(path: Path) -> Listing:
    """One file, or all Parquet files below a folder; a split is told by a file's name or its folder's.

    The label column is called label, or is the first that Hugging Face's metadata declare as classes; class names are
    the metadata's, or the values themselves.

    Raises:
        UserError: not Parquet, no or several image columns, labels beyond their names, or row groups too large to
            read by the image.
    """
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(split_of_file(file, path), []).append(file)
    schemas = {split: _schema(members[0]) for split, members in by_split.items()}
    first = next(iter(schemas.values()))
    label, names = _label_column(first)
    parts = {
        split: _part(
            members,
            path,
            _image_column(members[0], schemas[split]),
            label if label in schemas[split].names else None,
            names,
        )
        for split, members in by_split.items()
    }
    columns = ", ".join(first.names)
    return Listing(parts, names, missing_labels=f"a column called label is needed; the columns are {columns}")


def _schema(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: not a Parquet file ({error})") from error


def _features(schema: pa.Schema) -> dict[str, Any]:
    """What Hugging Face's metadata say of each column."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _image_column(file: Path, schema: pa.Schema) -> str:
    marked = [name for name, feature in _features(schema).items() if feature.get("_type") == "Image"]
    structs = [f.name for f in schema if pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    binary = [f.name for f in schema if pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type)]
    for candidates in (marked, structs, binary):
        if "image" in candidates:
            return "image"
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise UserError(f"{file}: several image columns ({', '.join(candidates)}); rename the one meant to image")
    columns = ", ".join(schema.names)
    raise UserError(f"{file}: no image column (a struct with bytes, or bytes); the columns are {columns}")


def _label_column(schema: pa.Schema) -> tuple[str | None, tuple[str, ...] | None]:
    """The label column and, where the metadata give them, its class names."""
    named = {
        name: tuple(str(label) for label in feature["names"])
        for name, feature in _features(schema).items()
        if feature.get("_type") == "ClassLabel" and feature.get("names")
    }
    column = label_column(schema.names, list(named))
    return column, named.get(column or "")


def _part(files: list[Path], root: Path, column: str, label: str | None, names: tuple[str, ...] | None) -> Part:
    groups: list[RowGroup] = []
    rows: list[int] = []
    sample_names: list[str] = []
    labels: list[Any] = []
    for file in files:
        try:
            with pq.ParquetFile(file) as opened:
                _add_groups(file, opened.metadata, column, groups, rows)
                if label is not None:
                    labels.extend(opened.read(columns=[label]).column(0).to_pylist())
        except (pa.ArrowException, OSError, KeyError, IndexError) as error:
            raise UserError(f"{file}: it lacks the columns of the first file, or is damaged ({error})") from error
        shown = file.name if file == root else file.relative_to(root).as_posix()
        sample_names.extend(f"{shown}:{row:06d}" for row in range(opened.metadata.num_rows))
    largest = max(group.bytes for group in groups) if groups else 0
    if sum(group.bytes for group in groups) > MEMORY and largest > LARGEST_GROUP:
        raise UserError(
            f"{files[0]}: row groups of up to {largest >> 20} MB are too large to read images from one by one; "
            "write the file again with row_group_size=100, or as tar shards"
        )
    classes = None if label is None else class_names(root, labels, names)
    return Part(sample_names, classes, GroupReader(column, groups, rows))


def _add_groups(file: Path, metadata: Any, column: str, groups: list[RowGroup], rows: list[int]) -> None:
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = [group.column(i) for i in range(group.num_columns)]
        size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.split(".")[0] == column)
        groups.append(RowGroup(file, number, size))
        rows.append(group.num_rows)
