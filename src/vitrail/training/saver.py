"""Checkpoints written beside the training: the run goes on while an earlier state of it goes to the disk."""

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from vitrail.training import checkpoint
from vitrail.training.checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass
class Saver:
    """Writes a run's checkpoints one after another, each in a thread of its own, from a copy in the CPU's memory."""

    folder: Path
    keep: int
    logs: Sequence[Path] = ()
    """Files that a checkpoint relies on: on disk before it appears."""
    group: "ProcessGroup | None" = None
    """Of the processes between which the model is cut up: all of them save; None where one has it whole."""
    _thread: threading.Thread | None = field(default=None, init=False)
    _error: BaseException | None = field(default=None, init=False)

    def save(self, now: Checkpoint, spared: Collection[int] = ()) -> None:
        """Take a copy of the state and begin to write it. Waits for the one before, and raises what that met with."""
        self.wait()
        copy = replace(
            now,
            tensors={
                part: {name: _copy(tensor) for name, tensor in named.items()} for part, named in now.tensors.items()
            },
        )
        self._thread = threading.Thread(target=self._write, args=(copy, spared), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Until the last checkpoint is on disk.

        Raises:
            Whatever has kept it from being written, such as a full disk.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def check(self) -> None:
        """Raise what a write that has ended met with, without waiting for one that goes on."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def _write(self, copy: Checkpoint, spared: Collection[int]) -> None:
        try:
            checkpoint.save(self.folder, copy, keep=self.keep, spared=spared, logs=self.logs, group=self.group)
        except BaseException as error:  # told to the training thread
            self._error = error


def _copy(tensor: Tensor) -> Tensor:
    """The tensor as it is now, in the CPU's memory, whatever the training does to it."""
    tensor = tensor.detach()
    return tensor.clone() if tensor.device.type == "cpu" else tensor.cpu()
