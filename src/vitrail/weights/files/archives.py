"""What safetensors and .npz files hold, from their headers: checked before memory is taken, and without torch.

safetensors: https://huggingface.co/docs/safetensors. The .npy header: numpy.lib.format; a .npz is a zip of such files.
"""

import json
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitrail.errors import UserError
from vitrail.weights.files.stored import Stored
from vitrail.weights.files.untrusted import HEADER_LIMIT, Limited, regular, shown, size

_UNPACKED = 20  # times the file's size; compressed weights reach 2, and a bomb 1000
_SLACK = 64 << 20  # bytes that may be unpacked from however little

_SAFETENSORS = {
    "BOOL": "bool",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    **{
        f"{letter}{bits}": f"{word}{bits}" for letter, word in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)
    },
}


def safetensors_header(path: Path) -> list[Stored]:
    """The tensors of a safetensors file in the order in which they lie, from the header's end on without a gap.

    Raises:
        UserError: truncated, or a header that is not what the format says.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > HEADER_LIMIT and length > regular(path).st_size:
                raise ValueError(f"it claims a header of {size(length)}, more than the whole file")
            if length > HEADER_LIMIT:
                raise ValueError(f"it has {size(length)} of names and shapes")
            with safe_open(path, framework="np"):  # checks types, sizes and offsets; reads no tensor
                pass
            header = json.loads(file.read(length), object_pairs_hook=_each_once)
        header.pop("__metadata__", None)
        tensors = [
            Stored(
                name=name,
                dtype=_SAFETENSORS.get(entry["dtype"], entry["dtype"]),
                shape=tuple(entry["shape"]),
                offset=8 + length + entry["data_offsets"][0],
            )
            for name, entry in header.items()
        ]
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{shown(path)} is not a readable safetensors file: {shown(error)}") from None
    return sorted(tensors, key=lambda tensor: (tensor.offset, tensor.bytes))


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in values if names.count(name) > 1)
        raise ValueError(f"its header names {shown(twice)} twice")
    return values


def zip_directory(archive: zipfile.ZipFile, file_size: int) -> dict[str, zipfile.ZipInfo]:
    """The files of an archive by name. Raises ValueError where two have one name, or sizes cannot be."""
    members = {member.filename: member for member in archive.infolist()}
    if len(members) < len(archive.infolist()):
        raise ValueError("two of its files have one name")
    for name, member in members.items():
        stored = member.compress_type == zipfile.ZIP_STORED
        if member.flag_bits & 1 or not (stored or member.compress_type == zipfile.ZIP_DEFLATED):
            raise ValueError(f"{shown(name)} is encrypted, or packed in a way that does not open here")
        if stored and member.file_size != member.compress_size:
            raise ValueError(f"{shown(name)} has two sizes")
    if sum(member.compress_size for member in members.values()) > file_size:
        raise ValueError("its files claim to be larger than it is")
    return members


def npz_members(path: Path) -> tuple[list[Stored], list[str]]:
    """The arrays of a .npz file, and notes on what in it is none.

    Raises:
        UserError: damaged, arrays of objects (which only a pickle could make), or sizes that do not agree.
    """
    tensors, others = [], []
    file_size = regular(path).st_size
    try:
        with path.open("rb") as file, zipfile.ZipFile(Limited(file)) as archive:
            members = zip_directory(archive, file_size)
            unpacked = sum(member.file_size for member in members.values())
            if unpacked > _UNPACKED * file_size + _SLACK:
                raise ValueError(f"{size(file_size)} that claim to unpack to {size(unpacked)}")
            for name, member in members.items():
                tensor = _array(archive, member) if name.endswith(".npy") else None
                if tensor is None:
                    others.append(name)
                else:
                    tensors.append(tensor)
    except UNREADABLE as error:
        raise UserError(f"{shown(path)} is not a readable .npz file: {shown(error)}") from None
    notes = []
    if others:
        notes.append(f"{shown(path.name)}: left out {shown(', '.join(others))}: no arrays of numbers")
    return tensors, notes


# Whatever zipfile, zlib and numpy raise at a damaged file.
UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    SyntaxError,
    tokenize.TokenError,
    RuntimeError,  # RecursionError with it
    MemoryError,  # Python's parser, at an expression nested too deeply
)


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Stored | None:
    """One .npy file, from its header; None for an array of text or dates."""
    from numpy.lib import format as npy

    name = member.filename.removesuffix(".npy")
    with archive.open(member) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, on headers that Python 2 wrote
        # Version 1 has at most 64 kB of header; the others are for what no tensor is.
        if npy.read_magic(file) != (1, 0):
            raise ValueError(f"{shown(name)} has a header that no plain array needs")
        shape, columns_first, dtype = npy.read_array_header_1_0(file)
        offset = file.tell()
    if dtype.hasobject:
        raise ValueError(f"{shown(name)} is an array of Python objects, which would run code to be read")
    if dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None:
        kind = "bfloat16"  # numpy has no such type, and writes its bytes
    elif dtype.kind in "biufc":
        kind = dtype.name
    else:
        return None
    tensor = Stored(
        name=name,
        dtype=kind,
        shape=shape,
        offset=offset,
        stride=_columns_first(shape) if columns_first and len(shape) > 1 else None,
        member=member.filename,
        big_endian=dtype.byteorder == ">",
    )
    if offset + tensor.bytes != member.file_size:
        raise ValueError(
            f"{shown(name)} claims {size(tensor.bytes)} ({shown(shape, 80)}), but has {size(member.file_size - offset)}"
        )
    return tensor


def _columns_first(shape: Sequence[int]) -> tuple[int, ...]:
    steps = [1]
    for length in shape[:-1]:
        steps.append(steps[-1] * max(length, 1))
    return tuple(steps)
