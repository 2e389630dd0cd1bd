"""Schedule: which run of a study is next, and what follows from those that are done."""

import heapq
import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.recipes import files
from vitrail.studies.job import Job, Task
from vitrail.studies.outcome import Cell, Kept, Outcome, SizeCell, SizeOutcome
from vitrail.studies.plan import Planned, StudyPlan
from vitrail.studies.sizes import Resized
from vitrail.studies.summary import choose_rate
from vitrail.studies.transfer import Transfer


@dataclass
class _Progress:
    """An arm at one value along the axis."""

    planned: Planned
    folder: Path
    sweep: int
    """Seeds that try every learning rate."""
    outcomes: list[Outcome]
    rate: float | None = None
    """The chosen rate, once every rate is tried; then the other seeds are given it."""


class Schedule:
    """The runs of a plan below ``folder``; those whose outcome is there already are done.

    First come the seeds that try every learning rate, the most expensive runs before the cheap ones, so that the
    processes end together; when an arm has tried all its rates, its other seeds follow at the best one. In a study of
    sizes every model that is trained at it follows, at each size.
    """

    def __init__(self, plan: StudyPlan, folder: Path) -> None:
        self.plan = plan
        self.reported = len(plan.data.test or ())
        self.seeds = plan.study.seeds
        self.outcomes: list[Outcome] = []
        self.transferred: list[SizeOutcome] = []
        self.flops_done = 0.0
        self._heap: list[tuple[float, int, Task]] = []
        self._order = itertools.count()
        self._arms: dict[tuple[str, Any], _Progress] = {}
        sweep = min(plan.study.sweep_seeds or self.seeds, self.seeds)
        names = list(dict.fromkeys(planned.arm for planned in plan.cells))
        self._sizes = folder / "sizes"
        self._resized = {(each.arm, each.image_size): each for each in plan.resized if not each.repeated}
        for planned in plan.cells:
            own = folder / f"{names.index(planned.arm) + 1:02d}-{_slug(planned.arm)}"
            if planned.along is not None:
                own /= f"{plan.values.index(planned.along) + 1:02d}-{_slug(str(planned.along))}"
            arm = _Progress(planned, own, self.seeds if len(planned.rates) == 1 else sweep, [])
            self._arms[planned.arm, planned.along] = arm
            for rate, seed in itertools.product(planned.rates, range(arm.sweep)):
                self._add(arm, rate, seed)

    @property
    def ended(self) -> int:
        """How many runs and transfers are done."""
        return len(self.outcomes) + len(self.transferred)

    def next_job(self) -> Task | None:
        """Take the next run that may start now, if there is one."""
        return heapq.heappop(self._heap)[2] if self._heap else None

    def done(self, result: Kept) -> None:
        """Note that a run or a transfer has ended; others may follow from it."""
        if isinstance(result, SizeOutcome):
            self.transferred.append(result)
            self.flops_done += self._resized[result.cell.arm, result.cell.image_size].tuning_flops
            return
        arm = self._arms[result.cell.arm, result.cell.along]
        arm.outcomes.append(result)
        self.outcomes.append(result)
        self.flops_done += arm.planned.size.training_flops
        if arm.rate is not None:
            self._transfer(arm, result.cell)
        elif len(arm.outcomes) == len(arm.planned.rates) * arm.sweep:
            arm.rate = choose_rate(arm.outcomes)
            for tried in list(arm.outcomes):
                self._transfer(arm, tried.cell)
            for seed in range(arm.sweep, self.seeds):
                self._add(arm, arm.rate, seed)

    def _add(self, arm: _Progress, rate: float, seed: int) -> None:
        planned = arm.planned
        cell = Cell(planned.arm, planned.along, rate, seed)
        recipe = files.changed(planned.recipe, {"optimizer.lr": rate, "seed": planned.recipe.seed + seed})
        job = Job(cell, recipe.to_dict(), str(_of_run(arm.folder, rate, seed)), self.reported)
        self._push(job, planned.size.training_flops)

    def _transfer(self, arm: _Progress, cell: Cell) -> None:
        """Every size of the model that this run has trained, if it is at the chosen rate."""
        if cell.lr != arm.rate:
            return
        for resized in self._resized.values():
            if resized.of == cell.arm:
                self._push(self._transfer_of(resized, arm, cell), resized.tuning_flops)

    def _transfer_of(self, resized: Resized, arm: _Progress, cell: Cell) -> Transfer:
        assert self.plan.study.sizes is not None
        rate, recipe, (h, w) = self.plan.study.sizes.tune_lr * cell.lr, resized.recipe, resized.image_size
        number = list(self.plan.study.arms).index(resized.arm) + 1
        folder = _of_run(self._sizes / f"{number:02d}-{_slug(resized.arm)}", cell.lr, cell.seed) / f"{h}x{w}"
        recipe = files.changed(recipe, {"optimizer.lr": rate, "seed": recipe.seed + cell.seed})
        own = SizeCell(resized.arm, cell.lr, cell.seed, resized.image_size)
        run = str(_of_run(arm.folder, cell.lr, cell.seed))
        return Transfer(own, run, resized.method, recipe.to_dict(), str(folder), self.reported)

    def _push(self, task: Task, flops: float) -> None:
        """Let a task wait for its turn; one that is done already is noted."""
        found = task.kept()
        if found is not None:
            self.done(found)
        else:
            heapq.heappush(self._heap, (-flops, next(self._order), task))


def _of_run(arm: Path, rate: float, seed: int) -> Path:
    return arm / f"lr-{rate:g}" / f"seed-{seed}"


def _slug(name: str) -> str:
    """A name for a folder."""
    return re.sub(r"[^\w.]+", "-", name.lower()).strip("-.")[:60] or "arm"
