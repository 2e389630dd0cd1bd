"""The loop: steps, and between them logging, evaluation, the best model and checkpoints."""

import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from vitrail.data.batches import Batch
from vitrail.data.decode import ImageError
from vitrail.errors import Failure, UserError
from vitrail.evaluation.metrics import NotFinite, wilson_interval
from vitrail.evaluation.run import CutOff
from vitrail.model import Model
from vitrail.training.device import FAIL, GO_ON, STOP, Devices
from vitrail.training.guard import Guard
from vitrail.training.interrupt import Stopped, StopRequest
from vitrail.training.metrics import MetricsLog, card_scores
from vitrail.training.pace import Pace
from vitrail.training.plan import Plan
from vitrail.training.progress import TrainingProgress, clock
from vitrail.training.saver import Saver
from vitrail.training.sharding import is_sharded, whole_model
from vitrail.training.state import Best, RunState, Window, worth_keeping
from vitrail.training.step import StepResult, TrainStep
from vitrail.training.validation import ANOTHER, Score, Unreadable, Validation
from vitrail.weights.folder import write

_FORECAST_AFTER = 3.0  # seconds of training, the first two steps left out
_LOG_AT_LEAST_EVERY = 50  # steps


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
        checkpoints = self.folder / "checkpoints"
        self.sharded = is_sharded(self.state.model)
        group = self.devices.writing_group() if self.sharded else None
        self.saver = Saver(checkpoints, self.plan.recipe.checkpoint.keep, [self.log.path], group)
        log = self.log if self.devices.first else None
        step = self.train_step
        self.validate = Validation(
            self.plan, self.state, self.devices, self.stop, step.precision, step.compiled, self.workers
        )
        self.guard = Guard(self.plan, self.state, self.devices, checkpoints, self.progress.say, log)
        self.log_every = min(_LOG_AT_LEAST_EVERY, max(1, self.plan.steps // 200))
        self.pending: list[StepResult] = []
        self.pace = Pace(self.plan.recipe.batch_size)
        self.forecast_given = False

    def run(self, batches: Iterable[Batch]) -> None:
        """Train to the last step, and see the last checkpoint on the disk.

        Raises:
            Stopped: a signal came, and the state is saved.
            ImageError, Failure: an image cannot be read, or a process that loads them has died; the state is saved.
            UserError: the memory of the device is not enough for the batch.
            Diverged: the loss is no longer finite.
        """
        try:
            self._steps(iter(batches))
            self.saver.wait()
            if self.devices.any(self.stop.asked):  # since the last step
                self.stop.settled = True
                self._stop()
        except CutOff:
            self._checkpoint(asked=True)
            self._stop()
        except Unreadable as unreadable:
            self._checkpoint(asked=True)
            raise unreadable.error from None
        except torch.OutOfMemoryError as error:
            parts = 2 * self.plan.recipe.optimizer.accumulate
            raise UserError(
                f"out of memory in step {self.state.step}: take a smaller --batch-size, or cut the batch up with "
                f"--set optimizer.accumulate={parts}"
            ) from error
        finally:
            self.saver.wait()

    def _steps(self, batches: Iterator[Batch]) -> None:
        plan, state = self.plan, self.state
        started = time.monotonic() - state.seconds
        if self._evaluation_is_due():  # the one that a request to stop cut off
            self._evaluate()
            self._checkpoint(asked=not self._is_due(evaluated=True))
        while state.step < plan.steps:
            batch = self._next(batches)
            result = self.train_step(state.step, batch)
            state.step += 1
            self.pending.append(result)
            self.pace.tick()
            last, went_back = state.step == plan.steps, False
            if state.step % self.log_every == 0 or last:
                went_back = self._log_train(result.lr)
            state.seconds = time.monotonic() - started
            self._forecast()
            evaluated = self._evaluation_is_due()
            if evaluated:
                self._evaluate()
                self.pace.restart()
            state.seconds = time.monotonic() - started
            if self._is_due(evaluated) or went_back:
                self._checkpoint()
            self.saver.check()

    def _next(self, batches: Iterator[Batch]) -> Batch:
        """The next batch, if no process has been asked to stop or has no batch to go on with."""
        batch, problem = None, None
        try:
            batch = next(batches, None)  # None if the wait for it was given up, as a signal came
        except (ImageError, Failure) as error:
            problem = error
        wish = FAIL if problem is not None else STOP if self.stop.asked or batch is None else GO_ON
        agreed = self.devices.highest(wish)
        if agreed == GO_ON:
            assert batch is not None
            return batch
        self.stop.settled = True
        self._checkpoint(asked=True)
        if agreed == STOP:
            self._stop()
        self.saver.wait()
        if problem is not None:
            raise problem
        raise Failure(ANOTHER)

    def _evaluation_is_due(self) -> bool:
        """Whether this step ends with an evaluation that has not been yet."""
        step = self.state.step
        due = step > 0 and (step % self.plan.evaluate_every == 0 or step >= self.plan.steps)
        return due and self.state.evaluated < step

    def _is_due(self, evaluated: bool) -> bool:
        """Whether this step ends with a checkpoint."""
        every, step = self.plan.recipe.checkpoint.every, self.state.step
        return evaluated if every is None else step % every == 0 or step >= self.plan.steps

    def _log_train(self, lr: float) -> bool:
        """Write a line about the steps since the last one; return whether the weights went back to earlier ones."""
        self._absorb()
        state, window, plan = self.state, self.state.window, self.plan
        loss = window.loss / window.steps if window.steps else None
        back = None if loss is None else self._judge(loss)
        epoch = state.step / plan.steps_per_epoch
        speed = self.pace.images_per_second()
        norm = window.gradient_norm / window.steps if plan.recipe.optimizer.clip and window.steps else None
        if self.devices.first:
            self.log.write(
                {
                    "step": state.step,
                    "epoch": round(epoch, 6),
                    "split": "train",
                    "loss": loss,
                    "top1": window.correct / (window.steps * plan.recipe.batch_size) if window.steps else None,
                    "lr": lr,
                    "gradient_norm": norm,
                    "skipped": window.skipped or None,
                    "back_to_step": back,
                    "images_per_second": round(speed, 1) if speed else None,
                }
            )
        left = (plan.steps - state.step) * plan.recipe.batch_size / speed if speed else None
        shown = float("nan") if loss is None else loss
        self.progress.update(state.step, epoch=epoch, loss=shown, images_per_second=speed, seconds_left=left)
        state.window = Window()
        return back is not None

    def _judge(self, loss: float) -> int | None:
        """What the guard makes of a logged loss, with every checkpoint that it may go back to on the disk."""
        rules = self.plan.recipe.guard
        if rules.spike is not None and self.state.health.is_spike(loss, rules.spike):
            self.saver.wait()
            self.devices.barrier()
        return self.guard.judge(loss)

    def _absorb(self) -> None:
        """Move the results of the latest steps into the window's sums."""
        pending, self.pending = self.pending, []
        self.guard.absorb(pending)

    def _forecast(self) -> None:
        if self.forecast_given or self.pace.total_measured < _FORECAST_AFTER:
            return
        self.forecast_given = True
        speed = self.pace.images_per_second()
        left = (self.plan.steps - self.state.step) * self.plan.recipe.batch_size / speed
        self.progress.say(f"forecast: {clock(left)} more at {speed:,.0f} images/s, evaluations not counted")

    def _evaluate(self) -> None:
        self._absorb()  # a run that has diverged stops here, before its weights are evaluated or saved
        self.guard.check_weights()
        state, plan = self.state, self.plan
        try:
            result = self.validate()
        except NotFinite as error:
            raise self.guard.no_answers(error) from None
        top1, n = (result.top1, result.n) if result else (0.0, 1)  # without a val part the latest model is kept
        kept = worth_keeping(top1, state.best, n)
        highest = max(top1, state.best.highest if state.best else 0.0)
        if kept:
            state.best = Best(state.step, highest)
        state.evaluated = state.step
        best = self._whole_model() if kept and self.sharded else state.model
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
            assert best is not None
            self._save_model(best, result)

    def _whole_model(self) -> Model | None:
        """What is to be kept, of a model that is cut up: brought together in the first process; None in the others."""
        ema = self.state.ema
        return whole_model(self.state.model, ema.tensors if ema else self.state.model.state_dict(), self.devices)

    def _save_model(self, model: Model, result: Score | None) -> None:
        metrics = card_scores(result.top1, result.loss) if result else {}
        ema = None if self.sharded else self.state.ema
        with ema.in_place_of(model) if ema else nullcontext():
            write(model, self.folder / "model", metrics=metrics)

    def _checkpoint(self, *, asked: bool = False) -> None:
        """Begin to write the state; ``asked``: because the run is to stop, and not because it is time."""
        self._absorb()
        self.guard.check_weights()
        state = self.state
        if self.plan.recipe.guard.spike is not None and not asked:
            state.health.saved = [*(step for step in state.health.saved if step < state.step), state.step]
        state.logged = self.log.logged if self.devices.first else None
        if self.devices.first or self.sharded:
            spared = [*state.health.saved, *([state.best.step] if state.best else [])]
            self.saver.save(state.checkpoint(), spared)

    def _stop(self) -> None:
        """Raise Stopped, once the state is on the disk."""
        self.saver.wait()
        self.devices.barrier()
        command = f"vitrail train --resume --out {self.folder}"
        raise Stopped(
            self.stop.exit_code or 143, f"stopped at step {self.state.step}, state saved: go on with {command}"
        )
