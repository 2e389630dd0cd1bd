"""What ends a run from outside, told in a line: a full disk, another process that is gone."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from vitrail.errors import Failure, is_full
from vitrail.training import checkpoint
from vitrail.training.device import Devices
from vitrail.training.interrupt import StopRequest

_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_LOST_PEER = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "process group")


@contextmanager
def explained(folder: Path, place: Devices, stop: StopRequest) -> Iterator[None]:
    """Within the context of a run in ``folder``, what its machine does to it is a Failure that says how to go on."""
    try:
        yield
    except Exception as error:
        if is_full(error):
            where = getattr(error, "filename", None) or folder
            raise Failure(f"no space left to write {where}: make room; {_way_out(folder)}") from error
        if isinstance(error, OSError) and error.errno in _REFUSED:
            where = getattr(error, "filename", None) or folder
            raise Failure(f"{where}: {error.strerror}: see to its permissions; {_way_out(folder)}") from error
        if place.world > 1 and _lost_peer(error):
            stop.last_word = True
            raise Failure(f"another process of this run has ended or does not answer; {_way_out(folder)}") from error
        raise


def _lost_peer(error: BaseException) -> bool:
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _LOST_PEER)


def _way_out(folder: Path) -> str:
    if not (folder / "recipe.yaml").is_file():
        return "nothing was begun yet: then run the same command again"
    saved = checkpoint.steps(folder / "checkpoints")
    what = f"the state of step {saved[-1]} is whole" if saved else "no checkpoint was written yet"
    return f"{what}: go on with vitrail train --resume --out {folder}"
