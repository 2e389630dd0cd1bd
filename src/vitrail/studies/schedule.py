"""Schedule: which run of a study is next, and what follows from those that are done."""

import heapq
import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.recipes import files
from vitrail.studies import outcome
from vitrail.studies.job import Job
from vitrail.studies.outcome import Cell, Outcome
from vitrail.studies.plan import Planned, StudyPlan
from vitrail.studies.summary import choose_rate


@dataclass
class _Progress:
    """An arm at one value along the axis."""

    planned: Planned
    folder: Path
    sweep: int
    """Seeds that try every learning rate."""
    outcomes: list[Outcome]
    released: bool = False
    """Whether the other seeds have been given the chosen rate."""


class Schedule:
    """The runs of a plan below ``folder``; those whose outcome is there already are done.

    First come the seeds that try every learning rate, the most expensive runs before the cheap ones, so that the
    processes end together; when an arm has tried all its rates, its other seeds follow at the best one.
    """

    def __init__(self, plan: StudyPlan, folder: Path) -> None:
        self.plan = plan
        self.reported = len(plan.data.test or ())
        self.seeds = plan.study.seeds
        self.outcomes: list[Outcome] = []
        self.flops_done = 0.0
        self._heap: list[tuple[float, int, Job]] = []
        self._order = itertools.count()
        self._arms: dict[tuple[str, Any], _Progress] = {}
        sweep = min(plan.study.sweep_seeds or self.seeds, self.seeds)
        names = list(dict.fromkeys(planned.arm for planned in plan.cells))
        for planned in plan.cells:
            own = folder / f"{names.index(planned.arm) + 1:02d}-{_slug(planned.arm)}"
            if planned.along is not None:
                own /= f"{plan.values.index(planned.along) + 1:02d}-{_slug(str(planned.along))}"
            arm = _Progress(planned, own, self.seeds if len(planned.rates) == 1 else sweep, [])
            self._arms[planned.arm, planned.along] = arm
            for rate, seed in itertools.product(planned.rates, range(arm.sweep)):
                self._add(arm, rate, seed)

    def next_job(self) -> Job | None:
        """Take the next run that may start now, if there is one."""
        return heapq.heappop(self._heap)[2] if self._heap else None

    def done(self, result: Outcome) -> None:
        """Note that a run has ended; others may follow from it."""
        arm = self._arms[result.cell.arm, result.cell.along]
        arm.outcomes.append(result)
        self.outcomes.append(result)
        self.flops_done += arm.planned.size.training_flops
        if not arm.released and len(arm.outcomes) == len(arm.planned.rates) * arm.sweep:
            arm.released = True
            best = choose_rate(arm.outcomes)
            for seed in range(arm.sweep, self.seeds):
                self._add(arm, best, seed)

    def _add(self, arm: _Progress, rate: float, seed: int) -> None:
        planned = arm.planned
        cell = Cell(planned.arm, planned.along, rate, seed)
        folder = arm.folder / f"lr-{rate:g}" / f"seed-{seed}"
        found = outcome.read(folder)
        if found is not None and found.cell == cell:
            self.done(found)
            return
        recipe = files.changed(planned.recipe, {"optimizer.lr": rate, "seed": planned.recipe.seed + seed})
        job = Job(cell, recipe.to_dict(), str(folder), self.reported)
        heapq.heappush(self._heap, (-planned.size.training_flops, next(self._order), job))


def _slug(name: str) -> str:
    """A name for a folder."""
    return re.sub(r"[^\w.]+", "-", name.lower()).strip("-.")[:60] or "arm"
