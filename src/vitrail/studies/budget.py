"""How long a study takes, tried out before it begins, and how much of its runs fits into a budget of time."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import vitrail.training.metrics as metrics_log
from vitrail.errors import UserError
from vitrail.recipes import files
from vitrail.studies.job import Job, Task
from vitrail.studies.outcome import Cell
from vitrail.studies.plan import FEWEST_STEPS, StudyPlan
from vitrail.studies.workers import Share, working
from vitrail.training.progress import clock

_TRIED = 40  # steps


@dataclass(frozen=True)
class Pace:
    """How fast the reference trains, beside as many others as will run side by side."""

    of_step: float
    """Seconds."""
    of_run: float
    """Seconds that a run takes beside its steps: images read, evaluations, its report."""

    def seconds(self, plan: StudyPlan, jobs: int, share: float = 1.0) -> float:
        """How long all runs and transfers take with this share of their steps.

        A step's time is taken to be in proportion to FLOPs, and a third of it to be the forward pass.
        """
        reference = plan.reference
        of_flop = 3 * self.of_step * reference.size.steps / reference.size.training_flops
        steps = plan.training_flops / 3 * of_flop
        return (steps * share + (plan.runs + plan.transfers) * self.of_run + self._tests(plan, of_flop / 3)) / jobs

    def _tests(self, plan: StudyPlan, of_flop: float) -> float:
        """How long it takes to test models at other sizes than that of the training, before and after the fine-tuning."""
        flops = sum(2 * each.flops for each in plan.resized if not each.repeated)
        return plan.study.seeds * len(plan.data.test or ()) * flops * of_flop


def measured(plan: StudyPlan, shares: Sequence[Share]) -> Pace:
    """Train the reference for a few steps in as many processes as the study will have, and take the slowest."""
    reference = plan.reference
    steps = min(_TRIED, reference.size.steps)
    recipe = files.changed(
        reference.recipe, {"steps": steps, "evaluate.every": steps, "optimizer.lr": min(reference.rates)}
    )
    paces = []
    with tempfile.TemporaryDirectory() as folder, working(list(shares)) as workers:
        for warm in (True, False):  # the first run of a process also imports torch
            started = time.monotonic()
            jobs = [
                Job(Cell("trial", None, min(reference.rates), i), recipe.to_dict(), f"{folder}/{warm}-{i}", 1)
                for i in range(len(shares))
            ]
            for job in jobs:
                workers.start(job)
            ended = 0
            while ended < len(jobs):
                for done, result in workers.wait(1.0):
                    if isinstance(result, BaseException):
                        raise result
                    ended += 1
                    paces.append(_pace(done, recipe.batch_size, steps, time.monotonic() - started))
    of_step = max(of_step for of_step, _ in paces[len(shares) :])
    return Pace(of_step, max(of_run for _, of_run in paces[len(shares) :]))


def _pace(job: Task, batch_size: int, steps: int, passed: float) -> tuple[float, float]:
    """Seconds a step, and seconds beside the steps, of a run that took ``passed``."""
    speeds = [record.get("images_per_second") for record in metrics_log.read(Path(job.folder) / metrics_log.NAME)]
    known = [speed for speed in speeds if speed]
    of_step = batch_size / max(known) if known else passed / steps
    return of_step, max(0.0, passed - steps * of_step)


def share_of_steps(plan: StudyPlan, pace: Pace, jobs: int, budget: float) -> float:
    """The share of every run's steps with which the study takes about ``budget`` seconds; 1 if all of them fit.

    Raises:
        UserError: the budget does not even suffice for what runs take beside their steps, and a few steps.
    """
    fixed, whole = pace.seconds(plan, jobs, 0.0), pace.seconds(plan, jobs)
    if whole <= budget:
        return 1.0
    longest = max(planned.size.steps for planned in plan.cells)
    least = min(1.0, FEWEST_STEPS / longest)
    share = (budget - fixed) / (whole - fixed)
    if share < least:
        raise UserError(
            f"--budget: {plan.runs} runs of at least {FEWEST_STEPS} steps need about "
            f"{clock(pace.seconds(plan, jobs, least))}: allow more, or take fewer --seeds or learning rates"
        )
    return share
