"""Files that others wrote: regular ones alone, inside their folder, JSON within limits, and words fit to print."""

import io
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from vitrail.errors import UserError

JSON_LIMIT = 64 << 20  # bytes; the largest index or configuration published has a hundredth of it
HEADER_LIMIT = 16 << 20  # bytes of names and shapes; the largest models have a hundredth of it
_HUB_BLOBS, _HUB_SNAPSHOTS, _HUB_MODEL = "blobs", "snapshots", "models--"


def inside(folder: Path, path: Path) -> Path:
    """The path, if it stays in its folder once links are followed.

    In the Hugging Face Hub's cache, where ``snapshots/COMMIT/FILE`` is a link to ``blobs/HASH`` of the same model, a
    link to there is as good as a file.

    Raises:
        UserError: the path is a link that leads out of the folder.
    """
    try:
        root, target = folder.resolve(), path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle; a name that no file can have
        raise UserError(f"{shown(path)} leads nowhere: {shown(error)}") from None
    if target.is_relative_to(root) or target.parent == _blobs(root):
        return path
    raise UserError(
        f"{shown(path)} is a link that leads out of the folder to {shown(target)}: name that file itself if you trust it"
    )


def _blobs(folder: Path) -> Path | None:
    """Where the Hub's cache keeps the contents of the files in this folder; None if it is no snapshot of a model."""
    for snapshots in (folder, *folder.parents):
        if snapshots.name == _HUB_SNAPSHOTS and snapshots.parent.name.startswith(_HUB_MODEL):
            return snapshots.parent / _HUB_BLOBS if folder != snapshots else None
    return None


def regular(path: Path) -> os.stat_result:
    """What the system says of a regular file: opening anything else may wait for ever, or act.

    Raises:
        UserError: nothing is there, or a folder, a device, a pipe or a socket.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise UserError(f"there is no file {shown(path)}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{shown(path)} cannot be opened: {shown(error)}") from None
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{shown(path)} is a folder where a file should be")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{shown(path)} is a device, a pipe or a socket, where a file should be")
    return status


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: the file is missing, larger than 64 MB, nested beyond reason, not JSON, or holds something else.
    """
    try:
        if regular(path).st_size > JSON_LIMIT:
            raise ValueError(f"it is larger than {size(JSON_LIMIT)}")
        values = json.loads(path.read_text(encoding="utf-8"))
    except UserError as error:
        raise UserError(f"{shown(path)} cannot be read as JSON: {error}") from None
    except RecursionError:
        raise UserError(f"{shown(path)} cannot be read as JSON: it is nested too deeply") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{shown(path)} cannot be read as JSON: {shown(error)}") from None
    if not isinstance(values, dict):
        raise UserError(f"{shown(path)} holds no JSON object")
    return values


class Limited:
    """A file of which no single read may be large: a header that claims more is refused before memory is taken."""

    def __init__(self, file: BinaryIO, limit: int = HEADER_LIMIT) -> None:
        self.file, self.limit = file, limit
        self.size = file.seek(0, io.SEEK_END)
        file.seek(0)
        self.seek, self.tell, self.seekable, self.close = file.seek, file.tell, file.seekable, file.close

    def read(self, count: int = -1) -> bytes:
        left = max(self.size - self.file.tell(), 0)
        count = left if count < 0 else min(count, left)
        if count > self.limit:
            raise ValueError(f"it has {size(count)} of names and shapes")
        return self.file.read(count)

    def readline(self) -> bytes:
        return self.file.readline(self.limit)


def shown(text: object, limit: int = 300) -> str:
    """A text from a file, or about one, on one line that a terminal can print: at most ``limit`` characters of it.

    >>> shown("blocks.0" + chr(27) + "[2J" + chr(10) + "weight")
    'blocks.0?[2J weight'
    """
    # Cut first: a name of many megabytes is not to be walked through.
    cut = str(text)[: limit + 1]
    line = "".join(c if c.isprintable() else "?" for c in " ".join(cut.split()))
    return line if len(cut) <= limit else f"{line[: limit - 3]}..."


def size(count: float) -> str:
    """Bytes, in words.

    >>> size(10_000_000_000)
    '10.0 GB'
    """
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
