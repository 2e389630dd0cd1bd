"""What a person names as images: files, folders, patterns and data sets, walked one by one and never held together."""

import contextlib
import glob
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.data.decode import SUFFIXES, ImageError
from vitrail.errors import UserError

if TYPE_CHECKING:
    from vitrail.data.open import Dataset
    from vitrail.data.samples import Samples

MOST_BYTES = 1 << 30  # of an image file: 100 million pixels, 16-bit with alpha, uncompressed, take 0.8 GB
_DATA_SUFFIXES = {".csv", ".tsv", ".jsonl", ".json", ".ndjson", ".parquet", ".tar"}
_SHELL_PIPES = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")  # what a shell names for <(command)
_KINDS = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a disk"))


@dataclass(frozen=True)
class Source:
    """An encoded image that is read when its turn comes."""

    name: str
    read: Callable[[], bytes]
    label: str | None = None
    """Its true label, where a data set gives one."""
    path: Path | None = None
    """The file whose size and time tell whether it has changed; None where there is none."""
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    """What is entered while the image is read and decoded, in the thread that does it."""


class Inputs:
    """The images that names stand for, in order; each pass walks them anew, and holds the names of one folder at a time.

    A folder gives all images below it, sorted by name. Names that a pattern fits, and those of a data set, are held
    together: they are known only as a whole.
    """

    def __init__(self, names: Iterable[str], *, labelled: bool = False) -> None:
        """
        Args:
            names: paths, patterns, or data sets as ``open_data`` takes them (``digits``, CSV, Parquet, shards,
                ``hf:NAME``).
            labelled: read a folder as a data set where it is one, for the true labels.

        Raises:
            UserError: not one of the paths is there; an empty name.
        """
        self.names = tuple(names)
        if "" in self.names:  # which would mean the folder that one is in: an empty variable of a shell, not a wish
            raise UserError("an image or a folder with an empty name: name it, or leave it out")
        self.labelled = labelled
        self._opened: dict[str, Dataset | None] = {}
        missing = [name for name in self.names if _is_missing(name)]
        if missing and len(missing) == len(self.names):
            others = f" (nor is any of the {len(missing) - 1} others there)" if len(missing) > 1 else ""
            raise UserError(f"{missing[0]}: no such file or folder{others}")

    def __iter__(self) -> Iterator[Source]:
        """Each image; a path where there is nothing, beside others, is one whose ``read`` says so.

        Raises:
            UserError: a folder, pattern or data set without an image.
        """
        for name in self.names:
            yield from self._expand(name)

    def _expand(self, name: str) -> Iterator[Source]:
        path = _path(name)
        if os.path.isdir(path):  # which, unlike Path's, are false for names that no file can have
            yield from self._expand_folder(path)
        elif os.path.isfile(path):
            yield from self._samples(str(path)) if _is_data(path) else [file_source(name, path)]
        elif name == "digits" or name.startswith("hf:"):
            yield from self._samples(name)
        elif glob.has_magic(name):
            found = sorted(glob.glob(str(path), recursive=True))
            if not found:
                raise UserError(f"{name}: no file fits this pattern")
            for match in found:
                yield from self._expand(match)
        else:
            yield file_source(name, path)

    def _expand_folder(self, path: Path) -> Iterator[Source]:
        if self.labelled and self._data_set(str(path), needed=False) is not None:
            yield from self._samples(str(path))
            return
        empty = True
        for source in _walk(path):
            empty = False
            yield source
        if empty:
            yield from self._samples(str(path))

    def _samples(self, name: str) -> Iterator[Source]:
        """Every sample of every split of a data set."""
        dataset = self._data_set(name)
        assert dataset is not None
        for samples in (dataset.train, dataset.val, dataset.test):
            for i, sample in enumerate(samples.names if samples is not None else ()):
                assert samples is not None
                label = None if samples.targets is None else samples.labels[samples.targets[i]]
                yield _sample(name, samples, i, sample, label)

    def _data_set(self, name: str, *, needed: bool = True) -> "Dataset | None":
        """A data set, opened once; None where it is not one and is not needed."""
        from vitrail.data.open import open_data

        if self._opened.get(name) is None and (needed or name not in self._opened):
            self._opened[name] = None
            with contextlib.nullcontext() if needed else contextlib.suppress(UserError):  # any folder of images will do
                self._opened[name] = open_data(name, val_fraction=0, need_labels=False)
        return self._opened[name]


