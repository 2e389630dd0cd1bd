"""What a file of weights is, and which tensors its headers promise, in any of the containers that open here."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitrail.errors import UserError
from vitrail.weights.files.archives import npz_members, safetensors_header
from vitrail.weights.files.checkpoints import read_checkpoint
from vitrail.weights.files.states import choose, without_wrappers
from vitrail.weights.files.stored import Stored
from vitrail.weights.files.untrusted import regular, shown

Container = Literal["safetensors", "pickle", "npz"]
_PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".tar")


@dataclass(frozen=True)
class File:
    """A file of weights, described."""

    path: Path
    status: os.stat_result
    """What the system said of it when it was described."""
    tensors: Sequence[Stored]
    """In the order in which they lie in the file."""


def describe(paths: Sequence[Path]) -> tuple[Container, list[File], list[str]]:
    """The container, the files, and sentences for the person on what of them was taken. Imports no torch.

    Raises:
        UserError: a file is missing, damaged, of an unknown kind, or wants to run code.
    """
    kinds = {_container(path) for path in paths}
    if len(kinds) != 1:
        raise UserError(f"weights lie in one file, or in several of one kind: not in {shown([str(p) for p in paths])}")
    container = kinds.pop()
    statuses = [regular(path) for path in paths]
    found, notes = _DESCRIBE[container](paths)
    return container, [File(*of_one) for of_one in zip(paths, statuses, found, strict=True)], notes


def _container(path: Path) -> Container:
    """What a file is: by its name where that is plain, else by its first bytes."""
    file_size = regular(path).st_size
    try:
        with path.open("rb") as file:
            start = file.read(128)
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be opened: {shown(error)}") from None
    if not start:
        raise UserError(f"{shown(path)} is empty: fetch or save it again")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{shown(path)} is a pointer of Git LFS, not the weights: fetch them with git lfs pull")
    if path.suffix == ".safetensors":
        return "safetensors"
    if path.suffix == ".npz":
        return "npz"
    if start.startswith(b"PK"):  # the name of a zip's first file follows its 30 bytes of header
        first = start[30 : 30 + int.from_bytes(start[26:28], "little")]
        return "npz" if first.endswith(b".npy") else "pickle"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < file_size:
        return "safetensors"
    if path.suffix in _PICKLES or start.startswith(b"\x80"):
        return "pickle"
    raise UserError(f"{shown(path)} is neither a safetensors file, nor a checkpoint of torch, nor a .npz file")


def _safetensors(paths: Sequence[Path]) -> tuple[list[list[Stored]], list[str]]:
    return [safetensors_header(path) for path in paths], []


def _npz(paths: Sequence[Path]) -> tuple[list[list[Stored]], list[str]]:
    found = [npz_members(path) for path in paths]
    return [tensors for tensors, _ in found], [note for _, notes in found for note in notes]


def _pickles(paths: Sequence[Path]) -> tuple[list[list[Stored]], list[str]]:
    checkpoints = [read_checkpoint(path) for path in paths]
    states = [choose(checkpoint.content, shown(checkpoint.path)) for checkpoint in checkpoints]
    names, of_names = without_wrappers(name for state in states for name in state.tensors)
    found = [
        checkpoint.locate({names[name]: tensor for name, tensor in state.tensors.items() if name in names})
        for checkpoint, state in zip(checkpoints, states, strict=True)
    ]
    notes = [f"{shown(path.name)}: {note}" for path, state in zip(paths, states, strict=True) for note in state.notes]
    return found, notes + [f"{shown(paths[0].name)}: {note}" for note in of_names]


_Describe = Callable[[Sequence[Path]], tuple[list[list[Stored]], list[str]]]
_DESCRIBE: Mapping[Container, _Describe] = {"safetensors": _safetensors, "npz": _npz, "pickle": _pickles}
