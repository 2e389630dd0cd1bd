"""The file of kept images: the pixels of all, then a table of them (Parquet), then its length and what identifies it.

It is used again only for the images that it was made from: by name, and by content where that is known, else by size and
time of change.
"""

import hashlib
import io
import os
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import numpy as np

from vitrail.data.cache import BadImage, in_threads
from vitrail.data.decode import ImageError
from vitrail.data.kept import Form, InFile, Kept
from vitrail.data.samples import Samples
from vitrail.errors import Failure

VERSION = 1
_MAGIC = b"vitrail-images-1"
_END = struct.Struct("<QI16s")  # bytes of the table, their CRC-32, magic
_PLACES = ("block", "begin", "height", "width", "own_height", "own_width")  # the columns of ``Kept.places``
_COMPARED = 64  # images whose pixels are compared with their checksums when a file is opened; others, as they are read

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Made:
    """All samples, decoded into a sink."""

    places: np.ndarray
    """See ``Kept.places``; zeros where an image cannot be used."""
    digests: np.ndarray
    checksums: np.ndarray
    bad: tuple[BadImage, ...]


class Appended:
    """Pixels on their way into a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._at = file, 0

    def add(self, image: np.ndarray) -> tuple[int, int]:
        begin = self._at
        self._file.write(image.data)
        self._at += image.nbytes
        return 0, begin


def finish(file: IO[bytes], samples: Samples, made: Made) -> None:
    """Write what follows the pixels, and sync all of it to the disk."""
    table = _table(samples, made)
    file.write(table)
    file.write(_END.pack(len(table), zlib.crc32(table), _MAGIC))
    file.flush()
    os.fsync(file.fileno())


def _table(samples: Samples, made: Made) -> bytes:
    """What the file knows of its images, as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    stats = samples.stats()
    faults = {image.index: image.message for image in made.bad}
    columns = {
        "size": pa.array(stats.sizes),
        "modified": pa.array(stats.modified),
        "digest": pa.array(made.digests),
        **{name: pa.array(made.places[:, number]) for number, name in enumerate(_PLACES)},
        "checksum": pa.array(made.checksums),
        "fault": pa.array([_bytes(faults.get(index)) for index in range(len(samples))], pa.large_binary()),
    }
    out = io.BytesIO()
    table = pa.table(columns).replace_schema_metadata({"names": _digest_of_names(samples)})
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def open_kept(
    path: Path, samples: Samples, form: Form, workers: int, at_most: int | None, progress: Progress | None
) -> tuple[Kept, np.ndarray, tuple[BadImage, ...]] | None:
    """The images of a file, their digests, and those that cannot be used; None if it is not whole, or of other images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open(path, "rb") as file:
            length = os.fstat(file.fileno()).st_size
            file.seek(max(0, length - _END.size))
            end = file.read()
            if len(end) != _END.size:
                return None
            size, checksum, magic = _END.unpack(end)
            if magic != _MAGIC or size + _END.size > length:
                return None
            file.seek(length - _END.size - size)
            table = file.read(size)
    except FileNotFoundError:
        return None
    if zlib.crc32(table) != checksum:
        return None
    try:
        rows = pq.read_table(io.BytesIO(table))
    except pa.ArrowException:
        return None
    if (rows.schema.metadata or {}).get(b"names") != _digest_of_names(samples).encode():
        return None
    column: dict[str, np.ndarray] = {name: rows[name].to_numpy() for name in rows.column_names if name != "fault"}
    if not _same(samples, column, workers, at_most, progress):
        return None
    places = np.stack([column[name] for name in _PLACES], axis=1)
    kept = Kept(InFile(path, end), places, form.channels, column["checksum"])
    faults = rows["fault"].to_pylist()
    bad = tuple(BadImage(index, _text(fault)) for index, fault in enumerate(faults) if fault is not None)
    if kept.nbytes != length - _END.size - size:
        return None
    for index in np.linspace(0, len(kept) - 1, min(_COMPARED, len(kept))).astype(np.int64).tolist():
        try:
            kept.image(index)
        except Failure:
            return None
    return kept, column["digest"], bad


def _same(
    samples: Samples, then: dict[str, np.ndarray], workers: int, at_most: int | None, progress: Progress | None
) -> bool:
    """Whether the samples are as they were: by their content where it is read, else by size and time of change."""
    n = len(samples)
    chosen: Sequence[int] = range(n)
    if at_most is not None and at_most < n:
        chosen = np.linspace(0, n - 1, at_most).astype(np.int64).tolist()

    def digest(index: int) -> int:
        try:
            return samples.digest(index, samples.encoded(index))
        except ImageError:
            return 0  # no image has this one, but those that could not be read then

    for done, (index, now) in enumerate(zip(chosen, in_threads(digest, chosen, workers), strict=True), start=1):
        if now != then["digest"][index]:
            return False
        if progress is not None:
            progress(done, len(chosen))
    stats = samples.stats()
    like_before = (stats.sizes == then["size"]) & (stats.modified == then["modified"])
    like_before[np.asarray(chosen, dtype=np.int64)] = True
    return bool(like_before.all())


def file_name(samples: Samples, form: Form, name: str) -> str:
    """What the file of these images is called: by the data's name, theirs, and what they are kept as."""
    everything = repr((VERSION, asdict(form), name, _digest_of_names(samples))).encode()
    readable = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[-40:] or "data"
    return f"{readable}-{hashlib.sha256(everything).hexdigest()[:24]}.images"


def _digest_of_names(samples: Samples) -> str:
    digest = hashlib.sha256()
    for name in samples.names:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "surrogateescape")  # names of files need not be Unicode


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def sync_folder(folder: Path) -> None:
    """Make sure that what was moved into a folder is there after a power cut."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
