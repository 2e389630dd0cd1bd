"""Replace a file or a folder atomically: the old one or the new one is always there, and never half of either."""

import ctypes
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitrail.errors import UserError


def _umask() -> int:
    """The mode that new files do not get. It can only be read by setting it, which other threads would see."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _umask()
_STAGING = re.compile(r"\..+\.writing-")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux, renameat2(2)


@contextmanager
def folder(target: Path, *, keep_others: bool = False) -> Iterator[Path]:
    """A staging folder beside ``target`` that takes its place when the block ends well, and vanishes when it does not.

    Everything is synced to disk before the swap. With ``keep_others``, the new folder also gets those files of the old one
    that it lacks.
    """
    target = target.resolve()  # a link is followed, not replaced
    recover(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.writing-", dir=target.parent))
    swapped = False
    try:
        staging.chmod(0o777 & ~_UMASK)
        yield staging
        for path in staging.rglob("*"):
            path.chmod((0o777 if path.is_dir() else 0o666) & ~_UMASK)  # some libraries write for the owner alone
        if keep_others and target.is_dir():
            _carry(target, staging)
        for path in [*staging.rglob("*"), staging]:
            if not path.is_symlink():
                sync(path)
        old = _swap(staging, target)
        swapped = True
        sync(target.parent)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    finally:
        if not swapped:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def file(target: Path) -> Iterator[Path]:
    """The path of a staging file beside ``target`` that takes its place when the block ends well, and vanishes else.

    Raises:
        UserError: ``target`` is a pipe or a device, whose place no file may take.
    """
    if target.exists() and not (target.is_file() or target.is_dir()):  # of a folder the system says so
        raise UserError(f"{target}: a pipe or a device, and no file: name a file")
    target = target.resolve()  # a link is followed, not replaced
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.writing-", suffix=target.suffix, dir=target.parent)
    os.close(descriptor)
    staging = Path(name)
    try:
        staging.chmod(0o666 & ~_UMASK)
        yield staging
        sync(staging)
        staging.replace(target)
        sync(target.parent)
    finally:
        staging.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what writing that was killed has left in ``folder``; nobody else may be writing there now."""
    if folder.is_dir():
        for path in folder.iterdir():
            if _STAGING.match(path.name):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def recover(target: Path) -> None:
    """Put a folder back that a crash left under its second name, where two renames had to do the work of one."""
    if not target.exists() and _previous(target).exists():
        _previous(target).rename(target)


def _carry(old: Path, staging: Path) -> None:
    """Give ``staging`` what it lacks of ``old``, before the swap, so that no crash can lose it."""
    for path in old.iterdir():
        copy = staging / path.name
        if copy.exists() or copy.is_symlink():
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, copy, symlinks=True, copy_function=_link)
        else:
            _link(path, copy)


def _link(path: str | Path, copy: str | Path) -> None:
    """A second name for a file, or a copy where the file system has no such thing."""
    try:
        os.link(path, copy, follow_symlinks=False)
    except OSError:
        shutil.copy2(path, copy, follow_symlinks=False)


def _swap(staging: Path, target: Path) -> Path | None:
    """Give ``staging`` the name ``target``; return where the old folder now is, None if there was none."""
    if not target.exists():
        staging.rename(target)
        return None
    if _exchange(staging, target):
        return staging
    previous = _previous(target)
    shutil.rmtree(previous, ignore_errors=True)
    target.rename(previous)
    staging.rename(target)
    return previous


def _exchange(a: Path, b: Path) -> bool:
    """Swap two names in one step; False where the system or the file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    return renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), ctypes.c_uint(_RENAME_EXCHANGE)) == 0


def _previous(target: Path) -> Path:
    return target.with_name(f".{target.name}.previous")


def sync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    if sys.platform == "win32" and path.is_dir():  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems cannot sync a folder
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)
