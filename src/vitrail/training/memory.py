"""Whether a training step fits into memory, said before it is tried, with a batch that fits."""

from contextlib import suppress
from pathlib import Path

import psutil
import torch

from vitrail.errors import UserError
from vitrail.model import ModelConfig, cost
from vitrail.model.fields import size_text
from vitrail.recipes.recipe import Recipe
from vitrail.training.device import Devices
from vitrail.training.resolution import at_pair, images_a_part, pairs_of

_CGROUP = Path("/sys/fs/cgroup")
_CGROUP_LIMIT, _CGROUP_USED, _CGROUP_STAT = (_CGROUP / name for name in ("memory.max", "memory.current", "memory.stat"))
_MARGIN = 0.9  # of what is free: the estimate leaves out what libraries keep for themselves


def free_bytes(device: torch.device) -> int:
    """Memory that is free for this process on the device: the GPU's, or the machine's within its container's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # no container, or one without a limit
        used = int(_CGROUP_USED.read_text()) - _page_cache()
        free = min(free, int(_CGROUP_LIMIT.read_text()) - used)
    return free


def _page_cache() -> int:
    """Bytes of files that the container's kernel keeps in memory and gives up when it is needed."""
    rows = dict(line.split() for line in _CGROUP_STAT.read_text().splitlines())
    return int(rows["inactive_file"]) + int(rows["active_file"])


def step_bytes(recipe: Recipe, config: ModelConfig, *, batch_size: int, precision: str) -> int:
    """An estimate of what one process needs for a step of ``batch_size`` images, weights and optimiser included."""
    return cost.training_bytes(
        config,
        batch_size,
        activation_bytes=2 if precision == "bf16" else 4,
        optimizer_states=1 if recipe.optimizer.name == "sgd" else 2,
        ema=recipe.ema.decay > 0,
    )


def check_memory(recipe: Recipe, config: ModelConfig, place: Devices, precision: str) -> str:
    """A sentence about the memory that a step needs.

    Raises:
        UserError: it needs more than is free; the message names a batch size that fits, or says that none does.
    """
    world = place.world
    share = recipe.batch_size // world // recipe.optimizer.accumulate
    # processes on one machine share its memory, but each has its own GPU
    free = free_bytes(place.device) // (1 if place.device.type == "cuda" else place.neighbours)
    need = step_bytes(recipe, config, batch_size=share, precision=precision)
    if need <= _MARGIN * free:
        _check_sizes(recipe, config, world, precision, free)
        return f"memory: about {gigabytes(need)} for a step, {gigabytes(free)} free"
    message = (
        f"batch_size {recipe.batch_size} needs about {gigabytes(need)} for a step, and {gigabytes(free)} are free: "
    )
    fits = share
    while fits > 1 and step_bytes(recipe, config, batch_size=fits, precision=precision) > _MARGIN * free:
        fits //= 2
    if step_bytes(recipe, config, batch_size=fits, precision=precision) > _MARGIN * free:
        raise UserError(message + "no batch fits; take a smaller model or image size")
    whole = recipe.batch_size // world
    parts = next(k for k in range(-(-whole // fits), whole + 1) if whole % k == 0)
    raise UserError(
        message + f"use --batch-size {fits * world * recipe.optimizer.accumulate}, "
        f"or keep it and cut it up with --set optimizer.accumulate={parts}"
    )


def _check_sizes(recipe: Recipe, config: ModelConfig, world: int, precision: str, free: int) -> None:
    """A UserError if a step fits at the model's own size, but at another size of the run its parts do not."""
    for pair in pairs_of(recipe.resolution, config) if recipe.resolution.varies else ():
        images = images_a_part(recipe, config, pair, world)
        need = step_bytes(recipe, at_pair(config, pair), batch_size=images, precision=precision)
        if need > _MARGIN * free:
            what = "1 image" if images == 1 else f"{images} images"
            raise UserError(
                f"resolution: {what} of {size_text(pair[0])} pixels at a time need about {gigabytes(need)}, and "
                f"{gigabytes(free)} are free: leave that size out"
                + ("" if images == 1 else ", or cut the batch up with --set optimizer.accumulate=...")
            )


def gigabytes(count: int) -> str:
    """Bytes for people: 30 MB, 0.4 GB, 12 GB."""
    value = count / 1e9
    return f"{count / 1e6:.0f} MB" if value < 0.1 else f"{value:.1f} GB" if value < 10 else f"{value:.0f} GB"
