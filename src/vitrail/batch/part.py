"""Part: the answers to one stretch of the inputs, as a file that appears whole, and tells if it is no longer whole.

The file is the SHA-256 of all that follows, a line of JSON (what it answers, how long it is), a line of JSON for each
image, and the features of those that have some, as float32 in the order of their lines.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.errors import Failure

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Answer:
    """What was found of one image."""

    row: dict[str, Any]
    """What is written of it, of JSON's types; ``error`` says why it could not be read, and is None where it could."""
    values: "np.ndarray | None" = None
    """Its features (D,) float32."""


def write(path: Path, answers: Sequence[Answer], inputs: str) -> None:
    """Write the file, whole or not at all.

    Args:
        path: the file.
        answers: those to the whole stretch, in its order.
        inputs: the digest of the inputs that are answered.
    """
    from vitrail.weights import replace

    # JSON's escapes keep what is not a character in a name of a file
    rows = "".join(json.dumps(answer.row) + "\n" for answer in answers).encode()
    values = [answer.values for answer in answers if answer.values is not None]
    header = {"inputs": inputs, "rows": len(rows), "width": len(values[0]) if values else 0}
    body = json.dumps(header).encode() + b"\n" + rows + b"".join(v.astype("<f4").tobytes() for v in values)
    with replace.file(path) as staging, staging.open("wb") as file:
        file.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def answered(path: Path) -> str | None:
    """The digest of the inputs that a file answers; None where there is none, or it is damaged."""
    found = _read(path)
    return None if found is None else str(found[0]["inputs"])


def read(path: Path) -> Iterator[Answer]:
    """The answers in a file.

    Raises:
        Failure: it has been damaged, or is gone.
    """
    found = _read(path)
    if found is None:
        raise Failure(f"{path} was damaged or removed while it was needed: give the same command again")
    header, body = found
    values = _values(body[header["rows"] :], header["width"]) if header["width"] else iter(())
    for line in body[: header["rows"]].splitlines():
        row = json.loads(line)
        yield Answer(row, next(values, None) if row["error"] is None else None)


def _values(data: bytes, width: int) -> "Iterator[np.ndarray]":
    import numpy as np

    return iter(np.frombuffer(data, "<f4").reshape(-1, width))


def _read(path: Path) -> tuple[dict[str, Any], bytes] | None:
    """The line of JSON, and what follows it."""
    try:
        digest, _, body = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    header, _, rest = body.partition(b"\n")
    return json.loads(header), rest
