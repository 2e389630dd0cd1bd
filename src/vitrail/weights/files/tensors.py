"""Tensors from files: the one place where they are read, safely, in bounded memory, and loudly.

A file is described from its headers when it is opened, with all that they claim checked against what is there. Then
every tensor is read once, into memory of its own, and the file's digest is computed from the same bytes.
"""

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, cast

from vitrail.errors import UserError
from vitrail.weights.files.archives import UNREADABLE
from vitrail.weights.files.containers import Container, File, describe
from vitrail.weights.files.stored import CHUNK, Fill, check_finite, read
from vitrail.weights.files.untrusted import Limited, inside, read_json, shown
from vitrail.weights.files.weight_files import weights_files

if TYPE_CHECKING:
    import torch

__all__ = ["Weights", "inside", "open_weights", "read_json", "weights_files"]


_LOOKS = 3  # at weights that are being replaced, before that is told


class Changed(UserError):
    """A file of weights is not the one that was recorded, or not the one that was opened."""


@dataclass(frozen=True)
class Weights:
    """Files of weights, of which only the headers are read yet."""

    paths: tuple[Path, ...]
    container: Container
    shapes: Mapping[str, tuple[int, ...]]
    """Tensor name -> shape."""
    notes: tuple[str, ...]
    """Sentences for the person about what was taken, and why."""
    _files: tuple[File, ...] = field(repr=False)
    _recorded: Mapping[str, str] = field(repr=False)
    _replaced: "Callable[[], Weights | None]" = field(repr=False)

    def read(self, names: Collection[str] | None = None) -> "dict[str, torch.Tensor]":
        """The tensors of these names, or all, in memory of their own: floating ones as float32, others as they are.

        Raises:
            UserError: a file has another digest than the one recorded, was replaced since it was opened, or cannot be
                read; or a weight is NaN or infinite.
        """
        now = self
        for _ in range(_LOOKS - 1):
            try:
                return now._read(names)
            except Changed:
                newer = now._replaced()
                if newer is None or newer.shapes != self.shapes:
                    raise
                now = newer
        return now._read(names)

    def _read(self, names: Collection[str] | None) -> "dict[str, torch.Tensor]":
        tensors: dict[str, torch.Tensor] = {}
        for file in self._files:
            try:
                with file.path.open("rb", buffering=0) as raw:
                    _refuse_another(file, os.fstat(raw.fileno()))
                    digest = self._recorded.get(file.path.name)  # of the whole file, which is then read as a whole
                    wanted = [t for t in file.tensors if digest or names is None or t.name in names]
                    part = _READ[self.container](replace(file, tensors=wanted), raw, digest)
            except UNREADABLE as error:
                raise UserError(f"{shown(file.path)} cannot be read: {shown(error) or 'it ends too early'}") from None
            check_finite(part, shown(file.path))
            tensors |= part
        return {name: tensors[name] for name in self.shapes if name in tensors}


def open_weights(
    paths: Sequence[Path],
    *,
    recorded: Mapping[str, str] = MappingProxyType({}),
    replaced: Callable[[], Weights | None] = lambda: None,
) -> Weights:
    """Describe files of weights: safetensors, a checkpoint of torch (``.pth``, ``.pt``, ``.bin``, ``.ckpt``), ``.npz``.

    Of a checkpoint, averaged weights and the teacher's are taken before others, and what wrapped the model is taken
    off the names; ``notes`` says so. Nothing in a file is run, and torch is not imported.

    Args:
        paths: one file, or the parts of a model that lies in several.
        recorded: file name -> SHA-256 in hexadecimal of when it was written; ``read`` refuses a file with another.
        replaced: asked when a file has changed: the weights that are there now, if they were replaced as a whole since.

    Raises:
        UserError: missing, damaged, no weights, or code that wants to run; a tensor in two files.
    """
    try:
        container, files, notes = describe(paths)
    except UserError:
        for path in paths:  # where we know what should be there, damage is the likelier reason
            if path.name in recorded and path.is_file():
                with path.open("rb") as file:
                    _refuse_damaged(path, hashlib.file_digest(file, "sha256").hexdigest(), recorded[path.name])
        raise
    shapes: dict[str, tuple[int, ...]] = {}
    for described in files:
        for tensor in described.tensors:
            if tensor.name in shapes:
                raise UserError(f"{shown(described.path)}: {shown(tensor.name)} is in another of the files too")
            shapes[tensor.name] = tensor.shape
    if not shapes:
        raise UserError(f"{shown(paths[0])} holds no tensors")
    return Weights(
        tuple(paths), container, MappingProxyType(shapes), tuple(notes), tuple(files), dict(recorded), replaced
    )


