"""Which run is next: all rates first, then the other seeds at the best one; what is done stays done."""

from pathlib import Path

import numpy as np

from tiny_study import tiny
from vitrail.studies import outcome
from vitrail.studies.job import Job
from vitrail.studies.outcome import Outcome
from vitrail.studies.plan import make_plan
from vitrail.studies.schedule import Schedule


def waiting(schedule: Schedule) -> list[Job]:
    """All runs that may start now."""
    return list(iter(schedule.next_job, None))


def ended(job: Job, val_top1: float) -> Outcome:
    correct = np.random.default_rng(0).random(359) < 0.5
    return Outcome(job.cell, val_top1, 1.0, correct, 1.0, steps=6, seconds=1.0)


def test_the_other_seeds_take_the_best_rate_alone(tmp_path: Path) -> None:
    schedule = Schedule(make_plan(tiny(seeds=3), "digits"), tmp_path)
    first = waiting(schedule)
    assert {(j.cell.arm, j.cell.lr, j.cell.seed) for j in first} == {
        (arm, lr, 0) for arm in ("with", "without") for lr in (1e-3, 1e-2)
    }
    for job in first:
        best = {"with": 1e-2, "without": 1e-3}[job.cell.arm]
        schedule.done(ended(job, 0.9 if job.cell.lr == best else 0.5))
    later = waiting(schedule)
    assert {(j.cell.arm, j.cell.lr, j.cell.seed) for j in later} == {
        *(("with", 1e-2, seed) for seed in (1, 2)),
        *(("without", 1e-3, seed) for seed in (1, 2)),
    }
    assert len(first) + len(later) == make_plan(tiny(seeds=3), "digits").runs


def test_with_all_seeds_sweeping_nothing_follows(tmp_path: Path) -> None:
    plan = make_plan(tiny(sweep_seeds=None), "digits")
    schedule = Schedule(plan, tmp_path)
    jobs = waiting(schedule)
    assert len(jobs) == plan.runs == 8
    for job in jobs:
        schedule.done(ended(job, 0.5))
    assert waiting(schedule) == []


def test_seeds_change_the_run_and_nothing_else(tmp_path: Path) -> None:
    jobs = waiting(Schedule(make_plan(tiny(sweep_seeds=None, lr=[1e-3]), "digits"), tmp_path))
    one, other = (job.recipe for job in jobs if job.cell.arm == "with")
    assert (one["seed"], other["seed"]) == (0, 1)
    assert {**one, "seed": 1} == other


def test_expensive_runs_come_first(tmp_path: Path) -> None:
    arms = {"with": {}, "deep": {"model.depth": 3}, "shallow": {"model.width": 8}}
    jobs = waiting(Schedule(make_plan(tiny(arms=arms), "digits"), tmp_path))
    assert [job.cell.arm for job in jobs][::2] == ["deep", "with", "shallow"]


def test_runs_that_are_done_are_not_started_again(tmp_path: Path) -> None:
    plan = make_plan(tiny(), "digits")
    jobs = waiting(Schedule(plan, tmp_path))
    for job in jobs[:3]:
        outcome.write(ended(job, 0.5), Path(job.folder))
    again = Schedule(plan, tmp_path)
    assert len(again.outcomes) == 3
    # the arm that has tried both rates goes on with its other seed
    assert len(waiting(again)) == 2


def test_folders_of_arms_never_meet(tmp_path: Path) -> None:
    arms = {"with": {}, "a+b": {"model.depth": 2}, "a b": {"model.depth": 3}}
    jobs = waiting(Schedule(make_plan(tiny(arms=arms), "digits"), tmp_path))
    assert len({job.folder for job in jobs}) == len(jobs)


def test_an_outcome_comes_back_as_it_was(tmp_path: Path) -> None:
    job = waiting(Schedule(make_plan(tiny(), "digits"), tmp_path))[0]
    written = ended(job, 0.25)
    outcome.write(written, tmp_path / "run")
    found = outcome.read(tmp_path / "run")
    assert found is not None
    assert (found.cell, found.val_top1, found.nll, found.steps) == (job.cell, 0.25, 1.0, 6)
    assert np.array_equal(found.correct, written.correct)
    (tmp_path / "run" / outcome.NAME).write_text("{")
    assert outcome.read(tmp_path / "run") is None


def test_values_along_the_axis_have_folders_of_their_own(tmp_path: Path) -> None:
    own = tiny(along={"key": "augment.ratio", "values": [[0.5, 1], [0.51, 1]]}, lr=[1e-3])
    jobs = waiting(Schedule(make_plan(own, "digits"), tmp_path))
    assert len({job.folder for job in jobs}) == len(jobs) == 8
    outcome.write(ended(jobs[0], 0.5), Path(jobs[0].folder))
    assert len(waiting(Schedule(make_plan(own, "digits"), tmp_path))) == 7
