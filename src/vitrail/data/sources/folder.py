"""A folder of class folders, with or without train, val and test above them."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitrail.data.decode import SUFFIXES
from vitrail.data.samples import Stats
from vitrail.data.sources.files import read_file, stats_of
from vitrail.data.sources.listing import Listing, Part
from vitrail.data.split import split_of
from vitrail.errors import UserError

LOOSE = (
    "its images lie in no class folders; put them in one folder a class, such as cat/ and dog/, "
    "or name their labels in a CSV file with file_name and label"
)


@dataclass(frozen=True)
class FileReader:
    """Reads files under a folder."""

    root: Path
    names: Sequence[str]

    def __call__(self, index: int) -> bytes:
        return read_file(self.root / self.names[index])

    def stats(self, indices: np.ndarray) -> Stats:
        """Size and time of change of each file."""
        return stats_of(self.root, [self.names[i] for i in indices])


def open_folder(root: Path) -> Listing:
    """Class folders, at any depth below which images lie; with splits above them where the folders are named so.

    Images that lie in no class folder are listed without labels if there are no class folders beside them.

    Raises:
        UserError: no images, a folder that cannot be read, or two folders for one split.
    """
    splits = split_folders(root)
    if not splits:
        return Listing({"train": _part(root, "")}, missing_labels=LOOSE)
    parts: dict[str, Part] = {}
    for folder, split in splits.items():
        if split in parts:
            raise UserError(f"{root}: {folder!r} is a second folder for the split {split!r}; keep one")
        parts[split] = _part(root, folder)
    return Listing(parts, missing_labels=LOOSE)


def split_folders(root: Path) -> dict[str, str]:
    """The subfolders that are splits, by name: there are some if there is 'train', or if all are named after splits."""
    folders = [entry.name for entry in _entries(root) if _is_dir(entry)]
    splits = {name: split for name in folders if (split := split_of(name)) is not None}
    if "train" not in splits.values() and len(splits) < len(folders):
        return {}
    # a class may be named 'test': splits hold folders, classes hold images
    return splits if any(_is_dir(entry) for name in splits for entry in _entries(root / name)) else {}


def _part(root: Path, split: str) -> Part:
    names: list[str] = []
    classes: list[str] = []
    loose: list[str] = []
    for entry in _entries(root / split):
        if _is_dir(entry):
            found = sorted(_images(entry.path))
            names.extend(os.path.relpath(path, root) for path in found)
            classes.extend([entry.name] * len(found))
        elif _is_image(entry):
            loose.append(os.path.relpath(entry.path, root))
    if names:
        return Part(names, classes, FileReader(root, names))
    if loose:
        return Part(loose, None, FileReader(root, loose))
    kinds = " ".join(sorted(SUFFIXES))
    raise UserError(f"{root / split}: no images found; expected one folder a class with files in it ({kinds})")


def _images(folder: str, seen: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Paths of all image files below a folder. Links are followed, but not in circles."""
    try:
        status = os.stat(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error
    identity = (status.st_dev, status.st_ino)
    if identity in seen:
        return
    for entry in _entries(folder):
        if _is_dir(entry):
            yield from _images(entry.path, seen | {identity})
        elif _is_image(entry):
            yield entry.path


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Whether a name that is no folder's is that of an image: that it is a pipe, or a link to nothing, reading it tells."""
    return os.path.splitext(entry.name)[1].lower() in SUFFIXES


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What a folder holds, by name, without hidden files."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error