def _read_safetensors(file: File, raw: io.FileIO, digest: str | None) -> "dict[str, torch.Tensor]":
    """Header and tensors cover the file without a gap, so that reading it from end to end reads them in turn."""
    hashed = hashlib.sha256()
    fill = _fill(raw, hashed.update if digest else None)
    tensors: dict[str, torch.Tensor] = {}
    if digest:
        fill(memoryview(bytearray(min((tensor.offset for tensor in file.tensors), default=0))))
    for tensor in file.tensors:
        if not digest:  # some may be left out
            raw.seek(tensor.offset)
        tensors[tensor.name] = read(tensor, fill)
    if digest:
        _refuse_damaged(file.path, hashed.hexdigest(), digest)
    return tensors


def _read_pickle(file: File, raw: io.FileIO, digest: str | None) -> "dict[str, torch.Tensor]":
    _check_digest(file.path, raw, digest)
    fill, tensors = _fill(raw), {}
    for tensor in file.tensors:
        raw.seek(tensor.offset)
        tensors[tensor.name] = read(tensor, fill)
    return tensors


def _read_npz(file: File, raw: io.FileIO, digest: str | None) -> "dict[str, torch.Tensor]":
    _check_digest(file.path, raw, digest)
    tensors = {}
    with zipfile.ZipFile(Limited(raw)) as archive:
        for tensor in file.tensors:
            assert tensor.member is not None
            with archive.open(tensor.member) as member:  # unpacks, and checks what the archive says of the bytes
                member.read(tensor.offset)
                tensors[tensor.name] = read(tensor, _fill(cast(io.BufferedIOBase, member)))
                if member.read(1):
                    raise ValueError(f"{shown(tensor.name)} is longer than its header says")
    return tensors


_Read = Callable[[File, io.FileIO, str | None], "dict[str, torch.Tensor]"]
_READ: Mapping[Container, _Read] = {"safetensors": _read_safetensors, "pickle": _read_pickle, "npz": _read_npz}


class _Readable(Protocol):
    def readinto(self, buffer: memoryview, /) -> int | None: ...


def _fill(file: _Readable, observe: Callable[[memoryview], object] | None = None) -> Fill:
    """A function that puts the file's next bytes into all of a buffer, and shows them to ``observe`` piece by piece."""

    def fill(buffer: memoryview) -> None:
        for start in range(0, len(buffer), CHUNK):
            piece = buffer[start : start + CHUNK]
            done = 0
            while done < len(piece):
                count = file.readinto(piece[done:])
                if not count:
                    raise EOFError("it ends too early")
                done += count
            if observe is not None:
                observe(piece)

    return fill


def _check_digest(path: Path, raw: io.FileIO, digest: str | None) -> None:
    if digest:
        raw.seek(0)
        _refuse_damaged(path, hashlib.file_digest(raw, "sha256").hexdigest(), digest)


def _refuse_damaged(path: Path, found: str, recorded: str) -> None:
    if found != recorded:
        raise Changed(
            f"{shown(path)} is damaged or was changed: its SHA-256 is not the one in config.json; restore it, or save "
            "the model again"
        )


def _refuse_another(file: File, now: os.stat_result) -> None:
    """The headers were read from one file: the tensors must not come from another that has taken its place."""
    if any(getattr(now, key) != getattr(file.status, key) for key in ("st_ino", "st_size", "st_mtime_ns")):
        raise Changed(f"{shown(file.path)} was replaced or written to since it was opened: open it again")
