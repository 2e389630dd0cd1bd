"""Parts of a checkpoint that several processes write, each what it holds, and that any number of processes reads.

    model-00001-of-00004.safetensors   what the first of four processes held of the weights; ``optimizer``, ``ema`` alike

The form is torch.distributed.checkpoint's: safetensors files, each with a header that says where its pieces belong. A part
that one process has written whole (``model.safetensors``) is read by the same code, and every tensor arrives to the bit,
cut up as the reader wants it. Import this module late: it takes torch.distributed, and a second.
"""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from vitrail.errors import Failure
from vitrail.weights import replace
from vitrail.weights.folder import sha256

_DIGEST = 32  # bytes of a SHA-256


@contextmanager
def together(target: Path, group: dist.ProcessGroup) -> Iterator[Path]:
    """``replace.folder`` for all processes at once: one staging folder, which becomes ``target`` if all of them end well.

    Raises:
        Failure: in the processes that did well, if another did not; or the folder is not seen by all of them.
    """
    with ExitStack() as stack:
        name = [""]
        with _agreed(group):
            if dist.get_rank() == 0:
                name = [stack.enter_context(replace.folder(target)).name]
        dist.broadcast_object_list(name, src=0, group=group)
        staging = target.resolve().parent / name[0]
        with _agreed(group):
            if not staging.is_dir():
                raise Failure(f"{staging} is not seen by every process: put --out on a disk that all machines share")
        with _agreed(group):
            yield staging
        with _agreed(group):
            stack.close()


def save_parts(staging: Path, tensors: Mapping[str, Mapping[str, Tensor]], group: dist.ProcessGroup) -> dict[str, str]:
    """Write what this process holds of each part, as a file of its own; every process must call it.

    Args:
        staging: a folder that all processes see.
        tensors: of each part by name, equal names in every process; of whole tensors the first one's are written.
        group: as ``Devices.writing_group`` gives it.

    Returns:
        In every process, the SHA-256 of every file that any process has written.

    Raises:
        OSError: in every process, what the first one that could not write met with, such as a full disk.
        Failure: in the others, if a process failed otherwise.
    """
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    hashes: dict[str, str] = {}
    for part, named in tensors.items():
        mine = f"{part}-{rank + 1:05d}-of-{world:05d}.safetensors"
        own = staging / f".{part}"  # the writer names its files alike for every part
        writer = dcp.HuggingFaceStorageWriter(str(own), save_distributed=True)
        try:
            # of what each process has whole, the first one's is kept, as without sharding: statistics of a batch norm differ
            planner = dcp.DefaultSavePlanner(dedup_save_to_lowest_rank=True)
            dcp.save(dict(named), storage_writer=writer, planner=planner, process_group=group)
        except CheckpointException as failure:
            raise _cause(failure) from failure
        digest = torch.zeros(_DIGEST, dtype=torch.uint8)  # of a process that holds nothing of this part
        with _agreed(group):
            for file in own.glob(f"shard-{rank + 1:05d}-*.safetensors"):
                file.rename(staging / mine)
                digest = torch.frombuffer(bytearray.fromhex(sha256(staging / mine)), dtype=torch.uint8)
        digests = [torch.zeros_like(digest) for _ in range(world)]
        dist.all_gather(digests, digest, group=group)
        with _agreed(group):
            if rank == 0:
                own.rmdir()
        for number, found in enumerate(digests):
            if found.any():
                name = f"{part}-{number + 1:05d}-of-{world:05d}.safetensors"
                hashes[name] = bytes(found.tolist()).hex()
    return hashes


def load_parts(path: Path, into: Mapping[str, Mapping[str, Tensor]], group: dist.ProcessGroup | None = None) -> None:
    """Fill tensors, whole or cut up, with what a checkpoint holds of them; where processes train, all must call it.

    Args:
        path: the folder of a checkpoint that one process or several have written.
        into: of each part the tensors to fill, by name: all that the checkpoint has.
        group: the processes; None for all of them, or for this one where it is alone.

    Raises:
        ValueError: a tensor is missing, left over, of another shape or type, or not there in full.
        OSError: a file cannot be read.
    """
    for part, named in into.items():
        reader = _reader(path, part)
        _check(path, part, _described(reader), named)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is no mistake
            try:
                dcp.load(dict(named), storage_reader=reader, process_group=group, no_dist=not dist.is_initialized())
            except CheckpointException as failure:
                raise _cause(failure) from failure


def shapes(path: Path, part: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a part, read from the headers alone."""
    return {name: tuple(found.size) for name, found in _described(_reader(path, part)).items()}


def files(path: Path, part: str) -> list[Path]:
    """The files of a part: one that is whole, or one for each process that had some of it."""
    return [*path.glob(f"{part}.safetensors"), *sorted(path.glob(f"{part}-?????-of-?????.safetensors"))]


class _FilesOf(FileSystem):
    """A folder in which the files of one part are seen alone: names of tensors are the same in several parts."""

    def __init__(self, part: str) -> None:
        self.part = part

    def ls(self, path: object) -> list[str]:
        return [str(file) for file in files(Path(str(path)), self.part)]


def _reader(path: Path, part: str) -> dcp.HuggingFaceStorageReader:
    reader = dcp.HuggingFaceStorageReader(str(path))
    reader.fs = _FilesOf(part)
    return reader


def _described(reader: dcp.HuggingFaceStorageReader) -> dict[str, TensorStorageMetadata]:
    described = reader.read_metadata().state_dict_metadata
    return {name: found for name, found in described.items() if isinstance(found, TensorStorageMetadata)}


def _check(path: Path, part: str, there: Mapping[str, TensorStorageMetadata], wanted: Mapping[str, Tensor]) -> None:
    """A ValueError unless the part has these tensors and no others, each of them in full."""
    for name in sorted(there.keys() ^ wanted.keys()):
        raise ValueError(f"{path}: {part} {'lacks' if name in wanted else 'has a tensor that nobody wants:'} {name}")
    for name, tensor in wanted.items():
        size, dtype = tuple(there[name].size), there[name].properties.dtype
        if size != tuple(tensor.shape) or dtype != tensor.dtype:
            raise ValueError(f"{path}: {part} {name} is {size} of {dtype}, not {tuple(tensor.shape)} of {tensor.dtype}")
        if sum(math.prod(piece.sizes) for piece in there[name].chunks) != math.prod(size):
            raise ValueError(f"{path}: {part} {name} is not there in full: a file is missing")


def _cause(failure: CheckpointException) -> Exception:
    """What a process met with: what is wrong with a disk first."""
    causes = [cause for cause, _ in failure.failures.values()]
    chosen = next((cause for cause in causes if isinstance(cause, OSError)), causes[0])
    return chosen if isinstance(chosen, Exception) else Failure(f"a process could not go on: {chosen!r}")


@contextmanager
def _agreed(group: dist.ProcessGroup) -> Iterator[None]:
    """What fails in one process fails in all of them, at the end of this block."""
    error: BaseException | None = None
    try:
        yield
    except BaseException as caught:
        error = caught
    failed = torch.tensor(int(error is not None))
    dist.all_reduce(failed, dist.ReduceOp.MAX, group=group)
    if error is not None:
        raise error
    if failed:
        raise Failure("another process could not write its part of the checkpoint, and says why")
