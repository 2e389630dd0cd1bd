"""Slots: memory of two processes, into which one writes tensors and from which the other copies them."""

import mmap
import os
import pickle
from collections.abc import Sequence
from multiprocessing import reduction
from typing import Any

import numpy as np
import torch

_ALIGN = 64  # bytes


class Slot:
    """Memory that has no name, grows as needed, and is gone with the last process that holds it.

    It is not below /dev/shm, which many containers keep small. Linux alone has it: see ``open_slot``.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._memory: mmap.mmap | None = None

    def write(self, tensors: Sequence[torch.Tensor]) -> tuple[int, int]:
        """Write tensors over what was there; what ``read`` needs to find them is returned."""
        end = 0
        places = []
        for tensor in tensors:
            places.append((end, tuple(tensor.shape), tensor.dtype))
            end += -(-tensor.nbytes // _ALIGN) * _ALIGN
        index = pickle.dumps(places)
        memory = self._mapped(end + len(index))
        for (start, shape, _), tensor in zip(places, tensors, strict=True):
            values = tensor.numpy()
            np.ndarray(shape, values.dtype, memory, start)[...] = values
        memory[end : end + len(index)] = index
        return end, len(index)

    def read(self, start: int, length: int, pin_memory: bool) -> list[torch.Tensor]:
        """Copies of the tensors that ``write`` has put here, in page-locked memory if so wished."""
        memory = self._mapped(start + length)
        found = []
        for place, shape, dtype in pickle.loads(memory[start : start + length]):
            tensor = torch.empty(shape, dtype=dtype, pin_memory=pin_memory)
            values = tensor.numpy()
            values[...] = np.ndarray(shape, values.dtype, memory, place)
            found.append(tensor)
        return found

    def close(self) -> None:
        """Let go of the memory in this process."""
        self._memory = None
        os.close(self._descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self._descriptor),)  # on its way to a process that is not forked

    def _mapped(self, size: int) -> mmap.mmap:
        if self._memory is None or len(self._memory) < size:
            if os.fstat(self._descriptor).st_size < size:
                os.ftruncate(self._descriptor, size + size // 4)
            self._memory = mmap.mmap(self._descriptor, 0)
        return self._memory


def open_slot() -> Slot | None:
    """A new slot, or None where the system has no such memory."""
    try:
        return Slot(os.memfd_create("vitrail"))
    except (AttributeError, OSError):
        return None


def _received(descriptor: Any) -> Slot:
    return Slot(descriptor.detach())
