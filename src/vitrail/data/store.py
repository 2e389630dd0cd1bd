"""Keeping training images decoded and reduced: made once, in memory or in a file that later runs find again."""

import errno
import os
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from filelock import FileLock

from vitrail.data.cache import BadImage, Checked, in_threads, refuse_bad, usable
from vitrail.data.decode import ImageError
from vitrail.data.kept import Form, InMemory, Kept, whole
from vitrail.data.kept_file import Appended, Made, Progress, file_name, finish, open_kept, sync_folder
from vitrail.data.samples import Samples
from vitrail.errors import UserError

_GIGABYTE = 1e9
_GUESS_AFTER = 64  # images, from which the room for all is estimated


class _Sink(Protocol):
    """Takes images one after another."""

    def add(self, image: np.ndarray) -> tuple[int, int]:
        """-> the block that the image is in, and its first byte there."""


def keep_in_memory(
    samples: Samples,
    form: Form,
    *,
    room: int,
    workers: int = 0,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Checked:
    """Decode all images into memory; the samples of the answer have them as ``kept``.

    Args:
        room: the bytes that they may take.
        workers, skip_bad, progress: as for ``cache.check_images``.

    Raises:
        UserError: they do not fit; else as ``cache.check_images``.
    """

    def too_large(needed: float) -> UserError:
        return UserError(
            f"data.cache=memory: {len(samples):,} images take about {needed / _GIGABYTE:.1f} GB decoded, and "
            f"{room / _GIGABYTE:.1f} GB may be used: lower data.cache_size ({form.side}), or take data.cache=file"
        )

    memory = InMemory()
    made = _make(samples, form, memory, room, too_large, workers, skip_bad, progress)
    return _checked(samples, Kept(memory, made.places, form.channels), made.digests, made.bad, skip_bad)


def keep_in_file(
    samples: Samples,
    form: Form,
    folder: Path,
    name: str,
    *,
    workers: int = 0,
    skip_bad: bool = False,
    at_most: int | None = None,
    progress: Progress | None = None,
) -> Checked:
    """Decode all images into a file of ``folder``, or find them there; the samples of the answer have them as ``kept``.

    One process makes the file, and others that want the same wait for it. A file of the same samples that have changed
    since is replaced.

    Args:
        name: of the data, by which its file is told from others.
        at_most: of a file that is found, so many images are read again, evenly spaced, to see that they are the same.
        workers, skip_bad, progress: as for ``cache.check_images``.

    Raises:
        UserError: there is no room, or the folder cannot be written to; else as ``cache.check_images``.
    """
    path = folder / file_name(samples, form, name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{path.stem}.lock"):
            found = open_kept(path, samples, form, workers, at_most, progress)
            if found is None or (found[2] and not skip_bad):  # what was damaged then may have been mended
                _write(path, samples, form, workers, skip_bad, progress)
                found = open_kept(path, samples, form, workers, 0, None)
    except OSError as error:
        raise UserError(
            f"data.cache_folder {folder}: images cannot be kept there ({error.strerror or error}); choose another one, or "
            "leave data.cache out"
        ) from error
    if found is None:
        raise UserError(f"{path}: it was changed by another program as soon as it was written; start again")
    kept, digests, bad = found
    return _checked(samples, kept, digests, bad, skip_bad)


def _checked(samples: Samples, kept: Kept, digests: np.ndarray, bad: tuple[BadImage, ...], skip_bad: bool) -> Checked:
    good = usable(samples, bad, len(samples), skip_bad=skip_bad)
    if good is None:
        return Checked(samples.with_kept(kept), None, bad, digests)
    return Checked(samples.subset(good).with_kept(kept.subset(good)), None, bad, digests[good])


def _make(
    samples: Samples,
    form: Form,
    sink: _Sink,
    room: int,
    too_large: Callable[[float], UserError],
    workers: int,
    skip_bad: bool,
    progress: Progress | None,
) -> Made:
    """Decode every sample into the sink, in order."""
    n = len(samples)
    digests, checksums = np.zeros(n, dtype=np.uint64), np.zeros(n, dtype=np.uint32)

    def load(index: int) -> tuple[np.ndarray, tuple[int, int]] | BadImage:
        try:
            data = samples.encoded(index)
            digests[index] = samples.digest(index, data)
            image, size = form.load(data, samples.names[index])
        except ImageError as error:
            return BadImage(index, str(error))
        checksums[index] = zlib.crc32(image.data)
        return image, size

    places: list[tuple[int, ...]] = []
    bad: list[BadImage] = []
    taken = 0
    # few at a time: decoded images that wait are as large as those that are kept
    for index, loaded in enumerate(in_threads(load, range(n), workers, at_once=8 * max(1, workers))):
        if isinstance(loaded, BadImage):
            bad.append(loaded)
            places.append((0,) * 6)
        else:
            image, size = loaded
            taken += image.nbytes
            if taken > room:
                raise too_large(taken / (index + 1) * n)
            places.append((*sink.add(image), image.shape[0], image.shape[1], *size))
        if index + 1 == _GUESS_AFTER and taken / _GUESS_AFTER * n > room:
            raise too_large(taken / _GUESS_AFTER * n)
        if progress is not None:
            progress(index + 1, n)
    if bad and not skip_bad:
        raise refuse_bad(bad, n)
    return Made(whole(places), digests, checksums, tuple(bad))


def _write(path: Path, samples: Samples, form: Form, workers: int, skip_bad: bool, progress: Progress | None) -> None:
    """Make the file: beside its place, synced, then moved there."""
    for left in path.parent.glob(f".{path.stem}.*.writing"):  # of a process that was killed: the lock is ours
        left.unlink(missing_ok=True)
    room = shutil.disk_usage(path.parent).free

    def full(needed: float) -> UserError:
        return UserError(
            f"data.cache_folder {path.parent}: {len(samples):,} images take about {needed / _GIGABYTE:.1f} GB decoded, and "
            f"{room / _GIGABYTE:.1f} GB were free there: make room, lower data.cache_size ({form.side}), or choose another one"
        )

    staging = path.parent / f".{path.stem}.{os.getpid()}.writing"
    try:
        with open(staging, "wb") as file:
            made = _make(samples, form, Appended(file), room, full, workers, skip_bad, progress)
            finish(file, samples, made)
        staging.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        taken = staging.stat().st_size if staging.exists() else 0
        raise UserError(
            f"data.cache_folder {path.parent} is full: {taken / _GIGABYTE:.1f} GB of {len(samples):,} decoded images were "
            f"written; make room, lower data.cache_size ({form.side}), or choose another one"
        ) from error
    finally:
        staging.unlink(missing_ok=True)


def user_cache() -> Path:
    """Where this system keeps what programs can make again, of vitrail. Raises UserError: the user has no home folder."""
    try:
        home = Path.home()
    except RuntimeError as error:
        raise UserError("data.cache=file: there is no home folder to keep images in; give data.cache_folder") from error
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "vitrail"
