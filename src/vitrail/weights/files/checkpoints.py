"""Checkpoint files of torch: what their pickle describes, and where in the file the memory of its tensors lies.

Since torch 1.6 they are a zip with ``data.pkl`` and a file a storage; before, pickles and storages one after another.
What is in them is described, not run (see ``pickles``).
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vitrail.errors import UserError
from vitrail.weights.files.archives import UNREADABLE, zip_directory
from vitrail.weights.files.pickled_names import SavedTensor, Storage
from vitrail.weights.files.pickles import PICKLE_LIMIT, interpret
from vitrail.weights.files.stored import ITEM, Stored
from vitrail.weights.files.untrusted import Limited, regular, shown, size

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # how a file from before torch 1.6 begins
_LOCAL_HEADER, _LOCAL_SIGNATURE = 30, b"PK\x03\x04"  # bytes before a zip member's name and extra field
_SHARED = 2  # tensors may share memory, as tied weights do: together they may claim this many times the file
_SLACK = 1 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file, described."""

    path: Path
    content: object
    """What was saved: dictionaries, lists, numbers, texts, SavedTensor and Placeholder."""
    places: Mapping[str, tuple[int, int]]
    """Key of a storage -> where it begins in the file, and its bytes."""
    big_endian: bool = False

    def locate(self, tensors: Mapping[str, SavedTensor]) -> list[Stored]:
        """Tensors by name, as they lie in the file.

        Raises:
            UserError: one that does not fit into its storage, or together they are far larger than the file.
        """
        try:
            found = [self._locate(name, tensor) for name, tensor in tensors.items()]
            file_size, claimed = regular(self.path).st_size, sum(tensor.bytes for tensor in found)
            if claimed > _SHARED * file_size + _SLACK:
                raise ValueError(f"{size(file_size)} that claim to hold tensors of {size(claimed)}")
        except ValueError as error:
            raise UserError(f"{shown(self.path)} is not a readable checkpoint of torch: {shown(error)}") from None
        return found

    def _locate(self, name: str, tensor: SavedTensor) -> Stored:
        if tensor.storage.key not in self.places:
            raise ValueError(f"the memory of {shown(name)} is missing")
        begin, length = self.places[tensor.storage.key]
        offset = tensor.storage.start * tensor.storage.item + tensor.offset * ITEM.get(tensor.dtype, 1)
        stored = Stored(
            name=name,
            dtype=tensor.dtype,
            shape=tensor.shape,
            offset=begin + offset,
            stride=None if _row_after_row(tensor) else tensor.stride,
            big_endian=self.big_endian,
        )
        if offset + stored.span > length:
            raise ValueError(
                f"{shown(name)} claims {size(stored.span)} ({shown(stored.shape, 80)}), but has {size(length - offset)}"
            )
        return stored


def read_checkpoint(path: Path) -> Checkpoint:
    """Describe a file that ``torch.save`` wrote, of any age but the tar files of before torch 0.4.

    Raises:
        UserError: it wants to run code, or is damaged, or something else.
    """
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == _LOCAL_SIGNATURE
            limited = Limited(file, PICKLE_LIMIT)
            return _from_zip(path, limited) if is_zip else _from_stream(path, limited)
    except UNREADABLE as error:
        raise UserError(f"{shown(path)} is not a readable checkpoint of torch: {shown(error)}") from None


def _from_zip(path: Path, file: Limited) -> Checkpoint:
    with zipfile.ZipFile(file) as archive:
        members = zip_directory(archive, file.size)
        pickles = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
        if any(name.rpartition("/")[2] == "constants.pkl" for name in members):
            raise ValueError("it is a TorchScript archive, which is code: save the model's state_dict() instead")
        if len(pickles) != 1:
            raise ValueError(f"it is a zip with {len(pickles)} files named data.pkl instead of one")
        root = pickles[0].removesuffix("data.pkl")
        packed = [name for name, member in members.items() if member.compress_type != zipfile.ZIP_STORED]
        if packed:  # torch never does; and what it unpacks to would be anyone's guess
            raise ValueError(f"{shown(packed[0])} in it is compressed: unpack it, and save it again with torch")
        begins = {name: _data_begins(file, member) for name, member in members.items()}
        order = b"little"
        if f"{root}byteorder" in members:
            file.seek(begins[f"{root}byteorder"])
            order = file.read(min(members[f"{root}byteorder"].file_size, 6))
    file.seek(begins[pickles[0]])
    content = interpret(file, shown(path))
    places = {
        name.removeprefix(f"{root}data/"): (begins[name], member.file_size)
        for name, member in members.items()
        if name.startswith(f"{root}data/")
    }
    return Checkpoint(path, content, places, big_endian=order == b"big")


def _data_begins(file: Limited, member: zipfile.ZipInfo) -> int:
    """Where the content of a file in the archive begins, which its own header says, not the directory."""
    file.seek(member.header_offset)
    header = file.read(_LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER or not header.startswith(_LOCAL_SIGNATURE):
        raise ValueError(f"{shown(member.filename)} is not where the directory of the archive says")
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    begin = member.header_offset + _LOCAL_HEADER + name + extra
    if begin + member.file_size > file.size:
        raise ValueError(f"it ends within {shown(member.filename)}")
    return begin


def _from_stream(path: Path, file: Limited) -> Checkpoint:
    """Five pickles (a magic number, the version, the machine, what was saved, keys), then the storages by key."""
    source, storages = shown(path), dict[str, Storage]()
    if interpret(file, source) != _MAGIC or interpret(file, source) != _PROTOCOL:
        raise ValueError("it is a pickle, but not one that torch.save wrote")
    machine = interpret(file, source)
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise ValueError(
            "a big-endian machine wrote it, in the way of before torch 1.6: save it again with a newer torch"
        )
    content, keys = interpret(file, source, storages), interpret(file, source)
    places, at = {}, file.tell()
    for key in keys if isinstance(keys, list) else ():
        file.seek(at)
        length = int.from_bytes(file.read(8), "little") * storages[key].item if key in storages else file.size
        if at + 8 + length > file.size:
            raise ValueError(f"it ends within the storage {shown(key)}")
        places[key] = (at + 8, length)
        at += 8 + length
    return Checkpoint(path, content, places)


def _row_after_row(tensor: SavedTensor) -> bool:
    step = 1
    for length, stride in zip(tensor.shape[::-1], tensor.stride[::-1], strict=False):
        if length != 1 and stride != step:
            return False
        step *= length
    return len(tensor.shape) == len(tensor.stride)
