"""Tar shards in WebDataset's layout (KEY.jpg + KEY.cls), read at random through an index that is built once.

A label is KEY.cls (an index or a name), or KEY.json with "label" or "cls" in it, or KEY.txt.
"""

import contextlib
import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vitrail.data.decode import SUFFIXES
from vitrail.data.samples import Stats
from vitrail.data.sources.files import open_file, stats_of
from vitrail.data.sources.listing import Listing, Part
from vitrail.data.split import split_of_file
from vitrail.errors import UserError

INDEX_VERSION = 1
LABEL_SUFFIXES = ("cls", "json", "txt")
MOST_LABEL_BYTES = 1 << 20


@dataclass(frozen=True)
class ShardIndex:
    """Where the images of one tar file lie in it, and their labels."""

    keys: list[str]
    offsets: list[int]
    sizes: list[int]
    labels: list[str | None]


@dataclass(frozen=True, eq=False)
class ShardReader:
    """Reads images from tar files by offset."""

    files: Sequence[Path]
    file_of: np.ndarray
    """The file of each sample, (n,)."""
    offsets: np.ndarray
    sizes: np.ndarray

    def __call__(self, index: int) -> bytes:
        size = int(self.sizes[index])
        with open_file(self.files[self.file_of[index]]) as file:
            file.seek(int(self.offsets[index]))
            data = file.read(size)
        if len(data) < size:
            raise OSError("the tar file ends before the image does")
        return data

    def stats(self, indices: np.ndarray) -> Stats:
        """The size of each image, and when its tar file was changed."""
        files = stats_of(Path(), [str(file) for file in self.files])
        return Stats(self.sizes[indices], files.modified[self.file_of[indices]])


def open_shards(paths: Iterable[Path], root: Path) -> Listing:
    """The images of tar files; a split is told by a file's name or its folder's below ``root``.

    Raises:
        UserError: not an uncompressed tar file, or some samples have labels and some do not.
    """
    by_split: dict[str, list[Path]] = {}
    for file in sorted(paths):
        by_split.setdefault(split_of_file(file, root), []).append(file)
    parts = {split: _part(files) for split, files in by_split.items()}
    return Listing(parts, missing_labels="a shard needs KEY.cls, KEY.json or KEY.txt beside each KEY.jpg")


def _part(files: list[Path]) -> Part:
    indexes = [shard_index(file) for file in files]
    names = [f"{file.name}:{key}" for file, index in zip(files, indexes, strict=True) for key in index.keys]
    labels = [label for index in indexes for label in index.labels]
    unlabelled = [name for name, label in zip(names, labels, strict=True) if label is None]
    if unlabelled and len(unlabelled) < len(labels):
        raise UserError(f"{files[0].parent}: {len(unlabelled)} of {len(labels)} have no label, such as {unlabelled[0]}")
    counts = [len(index.keys) for index in indexes]
    reader = ShardReader(
        files,
        np.repeat(np.arange(len(files)), counts),
        np.array([offset for index in indexes for offset in index.offsets], dtype=np.int64),
        np.array([size for index in indexes for size in index.sizes], dtype=np.int64),
    )
    return Part(names, None if unlabelled else [label for label in labels if label is not None], reader)


def shard_index(file: Path) -> ShardIndex:
    """The index of a tar file: read where it is stored and the file has not changed since, otherwise built and stored
    beside the file, or in the user's cache where that folder cannot be written."""
    try:
        status = file.stat()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    stamp = {"version": INDEX_VERSION, "bytes": status.st_size, "modified": status.st_mtime_ns}
    places = _index_places(file)
    for place in places:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # absent or damaged: it is built again
            stored = json.loads(place.read_text(encoding="utf-8"))
            if stored.pop("stamp") == stamp:
                return ShardIndex(**stored)
    index = _build_index(file)
    for place in places:
        with contextlib.suppress(OSError):
            _write(place, json.dumps({"stamp": stamp, **asdict(index)}))
            break
    return index


def _index_places(file: Path) -> list[Path]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitrail" / "shards"
    digest = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]
    return [file.with_name(file.name + ".index.json"), cache / f"{file.name}-{digest}.index.json"]


def _write(place: Path, text: str) -> None:
    """Write beside, sync, rename: other processes see the whole index or none."""
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_name(f"{place.name}.{os.getpid()}.partial")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(place)
    finally:
        beside.unlink(missing_ok=True)


def _build_index(file: Path) -> ShardIndex:
    samples: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                if not member.isreg() or member.issparse():
                    continue
                key, suffix = _key_and_suffix(member.name)
                sample = samples.setdefault(key, {})
                if f".{suffix}" in SUFFIXES:
                    sample.setdefault("place", (member.offset_data, member.size))
                elif suffix in LABEL_SUFFIXES and member.size <= MOST_LABEL_BYTES:
                    content = tar.extractfile(member)
                    sample[suffix] = b"" if content is None else content.read()
    except tarfile.TarError as error:
        raise UserError(f"{file}: not an uncompressed tar file ({error}); a compressed one must be unpacked") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
    images = {key: sample for key, sample in samples.items() if "place" in sample}
    return ShardIndex(
        list(images),
        [sample["place"][0] for sample in images.values()],
        [sample["place"][1] for sample in images.values()],
        [_label(f"{file}:{key}", sample) for key, sample in images.items()],
    )


def _key_and_suffix(member: str) -> tuple[str, str]:
    """WebDataset's rule: the key reaches to the first dot of the file's name."""
    path = PurePosixPath(member)
    stem, _, suffix = path.name.partition(".")
    return (path.parent / stem).as_posix(), suffix.lower()


def _label(name: str, sample: dict[str, Any]) -> str | None:
    try:
        for suffix in ("cls", "txt"):
            if suffix in sample and (text := sample[suffix].decode().strip()):
                return text
        record = json.loads(sample.get("json", b"{}"))
    except ValueError as error:
        raise UserError(f"{name}: its label cannot be read ({error})") from error
    value = record.get("label", record.get("cls")) if isinstance(record, dict) else None
    return None if value is None else str(value)
