"""The device that a model computes on: the one a person names, or the best there is; and how a CPU's memory is kept."""

import ctypes
import os
import sys

import torch

from vitrail.errors import UserError


def best_device(local_rank: int = 0) -> torch.device:
    """The GPU of this process, Apple's GPU, or the CPU; ``VITRAIL_DEVICE`` overrides (``cpu``, ``cuda:1`` ...).

    Raises:
        UserError: ``VITRAIL_DEVICE`` names none that can be used.
    """
    forced = os.environ.get("VITRAIL_DEVICE")
    if forced:
        return _usable(forced, "VITRAIL_DEVICE ")
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank)
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def named_device(name: str) -> torch.device:
    """The device called so by torch, such as ``cuda:1``; ``auto`` is ``best_device()``.

    Raises:
        UserError: there is no such device, or it cannot be used.
    """
    return best_device() if name == "auto" else _usable(name)


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # mallopt(3)


def keep_freed_memory() -> None:
    """Have the C library keep the memory that this process frees, for the next that it asks for.

    Every activation is a large piece of memory, and glibc hands each back to the system when it is freed, which clears
    the same pages again for the next one: of a training step on a CPU, that is a tenth (``benchmarks/train_step.py``).
    The process then keeps the most memory that it ever had. Other C libraries are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 64 << 20)


def _usable(name: str, source: str = "device ") -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"{source}{name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device
