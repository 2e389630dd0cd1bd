"""The loop: steps, and between them logging, evaluation, the best model and checkpoints."""

import math
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from vitrail.data.batches import Batch
from vitrail.data.decode import ImageError
from vitrail.errors import Failure, UserError
from vitrail.evaluation.metrics import loss_and_top1, wilson_interval
from vitrail.evaluation.run import predict_logits
from vitrail.training import checkpoint
from vitrail.training.device import Devices
from vitrail.training.interrupt import Stopped, StopRequest
from vitrail.training.metrics import MetricsLog
from vitrail.training.plan import Plan
from vitrail.training.progress import TrainingProgress, clock
from vitrail.training.state import Best, RunState, Window, worth_keeping
from vitrail.training.step import StepResult, TrainStep
from vitrail.weights.folder import save

_FORECAST_AFTER = 3.0  # seconds of training, the first two steps left out
_LOG_AT_LEAST_EVERY = 50  # steps


class Diverged(Failure):
    """The loss is no longer finite."""


@dataclass(frozen=True)
class Score:
    """A quick evaluation: cross-entropy and accuracy on ``n`` images."""

    loss: float
    top1: float
    n: int


@dataclass
class Loop:
    """One run from its present step to its last. Files are written by the first process alone."""

    plan: Plan
    state: RunState
    train_step: TrainStep
    devices: Devices
    folder: Path
    progress: TrainingProgress
    stop: StopRequest
    workers: int = 0

    def __post_init__(self) -> None:
        self.log = MetricsLog(self.folder)
        self.log_every = min(_LOG_AT_LEAST_EVERY, max(1, self.plan.steps // 200))
        self.pending: list[StepResult] = []
        self.pace = _Pace(self.plan.recipe.batch_size)
        self.forecast_given = False

    def run(self, batches: Iterable[Batch]) -> None:
        """Train to the last step.

        Raises:
            Stopped: a signal came, and the state is saved.
            ImageError: an image cannot be read; what is learnt so far is saved.
            UserError: the memory of the device is not enough for the batch.
            Diverged: the loss is no longer finite.
        """
        try:
            self._steps(batches)
        except ImageError:
            if self.devices.world == 1:  # others would wait for this process in vain
                self._checkpoint()
            raise
        except torch.OutOfMemoryError as error:
            parts = 2 * self.plan.recipe.optimizer.accumulate
            raise UserError(
                f"out of memory in step {self.state.step}: take a smaller --batch-size, or cut the batch up with "
                f"--set optimizer.accumulate={parts}"
            ) from error

    def _steps(self, batches: Iterable[Batch]) -> None:
        plan, state = self.plan, self.state
        started = time.monotonic() - state.seconds
        for batch in batches:
            if state.step >= plan.steps:
                break
            result = self.train_step(state.step, batch)
            state.step += 1
            self.pending.append(result)
            self.pace.tick()
            last = state.step == plan.steps
            if state.step % self.log_every == 0 or last:
                self._log_train(result.lr)
            state.seconds = time.monotonic() - started
            self._forecast()
            evaluated = state.step % plan.evaluate_every == 0 or last
            if evaluated:
                self._evaluate()
                self.pace.restart()
            state.seconds = time.monotonic() - started
            every = plan.recipe.checkpoint.every
            due = evaluated if every is None else state.step % every == 0 or last
            stopping = self._stopping()
            if stopping or due:
                self._checkpoint()
            if stopping and not last:
                self._stop()

    def _absorb(self) -> None:
        """Move the results of the latest steps, means over all processes, into the window's sums."""
        if not self.pending:
            return
        zero = self.pending[0].loss.new_zeros(())
        rows = [
            torch.stack([r.loss, r.correct, zero if r.gradient_norm is None else r.gradient_norm]) for r in self.pending
        ]
        # Means over the processes of each step, then sums in float64: the same wherever a checkpoint cuts the window.
        loss, correct, norm = self.devices.mean(torch.stack(rows)).cpu().double().sum(0).tolist()
        window = self.state.window
        window.steps += len(self.pending)
        window.loss += loss
        window.correct += correct * self.devices.world
        window.gradient_norm += norm
        self.pending = []
        if not math.isfinite(window.loss):
            raise Diverged(
                f"the loss is {window.loss} at step {self.state.step}: try a lower optimizer.lr, a longer warm-up or "
                f"float32; the last good state is in {self.folder / 'checkpoints'}"
            )

    def _log_train(self, lr: float) -> None:
        self._absorb()
        state, window, plan = self.state, self.state.window, self.plan
        loss = window.loss / window.steps
        epoch = state.step / plan.steps_per_epoch
        speed = self.pace.images_per_second()
        if self.devices.first:
            self.log.write(
                {
                    "step": state.step,
                    "epoch": round(epoch, 6),
                    "split": "train",
                    "loss": loss,
                    "top1": window.correct / (window.steps * plan.recipe.batch_size),
                    "lr": lr,
                    "gradient_norm": window.gradient_norm / window.steps if plan.recipe.optimizer.clip else None,
                    "images_per_second": round(speed, 1) if speed else None,
                }
            )
        left = (plan.steps - state.step) * plan.recipe.batch_size / speed if speed else None
        self.progress.update(state.step, epoch=epoch, loss=loss, images_per_second=speed, seconds_left=left)
        state.window = Window()

    def _forecast(self) -> None:
        if self.forecast_given or self.pace.total_measured < _FORECAST_AFTER:
            return
        self.forecast_given = True
        speed = self.pace.images_per_second()
        left = (self.plan.steps - self.state.step) * self.plan.recipe.batch_size / speed
        self.progress.say(f"forecast: {clock(left)} more at {speed:,.0f} images/s, evaluations not counted")

    def evaluate(self) -> Score | None:
        """The val part, by the averaged weights, or by the weights themselves where the recipe averages none."""
        val = self.plan.val
        if val is None:
            return None
        self.devices.share_buffers(self.state.model, self.state.ema.tensors if self.state.ema else {})
        averaged = self.state.ema.in_place_of(self.state.model) if self.state.ema else nullcontext()
        with averaged:
            logits, targets = predict_logits(
                self.state.model,
                val.samples,
                self.plan.preprocess,
                batch_size=evaluation_batch(self.plan, self.devices),
                workers=self.workers,
                cached=val.cached,
                autocast=torch.bfloat16 if self.train_step.precision == "bf16" else None,
            )
        loss, top1 = loss_and_top1(logits, targets)
        return Score(loss, top1, len(targets))

    def _evaluate(self) -> None:
        self._absorb()  # a run that has diverged stops here, before its weights are evaluated or saved
        state, plan = self.state, self.plan
        result = self.evaluate()
        top1, n = (result.top1, result.n) if result else (0.0, 1)  # without a val part the latest model is kept
        kept = worth_keeping(top1, state.best, n)
        highest = max(top1, state.best.highest if state.best else 0.0)
        if kept:
            state.best = Best(state.step, highest)
        if not self.devices.first:
            return
        if result is not None:
            epoch = state.step / plan.steps_per_epoch
            record = {"step": state.step, "epoch": round(epoch, 6), "split": "val"}
            self.log.write({**record, "loss": result.loss, "top1": result.top1})
            low, high = wilson_interval(round(result.top1 * result.n), result.n)
            self.progress.say(
                f"step {state.step}/{plan.steps}  val top-1 {result.top1:.2%} ({low:.1%} to {high:.1%})  "
                f"loss {result.loss:.3f}{'  kept' if kept else ''}"
            )
        if kept:
            self._save_model(result)

    def _save_model(self, result: Score | None) -> None:
        metrics = {"val top-1": result.top1, "val loss": result.loss} if result else {}
        averaged = self.state.ema.in_place_of(self.state.model) if self.state.ema else nullcontext()
        with averaged:
            save(self.state.model, self.folder / "model", metrics=metrics)

    def _checkpoint(self) -> None:
        self._absorb()
        if self.devices.first:
            checkpoint.save(self.folder / "checkpoints", self.state.checkpoint(), self.plan.recipe.checkpoint.keep)
        self.devices.barrier()

    def _stopping(self) -> bool:
        """Whether any process was asked to stop; they agree on it, so that all stop at the same step."""
        return self.devices.any(self.stop.exit_code is not None)

    def _stop(self) -> None:
        command = f"vitrail train --resume --out {self.folder}"
        raise Stopped(
            self.stop.exit_code or 143, f"stopped at step {self.state.step}, state saved: go on with {command}"
        )


class _Pace:
    """Images per second since the last evaluation; the first two steps after a pause are left out, as they are slower."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.total_measured = 0.0
        self.known = 0.0
        self.restart()

    def restart(self) -> None:
        """Begin anew: what lies between was no training."""
        self.steps, self.since = -2, time.monotonic()
        self.latest = self.since

    def tick(self) -> None:
        """A step is done."""
        now = time.monotonic()
        self.steps += 1
        if self.steps > 0:
            self.total_measured += now - self.latest
            self.known = self.steps * self.batch_size / (now - self.since)
        elif self.steps == 0:
            self.since = now
        self.latest = now

    def images_per_second(self) -> float:
        """The speed; 0 before the third step of a run."""
        return self.known


def evaluation_batch(plan: Plan, devices: Devices) -> int:
    """Images a batch at evaluation: without gradients twice the training batch of a process fits."""
    return max(1, 2 * plan.recipe.batch_size // (devices.world * plan.recipe.optimizer.accumulate))
