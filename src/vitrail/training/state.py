"""What a run has reached: the model, its optimisers and average, and the plain values that a checkpoint keeps."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from vitrail.errors import UserError
from vitrail.model import Model
from vitrail.training.checkpoint import Checkpoint
from vitrail.training.ema import Ema
from vitrail.training.optimizer import Optimisers


@dataclass
class Window:
    """Sums over the steps since the last logged one; kept in checkpoints, so that a resumed run logs the same means."""

    steps: int = 0
    loss: float = 0.0
    correct: float = 0.0
    gradient_norm: float = 0.0


@dataclass
class Best:
    """The model that is kept, and the highest validation accuracy seen: see ``worth_keeping``."""

    step: int
    highest: float


def worth_keeping(top1: float, best: Best | None, n: int) -> bool:
    """Whether a model with this accuracy on ``n`` validation images takes the place of the one kept so far.

    It does if it is the best, or later than the best and not worse by more than one standard error (Breiman et al., 1984,
    section 3.4.3): on few images the highest of many accuracies is mostly luck, and a later model is better annealed.
    """
    if best is None:
        return True
    p = (best.highest * n + 1) / (n + 2)  # Laplace's estimate, so that a perfect score still has an error
    return top1 >= best.highest - math.sqrt(p * (1 - p) / n)


@dataclass
class RunState:
    """Everything that changes while a run trains; its tensors and its step are the whole state."""

    model: Model
    optimisers: Optimisers
    ema: Ema | None
    data: str
    """Which images, classes and steps the run is about: ``Plan.fingerprint``."""
    step: int = 0
    seconds: float = 0.0
    best: Best | None = None
    window: Window = field(default_factory=Window)

    def checkpoint(self) -> Checkpoint:
        """A copy to write."""
        tensors: dict[str, dict[str, Tensor]] = {
            "model": self.model.state_dict(),
            "optimizer": self.optimisers.state(),
        }
        if self.ema is not None:
            tensors["ema"] = self.ema.tensors
        plain: dict[str, Any] = {
            "data": self.data,
            "seconds": self.seconds,
            "best": asdict(self.best) if self.best else None,
            "window": asdict(self.window),
        }
        return Checkpoint(self.step, tensors, plain)

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over everything from a checkpoint of the same recipe and data.

        Raises:
            UserError: the data have changed since it was written.
        """
        if checkpoint.state["data"] != self.data:
            raise UserError(
                "the training images, their classes or their number have changed since this run began: bring them back, "
                "or begin a new run from this one's model with --init"
            )
        self.model.load_state_dict(checkpoint.tensors["model"])
        self.optimisers.load_state(checkpoint.tensors["optimizer"])
        if self.ema is not None:
            for name, tensor in checkpoint.tensors["ema"].items():
                self.ema.tensors[name].copy_(tensor)
        self.step = checkpoint.step
        self.seconds = checkpoint.state["seconds"]
        best = checkpoint.state["best"]
        self.best = Best(**best) if best else None
        self.window = Window(**checkpoint.state["window"])
