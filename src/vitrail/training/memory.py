"""Whether a training step fits into memory, said before it is tried, with a batch that fits."""

from contextlib import suppress
from pathlib import Path
from typing import Literal

import psutil
import torch

from vitrail.errors import UserError
from vitrail.model import ModelConfig, ResNetConfig, cost
from vitrail.model.fields import size_text
from vitrail.recipes.recipe import Recipe
from vitrail.training.device import Devices
from vitrail.training.resolution import at_pair, images_a_part, pairs_of

_CGROUP = Path("/sys/fs/cgroup")
_CGROUP_LIMIT, _CGROUP_USED, _CGROUP_STAT = (_CGROUP / name for name in ("memory.max", "memory.current", "memory.stat"))
_MARGIN = 0.9  # of what is free: the estimate leaves out what libraries keep for themselves
_CROWDED = 0.8  # of a GPU's memory: from there on ``parallel: auto`` cuts the model up


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


def step_bytes(recipe: Recipe, config: ModelConfig, *, batch_size: int, precision: str, shards: int = 1) -> int:
    """An estimate of what one process needs for a step of ``batch_size`` images, weights and optimiser included.

    Args:
        shards: how many processes the weights, gradients, moments and average are cut up between; each then holds its
            share, and beside it the weights and gradients that it has together at a time.
    """
    activation_bytes = 2 if precision == "bf16" else 4
    whole = cost.training_bytes(
        config,
        batch_size,
        activation_bytes=activation_bytes,
        optimizer_states=1 if recipe.optimizer.name == "sgd" else 2,
        ema=recipe.ema.decay > 0,
    )
    if shards == 1:
        return whole
    activations = cost.training_activation_bytes(config, batch_size, activation_bytes)
    # autocast's copies of all weights stay from the forward to the backward pass
    copies = 2 * sum(cost.parameters(config).values()) if precision == "bf16" else 0
    return (whole - activations) // shards + 2 * cost.FLOAT32 * _together(config) + copies + activations


def _together(config: ModelConfig) -> int:
    """Parameters that a process has together at a time of a model that is cut up: see ``sharding.units``.

    Two blocks, one computing and the next on its way, and all that is no block; of a ResNet at most its largest stage.
    """
    counts = cost.parameters(config)
    if isinstance(config, ResNetConfig):
        stages = [count for part, count in counts.items() if part.startswith("stage")]
        return sum(counts.values()) - sum(stages) + max(stages)
    blocks = counts["attention projections"] + counts["mlp"]
    return sum(counts.values()) - blocks + min(2, config.depth) * blocks // config.depth


def parallel_of(recipe: Recipe, config: ModelConfig, place: Devices, precision: str) -> Literal["ddp", "fsdp"]:
    """How several processes train: as ``recipe.parallel`` says, or with a model cut up where it would crowd a GPU.

    Every process must call it, and comes to the same answer. One process alone cuts nothing up.
    """
    if place.world == 1:
        return "ddp"
    if recipe.parallel != "auto" or place.device.type != "cuda":
        return "fsdp" if recipe.parallel == "fsdp" else "ddp"
    share = recipe.batch_size // place.world // recipe.optimizer.accumulate
    need = step_bytes(recipe, config, batch_size=share, precision=precision)
    _, of_gpu = torch.cuda.mem_get_info(place.device)
    return "fsdp" if place.any(need > _CROWDED * of_gpu) else "ddp"


def check_memory(recipe: Recipe, config: ModelConfig, place: Devices, precision: str) -> str:
    """A sentence about the memory that a step needs.

    Raises:
        UserError: it needs more than is free; the message names a batch size that fits, or says that none does.
    """
    world = place.world
    share = recipe.batch_size // world // recipe.optimizer.accumulate
    # processes on one machine share its memory, but each has its own GPU
    free = free_bytes(place.device) // (1 if place.device.type == "cuda" else place.neighbours)
    shards = world if parallel_of(recipe, config, place, precision) == "fsdp" else 1
    need = step_bytes(recipe, config, batch_size=share, precision=precision, shards=shards)
    if need <= _MARGIN * free:
        _check_sizes(recipe, config, world, precision, free, shards)
        return f"memory: about {gigabytes(need)} for a step, {gigabytes(free)} free"
    message = (
        f"batch_size {recipe.batch_size} needs about {gigabytes(need)} for a step, and {gigabytes(free)} are free: "
    )
    fits = share
    while fits > 1 and step_bytes(recipe, config, batch_size=fits, precision=precision, shards=shards) > _MARGIN * free:
        fits //= 2
    if step_bytes(recipe, config, batch_size=fits, precision=precision, shards=shards) > _MARGIN * free:
        raise UserError(message + "no batch fits; take a smaller model or image size")
    whole = recipe.batch_size // world
    parts = next(k for k in range(-(-whole // fits), whole + 1) if whole % k == 0)
    raise UserError(
        message + f"use --batch-size {fits * world * recipe.optimizer.accumulate}, "
        f"or keep it and cut it up with --set optimizer.accumulate={parts}"
    )


def _check_sizes(recipe: Recipe, config: ModelConfig, world: int, precision: str, free: int, shards: int) -> None:
    """A UserError if a step fits at the model's own size, but at another size of the run its parts do not."""
    for pair in pairs_of(recipe.resolution, config) if recipe.resolution.varies else ():
        images = images_a_part(recipe, config, pair, world)
        need = step_bytes(recipe, at_pair(config, pair), batch_size=images, precision=precision, shards=shards)
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
