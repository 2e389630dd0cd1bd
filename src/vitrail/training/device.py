"""Where a run computes and how: the processes that torchrun started, the device, the precision, compiling."""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from vitrail.device import best_device
from vitrail.errors import UserError

NEIGHBOURS = "VITRAIL_NEIGHBOURS"
"""Environment variable: how many runs share this machine, each alone on its device, this one included."""


GO_ON, STOP, FAIL = 0, 1, 2
"""What a process wants next; the highest of all is done by each: see ``Devices.highest``."""


@dataclass(frozen=True)
class Devices:
    """This process's place among those that train together, and the device it computes on."""

    rank: int
    world: int
    device: torch.device
    neighbours: int = 1
    """Processes on this machine, this one included: they share its cores and memory."""
    control: dist.ProcessGroup | None = None
    """The group in which processes agree on what to do next, on their CPUs, so that no GPU is waited for."""

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and speaks."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.highest(0)

    def writing_group(self) -> dist.ProcessGroup:
        """A group for writing alone, so that it can be done in a thread while the training goes on; made by all, once."""
        group: Any = dist.new_group(backend="gloo")
        return group

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over all processes."""
        if self.world > 1:
            value = value.detach().clone()
            dist.all_reduce(value)
            value /= self.world
        return value

    def share_buffers(self, model: nn.Module, average: Mapping[str, torch.Tensor]) -> None:
        """Give every process the first one's batch statistics, of the model and of its average: each has seen its own images."""
        if self.world > 1:
            for name, buffer in model.named_buffers():
                dist.broadcast(buffer, 0)
                if name in average:
                    dist.broadcast(average[name], 0)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return self.highest(int(flag)) > 0

    def agreed(self, value: int) -> bool:
        """Whether every process gives the same value."""
        return self.highest(value) == value == -self.highest(-value)

    def highest(self, value: int) -> int:
        """The highest value that any process gives."""
        if self.world == 1:
            return value
        shared = torch.tensor(value)
        dist.all_reduce(shared, dist.ReduceOp.MAX, group=self.control)
        return int(shared)


def several() -> bool:
    """Whether torchrun, or another launcher, has started more processes than this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def devices() -> Iterator[Devices]:
    """Join the processes that ``torchrun`` started, or work alone; leave them at the end."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = best_device(local)
    if device.type == "cuda":
        if device.index is None:
            device = torch.device("cuda", local)
        elif world > 1 and device.index != local:
            raise UserError(f"VITRAIL_DEVICE={device} would put {world} processes on one GPU: leave it out")
        torch.cuda.set_device(device)  # what is seeded and measured is the current device
    if world == 1:
        yield Devices(0, 1, device, int(os.environ.get(NEIGHBOURS, "1")))
        return
    own = not dist.is_initialized()
    if own:
        _meet("nccl" if device.type == "cuda" else "gloo")
    try:
        neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", world))
        control: Any = dist.new_group(backend="gloo") if dist.get_backend() != "gloo" else None
        yield Devices(dist.get_rank(), dist.get_world_size(), device, neighbours, control)
    finally:
        if own:
            dist.destroy_process_group()


def _meet(backend: str) -> None:
    """Join the processes of this attempt: torchrun may keep one store over its restarts, with addresses of dead ones."""
    store, rank, world = next(dist.rendezvous("env://"))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    dist.init_process_group(backend, store=dist.PrefixStore(f"attempt-{attempt}", store), rank=rank, world_size=world)


def resolve_precision(wanted: str, device: torch.device) -> str:
    """``float32`` or ``bf16``. ``auto`` takes bf16 on a GPU that computes with it; CPUs mostly emulate it, slowly."""
    wanted = wanted.removesuffix("-tokens")  # which is the model's to do
    if wanted != "auto":
        if wanted == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise UserError("precision bf16: this GPU does not compute with it; use precision=float32")
        return wanted
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if native else "float32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """The context in which the forward pass runs."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def worth_compiling(wanted: bool | None, device: torch.device, steps: int, *, varies: bool = False) -> bool:
    """Whether to use torch.compile: as wanted, else on a GPU for a run of at least 1,000 steps (compiling takes a minute).

    Where sizes vary from step to step, only as wanted: it would compile again for many of them.
    """
    return wanted if wanted is not None else device.type == "cuda" and steps >= 1000 and not varies
