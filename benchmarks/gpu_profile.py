"""Where the time of a step on a GPU goes: its kernels by kind."""

import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from measure import synchronize

KINDS = (  # Inductor names its kernels after what they compute, attention among it
    ("matrix products", ("triton_tem", "triton_mm")),
    ("compiled passes over memory", ("triton",)),
    ("attention", ("flash", "fmha", "sdpa", "attention")),
    ("matrix products", ("gemm", "nvjet", "cutlass", "xmma", "cublas")),
    ("optimiser and clipping", ("multi_tensor", "fusedadam", "adam", "lpnorm")),
    ("copies", ("memcpy", "memset")),
)


def kernels(call: Callable[[], object], device: torch.device, steps: int = 3) -> dict[str, float]:
    """Milliseconds of one step by kind of kernel, of all kernels together, and of the clock; empty without a GPU.

    The clock runs without the profiler. What it has beyond the kernels is time in which the card waits.
    """
    if device.type != "cuda":
        return {}
    synchronize(device)
    start = time.perf_counter()
    for _ in range(steps):
        call()
    synchronize(device)
    wall = (time.perf_counter() - start) / steps
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(steps):
            call()
        synchronize(device)
    found: dict[str, float] = {}
    for event in recorded.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            kind = kind_of(event.name)
            found[kind] = found.get(kind, 0.0) + event.device_time / 1e3 / steps
    return {name: round(value, 2) for name, value in {**found, "all": sum(found.values()), "clock": 1e3 * wall}.items()}


def kind_of(kernel: str) -> str:
    """The kind of a kernel, from its name."""
    lower = kernel.lower()
    return next((kind for kind, parts in KINDS if any(part in lower for part in parts)), "others")
