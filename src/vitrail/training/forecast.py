"""Forecast: how long a run takes on this device, measured before it begins, and a plan that takes less."""

import time
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from vitrail.model import ModelConfig, ViTConfig, build
from vitrail.model.cost import Cost
from vitrail.training.device import autocast
from vitrail.training.progress import clock

BUDGET = 45 * 60.0
"""Seconds that a fine-tuning run takes at most on a CPU, where the person named neither its length nor its image size."""
LONG = 60 * 60.0
"""Seconds from which on a cheaper plan is offered."""
_FEWEST_EPOCHS, _SMALLEST_GRID = 8, 8
_TIMED, _FEWEST_STEPS = 2.0, 4  # seconds and steps of measuring
_IMAGES, _IMAGES_AT_ONCE = 4, 64  # a CPU is busy with a few images; a GPU takes many


@dataclass(frozen=True)
class Work:
    """How much a run computes: training images and epochs, and the images that are evaluated, by the number of passes."""

    images: int
    epochs: float
    val: int = 0
    evaluations: int = 0
    test: int = 0
    share: float = 1.0
    """FLOPs of a training image, to those of one at the model's own size and patch size: where training has several."""

    def seconds(self, of_image: float) -> float:
        """The time that all of it takes, if one image of the model's own size takes ``of_image`` seconds in training; a
        third in evaluation."""
        training = self.images * self.epochs * self.share
        return of_image * (training + (self.val * self.evaluations + self.test) / 3)


def seconds_per_image(config: ModelConfig, device: torch.device, precision: str) -> float:
    """Seconds that one image takes in training, from the speed of a shallow copy of the model on random images."""
    return 3 * Cost(config).flops / _speed(_shallow(config), device, precision)


def cheaper(
    config: ModelConfig, work: Work, of_image: float, budget: float, *, may_shrink: bool = True
) -> tuple[int, tuple[int, int]]:
    """Epochs and an image size with which a run stays within a budget of seconds, as nearly as is sensible.

    Epochs are given up first, down to eight; then pixels, down to a grid of eight; then epochs again.
    """
    epochs = max(1, round(work.epochs))
    size = config.image_size
    full = Cost(config).flops

    def fits(epochs: int, size: tuple[int, int]) -> bool:
        share = Cost(config.with_changes(image_size=size)).flops / full
        evaluations = round(work.evaluations * epochs / max(work.epochs, 1))
        return replace(work, epochs=epochs, evaluations=evaluations).seconds(of_image * share) <= budget

    while not fits(epochs, size):
        smaller = _smaller(config, size)
        if epochs > _FEWEST_EPOCHS or (epochs > 1 and not (may_shrink and smaller)):
            epochs -= 1
        elif may_shrink and smaller:
            size = smaller
        else:
            break
    return epochs, size


def sentence(seconds: float, of_image: float) -> str:
    """The forecast, for the person."""
    return f"forecast: about {clock(seconds)} on this machine, {1 / of_image:,.3g} images/s in training"


def _smaller(config: ModelConfig, size: tuple[int, int]) -> tuple[int, int] | None:
    """The next smaller size of the same shape; None where the grid would become too coarse."""
    step = config.patch_size if isinstance(config, ViTConfig) else config.stride
    rows, columns = size[0] // step, size[1] // step
    shorter = min(rows, columns) - 1
    if shorter < _SMALLEST_GRID:
        return None
    scale = shorter / min(rows, columns)
    return round(rows * scale) * step, round(columns * scale) * step


def _shallow(config: ModelConfig) -> ModelConfig:
    """The same model with two blocks, which are as fast as all of them are."""
    if not isinstance(config, ViTConfig):
        return config
    return config.with_changes(depth=min(config.depth, 2), dropout=0.0, attention_dropout=0.0, drop_path=0.0)


@lru_cache(maxsize=4)
def _speed(config: ModelConfig, device: torch.device, precision: str) -> float:
    """FLOPs a second, forward and backward."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        model = build(config).to(device).eval()
        count = _IMAGES if device.type == "cpu" else _IMAGES_AT_ONCE
        images = torch.randn(count, config.channels, *config.image_size, device=device)
    times: list[float] = []
    while len(times) < _FEWEST_STEPS or sum(times) < _TIMED:
        started = time.perf_counter()
        with autocast(precision, device):
            loss = model.features(images).float().square().mean()
        loss.backward()
        model.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    # The fastest step: the first one warms up, and what else the machine does for a moment slows down others.
    return 3 * Cost(config).flops * count / min(times)
