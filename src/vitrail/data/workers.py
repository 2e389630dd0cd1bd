"""How many processes load images, where the person does not say."""

import os

_FEW = 256
_MOST = 16


def cores() -> int:
    """The cores that this process may use, which in a container can be fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def loader_workers(given: int | None, images: int, device: str, world: int = 1) -> int:
    """``given``, else this process's share of the cores, at most 16; half of it where the model computes there too.

    None for few images, which are decoded before a process has started.

    Args:
        images: how many there are to load in one pass.
        device: the type of the model's device: cpu, cuda, mps.
        world: processes on this machine that compute together, each with its own workers.
    """
    if given is not None:
        return given
    if images < _FEW:
        return 0
    share = max(1, cores() // world)
    return share // 2 if device == "cpu" else min(share, _MOST)
