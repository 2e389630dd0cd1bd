"""The device that a model computes on: the one a person names, or the best there is."""

import os

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


def _usable(name: str, source: str = "device ") -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"{source}{name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device