def expand_inputs(inputs: Iterable[str], *, labelled: bool = False) -> list[Source]:
    """What a person names -> a list of images; arguments and errors are those of ``Inputs``, whose walk it is."""
    return list(Inputs(inputs, labelled=labelled))


def read_file(path: Path, name: str) -> bytes:
    """The bytes of an image file.

    Raises:
        ImageError: it is a pipe, a socket or a device, which could keep the reader waiting for ever; or it is larger
            than an image can be.
        OSError: it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a table may name a file by characters that no file can have
        raise ImageError(f"{name}: cannot be read ({error})") from None
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        for is_kind, kind in _KINDS:
            if is_kind(status.st_mode):
                raise ImageError(f"{name}: {kind}, and no file")
        if status.st_size > MOST_BYTES:
            raise ImageError(f"{name}: {status.st_size:,} bytes are more than the limit of {MOST_BYTES:,} for an image")
        return file.read()


def stamp(source: Source) -> str:
    """Size and times of the file of a source, which are others once it has changed; '-' where there is nothing to see.

    The time of its entry's change is among them: unlike that of its contents, nobody can set it back.
    """
    try:
        status = source.path.stat() if source.path is not None else None
    except (OSError, ValueError):
        status = None
    return "-" if status is None else f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def _is_missing(name: str) -> bool:
    """Whether a name is that of a path, and nothing is there."""
    if name == "digits" or name.startswith("hf:") or glob.has_magic(name):
        return False
    try:
        _path(name).stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return True
    except OSError:  # too long, or in a folder that may not be entered: reading it will say so
        return False
    return False


def _is_data(path: Path) -> bool:
    """Whether a file is a table or another data set, and no image."""
    if _is_image(path.name):  # nearly always, and there is nothing to import then
        return False
    from vitrail.data.sources.idx import is_idx

    return path.suffix.lower() in _DATA_SUFFIXES or is_idx(path)


def _path(name: str) -> Path:
    """With ``~`` expanded; as it is where that is the name of nobody."""
    return Path(os.path.expanduser(name))


def file_source(name: str, path: Path) -> Source:
    """A file as an image; of what is no file, ``read`` refuses all but the pipes of a shell."""
    from_shell = str(path).startswith(_SHELL_PIPES)
    return Source(name, path.read_bytes if from_shell else partial(read_file, path, name), path=path)


def _walk(root: Path) -> Iterator[Source]:
    """The images below a folder without hidden ones, in the order of their paths, one folder's names at a time.

    Links to folders are not followed. A folder that cannot be read is given as an image that cannot be read.
    """
    try:
        with os.scandir(root) as found:
            names, folders = [], set()  # and not the entries, which are five times as large
            for entry in found:
                if not entry.name.startswith("."):
                    if entry.is_dir(follow_symlinks=False):
                        folders.add(entry.name)
                    if entry.name in folders or _is_image(entry.name):
                        names.append(entry.name)
    except OSError as error:
        yield Source(str(root), partial(_raise, error), path=root)
        return
    names.sort(key=os.path.normcase)
    for name in names:
        path = root / name
        if _is_image(name):
            yield file_source(str(path), path)
        if name in folders:
            yield from _walk(path)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _raise(error: OSError) -> bytes:
    raise error


def _sample(data: str, samples: "Samples", index: int, name: str, label: str | None) -> Source:
    """One sample of a data set, with the file in which it lies."""
    from vitrail.data.samples import Picked
    from vitrail.data.sources.folder import FileReader
    from vitrail.data.sources.shards import ShardReader

    reader = samples.read.read if isinstance(samples.read, Picked) else samples.read
    place = samples.place(index)
    if isinstance(reader, FileReader):
        path = reader.root / reader.names[place]
        return Source(name, partial(read_file, path, name), label, path)
    inside = reader.files[reader.file_of[place]] if isinstance(reader, ShardReader) else _path(data)
    return Source(name, partial(samples.encoded, index), label, inside if inside.exists() else None)
