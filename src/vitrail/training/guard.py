"""Numbers that misbehave: steps that are not finite, losses that shoot up, weights that must not be saved."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vitrail.data.batches import TrainBatches
from vitrail.errors import Failure
from vitrail.training import checkpoint
from vitrail.training.device import Devices
from vitrail.training.metrics import MetricsLog
from vitrail.training.plan import Plan
from vitrail.training.state import RunState
from vitrail.training.step import StepResult

_NAMED = 4  # images of a batch that are named on the terminal; the log has them all


class Diverged(Failure):
    """The loss is no longer finite, or has shot up too often."""


@dataclass
class Guard:
    """Watches the numbers of a run by the rules of ``recipe.guard``; every process comes to the same decisions."""

    plan: Plan
    state: RunState
    devices: Devices
    checkpoints: Path
    say: Callable[[str], None]
    log: MetricsLog | None
    """None in every process but the first."""

    def absorb(self, results: Sequence[StepResult]) -> None:
        """Add the latest steps, means over all processes, to the window's sums. Steps that were not finite are named.

        Raises:
            Diverged: more of them in a row than the recipe goes on after.
        """
        if not results:
            return
        zero = results[0].loss.new_zeros(())
        rows = [
            torch.stack([r.loss, r.correct, zero if r.gradient_norm is None else r.gradient_norm, r.finite.float()])
            for r in results
        ]
        # Means over the processes of each step, then sums in float64: the same wherever a checkpoint cuts the window.
        table = self.devices.mean(torch.stack(rows)).cpu().double()
        finite = table[:, 3] == 1
        loss, correct, norm, _ = table[finite].sum(0).tolist()
        window, health = self.state.window, self.state.health
        window.steps += int(finite.sum())
        window.loss += loss
        window.correct += correct * self.devices.world
        window.gradient_norm += norm
        first = self.state.step - len(results)
        for i, good in enumerate(finite.tolist()):
            health.skipped_in_a_row = 0 if good else health.skipped_in_a_row + 1
            window.skipped += not good
            if not good:
                self._skipped(first + i, float(table[i, 0]))

    def _skipped(self, step: int, loss: float) -> None:
        rules, in_a_row = self.plan.recipe.guard, self.state.health.skipped_in_a_row
        names = self._names(step)
        if self.log is not None:
            epoch = round((step + 1) / self.plan.steps_per_epoch, 6)
            self.log.write({"step": step + 1, "epoch": epoch, "split": "skipped", "files": names})
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        what = f"the loss is {loss:g}" if loss != loss or abs(loss) == float("inf") else "the gradient is not finite"
        where = f"{what} at step {step + 1}, with {', '.join(names[:_NAMED])}{more}"
        if rules.nonfinite == "stop" or in_a_row > rules.most_skipped:
            times = f", the {in_a_row}th such step in a row" if in_a_row > 1 else ""
            raise Diverged(
                f"{where}{times}: try a lower optimizer.lr, a longer warm-up or float32; {self._last_good()}"
            )
        self.say(f"{where}: the step is left out")

    def _names(self, step: int) -> list[str]:
        """The images of a step (0 for the first), of all processes."""
        plan = self.plan
        samples = plan.train.samples
        whole = TrainBatches(samples, plan.preprocess, plan.augment, plan.recipe.batch_size, plan.recipe.seed)
        return [samples.names[index] for index in whole.positions(step)[1].tolist()]

    def judge(self, loss: float) -> int | None:
        """Take in a logged loss. If it is a spike and the recipe asks for it, go back to the last good weights.

        Returns:
            The step of the checkpoint whose weights the run has now; None if it has kept its own.

        Raises:
            Diverged: there is no such checkpoint, or it has happened too often.
        """
        rules, state = self.plan.recipe.guard, self.state
        if rules.spike is None or not state.health.is_spike(loss, rules.spike):
            state.health.note(state.step, loss)
            return None
        what = f"the loss has shot up to {loss:.4g} at step {state.step}"
        if state.health.rollbacks == rules.most_rollbacks:
            raise Diverged(f"{what} once more, after {rules.most_rollbacks} returns: try a lower optimizer.lr")
        way_back = state.health.way_back
        found = None if way_back is None else checkpoint.newest_valid(self.checkpoints, at_most=way_back)[0]
        self.devices.barrier()  # every process has read it before the first one writes another
        if found is None:
            raise Diverged(
                f"{what}, and there is no checkpoint before it yet: set checkpoint.every lower, or guard.spike=null"
            )
        state.restore_tensors(found, self.devices.control)
        state.health.rollbacks += 1
        self.say(f"{what}: back to the weights of step {found.step}; the images since then are left out")
        return found.step

    def _last_good(self) -> str:
        saved = checkpoint.steps(self.checkpoints)
        return f"the last good state is in {self.checkpoints}" if saved else "nothing was saved yet"

    def no_answers(self, error: Exception) -> Diverged:
        """What ends a run whose weights are finite, and its model's output on the val part is not."""
        return Diverged(
            f"{str(error).partition(':')[0]} at step {self.state.step}: try a lower optimizer.lr; {self._last_good()}"
        )

    def check_weights(self) -> None:
        """Raise Diverged, in every process, if any of them holds a weight, average or moment that is not finite."""
        if self.devices.any(not self.state.is_finite()):
            raise Diverged(
                f"weights are no longer finite at step {self.state.step}, and are not saved: try a lower optimizer.lr; "
                f"{self._last_good()}"
            )
