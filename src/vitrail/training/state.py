"""What a run has reached: the model, its optimisers and average, and the plain values that a checkpoint keeps."""

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vitrail.model import Model
from vitrail.training.checkpoint import Checkpoint
from vitrail.training.ema import Ema
from vitrail.training.metrics import Logged
from vitrail.training.optimizer import Optimisers
from vitrail.training.sharding import is_sharded, local

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_RECENT = 10  # logged losses that a new one is compared with


@dataclass
class Window:
    """Sums over the steps since the last logged one; kept in checkpoints, so that a resumed run logs the same means."""

    steps: int = 0
    loss: float = 0.0
    correct: float = 0.0
    gradient_norm: float = 0.0
    skipped: int = 0
    """Steps that were not finite and moved nothing; the sums are about the others."""


@dataclass
class Health:
    """How the loss has been lately; kept in checkpoints, so that a resumed run judges alike."""

    skipped_in_a_row: int = 0
    recent: list[float] = field(default_factory=list)
    """The latest logged losses that were no spike, at most ``_RECENT``."""
    sound_step: int = 0
    """The step of the last of them."""
    rollbacks: int = 0
    saved: list[int] = field(default_factory=list)
    """Steps of the checkpoints that weights may go back to: the newest that is sound, and those after it. One that was
    written because the run was asked to stop is none of them, so that a stopped run goes back to where any other would."""

    def note(self, step: int, loss: float) -> None:
        """Take in a logged loss that is in order."""
        self.recent, self.sound_step = [*self.recent, loss][-_RECENT:], step
        self.saved = self.saved[max(0, sum(saved <= step for saved in self.saved) - 1) :]

    @property
    def way_back(self) -> int | None:
        """The newest checkpoint that is sound."""
        return max((saved for saved in self.saved if saved <= self.sound_step), default=None)

    def is_spike(self, loss: float, factor: float) -> bool:
        """Whether a loss is more than ``factor`` times the mean of the recent ones, once there are ``_RECENT``."""
        return len(self.recent) == _RECENT and loss > factor * sum(self.recent) / _RECENT


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
    recipe: dict[str, Any] = field(default_factory=dict)
    """Every value of the run's recipe."""
    step: int = 0
    seconds: float = 0.0
    evaluated: int = 0
    """The step of the last evaluation that came to its end."""
    best: Best | None = None
    logged: Logged | None = None
    """What metrics.jsonl holds; None where the checkpoint does not say."""
    window: Window = field(default_factory=Window)
    health: Health = field(default_factory=Health)

    def checkpoint(self) -> Checkpoint:
        """What a checkpoint keeps; its tensors are the run's own, which go on changing."""
        tensors: dict[str, dict[str, Tensor]] = {
            "model": self.model.state_dict(),
            "optimizer": self.optimisers.state(),
        }
        if self.ema is not None:
            tensors["ema"] = self.ema.tensors
        plain: dict[str, Any] = {
            "data": self.data,
            "recipe": self.recipe,
            "seconds": self.seconds,
            "evaluated": self.evaluated,
            "logged": asdict(self.logged) if self.logged else None,
            "best": asdict(self.best) if self.best else None,
            "window": asdict(self.window),
            "health": asdict(self.health),
        }
        return Checkpoint(self.step, tensors, plain)

    def is_finite(self) -> bool:
        """Whether no tensor of the run, here, holds NaN or infinity."""
        tensors = [t for named in self.checkpoint().tensors.values() for t in named.values() if t.is_floating_point()]
        device = next(self.model.parameters()).device
        return bool(torch.stack([local(t).isfinite().all().to(device) for t in tensors]).all())

    def restore(self, checkpoint: Checkpoint, group: "ProcessGroup | None" = None) -> None:
        """Take over everything from a checkpoint of the same recipe and data.

        ``group``: of the processes that train together, for what is cut up between them; None for the usual one.
        """
        self.restore_tensors(checkpoint, group)
        self.step = checkpoint.step
        self.seconds = checkpoint.state["seconds"]
        self.evaluated = checkpoint.state["evaluated"]
        logged = checkpoint.state.get("logged")
        self.logged = Logged(**logged) if logged else None
        best = checkpoint.state["best"]
        self.best = Best(**best) if best else None
        self.window = Window(**checkpoint.state["window"])
        self.health = Health(**checkpoint.state["health"])

    @torch.no_grad()
    def restore_tensors(self, checkpoint: Checkpoint, group: "ProcessGroup | None" = None) -> None:
        """Take over the weights, the optimisers' tensors and the average; the step stays."""
        if not checkpoint.tensors or is_sharded(self.model):
            self._restore_pieces(checkpoint, group)
            return
        self.model.load_state_dict(checkpoint.tensors["model"])
        self.optimisers.load_state(checkpoint.tensors["optimizer"])
        if self.ema is not None:
            for name, tensor in checkpoint.tensors["ema"].items():
                self.ema.tensors[name].copy_(tensor)

    def _restore_pieces(self, checkpoint: Checkpoint, group: "ProcessGroup | None") -> None:
        """The same where the tensors are cut up between processes, here or in the checkpoint, or in both otherwise."""
        from vitrail.training import sharded

        assert checkpoint.path is not None
        into = {
            "model": self.model.state_dict(),
            "optimizer": self.optimisers.room(sharded.shapes(checkpoint.path, "optimizer")),
        }
        if self.ema is not None:
            into["ema"] = self.ema.tensors
        sharded.load_parts(checkpoint.path, into, group)
        self.optimisers.load_state(into["optimizer"])
