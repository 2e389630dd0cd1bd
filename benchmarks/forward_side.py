"""A side of forward.py, in a process of its own. What is not needed is not imported: exported models run without torch."""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from turns import Answer, Turn, served

if TYPE_CHECKING:
    import torch

Forward = Callable[[Any], Any]
Images = Callable[[int], Any]
"""How many -> a batch."""


def prepare(settings: Mapping[str, Any]) -> tuple[Answer, Turn]:
    """One side: what it is, and a turn of so many forward passes."""
    start = time.perf_counter()
    forward, images = exported_side(settings) if "folder" in settings else torch_side(settings)
    for batch in settings["batches"]:  # whatever is compiled or laid out at the first call
        forward(images(batch))
        forward(images(batch))
    ready = time.perf_counter() - start
    held: dict[int, Any] = {}

    def turn(request: Mapping[str, Any]) -> Answer:
        batch, repeats = request["batch"], request["repeats"]
        if batch not in held:
            held[batch] = images(batch)
        begun = time.perf_counter()
        for _ in range(repeats):
            forward(held[batch])
        return {"seconds": (time.perf_counter() - begun) / repeats}

    return {"seconds_until_ready": ready}, turn


def exported_side(settings: Mapping[str, Any]) -> tuple[Forward, Images]:
    import numpy as np

    from vitrail.runtimes.engine import open_engine

    engine = open_engine(settings["folder"], settings["engine"])
    rng = np.random.default_rng(0)
    shape = engine.exported.image_shape
    return engine.run, lambda batch: rng.integers(0, 256, (batch, *shape), dtype=np.uint8)


def torch_side(settings: Mapping[str, Any]) -> tuple[Forward, Images]:
    import torch

    from peers import PEERS, frozen
    from vitrail.device import keep_freed_memory
    from vitrail.model import ViT, ViTConfig

    torch.manual_seed(0)
    config = ViTConfig.from_dict(settings["config"])
    side = settings["side"]
    if side == "vitrail":
        keep_freed_memory()  # as Predictor does
        model: torch.nn.Module = ViT(config).eval()
    else:
        model = PEERS[side.removesuffix(" compiled")](config).eval()
    network = frozen(model) if side.endswith("compiled") else model

    def forward(images: "torch.Tensor") -> torch.Tensor:
        with torch.inference_mode():
            return network(images)

    return forward, lambda batch: torch.randn(batch, 3, *config.image_size)


if __name__ == "__main__":
    served(prepare)
