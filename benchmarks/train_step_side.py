"""A side of train_step.py, in a process of its own: what it does to memory and threads is its own."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from turns import Answer, Turn, served


def prepare(settings: Mapping[str, Any]) -> tuple[Answer, Turn]:
    """Make the model; a turn takes so many training steps, at each of the side's image sizes."""
    from vitrail.model import ViTConfig

    torch.manual_seed(0)
    config = ViTConfig.from_dict(settings["config"])
    sizes, batch = settings["sizes"], settings["batch"]
    targets = torch.randint(0, config.classes, (batch,))
    images = {side: torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8) for side in sizes}
    about: Answer = {}
    if settings["library"] == "timm":
        steps = [of_timm(config, images[side], targets) for side in sizes]
    else:
        steps, about = of_vitrail(config, images, targets, settings["patch_drop"])
    for step in steps:  # the optimiser's moments, and memory
        step()
        step()

    def turn(request: Mapping[str, Any]) -> Answer:
        begun = time.perf_counter()
        for _ in range(request["repeats"]):
            for step in steps:
                step()
        return {"seconds": (time.perf_counter() - begun) / request["repeats"] / len(steps)}

    return about, turn


def of_timm(config: Any, images: torch.Tensor, targets: torch.Tensor) -> Callable[[], object]:
    """timm's model in a plain loop, with AdamW as a person writes it."""
    from peers import timm_model
    from steps import random_head, timm_step

    return timm_step(random_head(timm_model(config)), images, targets, torch.device("cpu"), "float32", fused=None)


def of_vitrail(
    config: Any, images: Mapping[int, torch.Tensor], targets: torch.Tensor, patch_drop: float
) -> tuple[list[Callable[[], object]], Answer]:
    """The training loop's own step; and the tokens that the first block sees in it at each size."""
    from steps import random_head, vitrail_step
    from vitrail.device import keep_freed_memory
    from vitrail.model import ViT

    keep_freed_memory()  # as vitrail.train does on a CPU
    model = random_head(ViT(config))
    first = next(iter(images.values()))
    step = vitrail_step(model, first, targets, torch.device("cpu"), "float32", patch_drop=patch_drop)
    tokens: list[int] = []
    hook = model.blocks[0].register_forward_pre_hook(lambda block, inputs: tokens.append(inputs[0].shape[1]))
    for each in images.values():
        step(each)
    hook.remove()
    return [partial(step, each) for each in images.values()], {"tokens": tokens}


if __name__ == "__main__":
    served(prepare)
