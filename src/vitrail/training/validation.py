"""The evaluations of a run on its val part: ended by a signal, and by an image that cannot be read, in every process alike."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch

from vitrail.data.decode import ImageError
from vitrail.errors import Failure
from vitrail.evaluation.metrics import loss_and_top1
from vitrail.evaluation.run import CutOff, predict_logits
from vitrail.training.device import FAIL, GO_ON, STOP, Devices
from vitrail.training.interrupt import StopRequest
from vitrail.training.plan import Plan
from vitrail.training.state import RunState

ANOTHER = "another process cannot go on, and says why; the state is saved"


class Unreadable(Exception):
    """An evaluation met with an image that cannot be read, here or in another process."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Score:
    """A quick evaluation: cross-entropy and accuracy on ``n`` images."""

    loss: float
    top1: float
    n: int


@dataclass
class Validation:
    """Evaluates a run as it stands. Every process calls it at the same time."""

    plan: Plan
    state: RunState
    devices: Devices
    stop: StopRequest
    precision: str
    compiled: bool
    """Whether training steps are."""
    workers: int = 0

    def __call__(self) -> Score | None:
        """The val part, by the averaged weights, or by the weights themselves where the recipe averages none."""
        val = self.plan.val
        if val is None:
            return None
        self.devices.share_buffers(self.state.model, self.state.ema.tensors if self.state.ema else {})
        averaged = self.state.ema.in_place_of(self.state.model) if self.state.ema else nullcontext()
        # What was compiled is the training step: other batches, in evaluation mode, would be compiled once more.
        eager = torch.compiler.set_stance("force_eager") if self.compiled else nullcontext()
        with averaged, eager, self._telling():
            logits, targets = predict_logits(
                self.state.model,
                val.samples,
                self.plan.preprocess,
                batch_size=evaluation_batch(self.plan, self.devices),
                workers=self.workers,
                cached=val.cached,
                autocast=torch.bfloat16 if self.precision == "bf16" else None,
                progress=self._between_batches,
                stop=lambda: self.stop.asked,
                ended=self._at_the_end,
            )
        loss, top1 = loss_and_top1(logits, targets)
        return Score(loss, top1, len(targets))

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Within an evaluation, let the others know if this process has an image that it cannot read."""
        try:
            yield
        except (ImageError, Failure) as error:
            self.devices.highest(FAIL)  # they ask after their next batch, or at the end
            raise Unreadable(error) from error

    def _between_batches(self, done: int, total: int) -> None:
        """Ask the others after every batch that all have in full: they have equally many but for one."""
        assert self.plan.val is not None
        size = evaluation_batch(self.plan, self.devices)
        common = len(self.plan.val.samples) // self.devices.world // size
        if self.devices.world == 1 or (done % size == 0 and done // size <= common):
            self._agree(STOP if self.stop.asked else GO_ON)

    def _at_the_end(self, complete: bool) -> None:
        """Ask them once more, before they bring their answers together."""
        self._agree(GO_ON if complete else STOP)

    def _agree(self, wish: int) -> None:
        """Cut the evaluation off if any process was asked to stop, or cannot go on."""
        agreed = self.devices.highest(wish)
        if agreed == STOP:
            self.stop.settled = True
            raise CutOff
        if agreed == FAIL:
            raise Unreadable(Failure(ANOTHER))


def evaluation_batch(plan: Plan, devices: Devices) -> int:
    """Images a batch at evaluation: without gradients twice the training batch of a process fits."""
    return max(1, 2 * plan.recipe.batch_size // (devices.world * plan.recipe.optimizer.accumulate))
