"""A study of sizes, planned: every trained model at every size, and no more work than the chosen rates ask for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiny_study import tiny, tiny_of_sizes
from vitrail.data.resolutions import different_sizes
from vitrail.errors import UserError
from vitrail.model import ViTConfig, model_variant
from vitrail.model.cost import Cost
from vitrail.recipes.resolution import Resolution
from vitrail.studies import outcome
from vitrail.studies.budget import Pace
from vitrail.studies.job import Job, Task, as_plain, task_of
from vitrail.studies.outcome import Outcome, SizeOutcome
from vitrail.studies.plan import make_plan, shortened
from vitrail.studies.schedule import Schedule
from vitrail.studies.sizes import image_sizes
from vitrail.studies.transfer import Transfer
from vitrail.training.resolution import pairs_of


def waiting(schedule: Schedule) -> list[Task]:
    return list(iter(schedule.next_job, None))


def ended(task: Task, val_top1: float = 0.5) -> Outcome | SizeOutcome:
    correct = np.random.default_rng(0).random((2, 359)) < 0.5
    if isinstance(task, Transfer):
        return SizeOutcome(task.cell, correct, (1.0, 0.5), seconds=1.0)
    return Outcome(task.cell, val_top1, 1.0, correct[0], 1.0, steps=6, seconds=1.0)


def config(**changes: Any) -> ViTConfig:
    found = model_variant("Ti/16", **{"patch_size": 2, "image_size": (16, 16), **changes})
    assert isinstance(found, ViTConfig)
    return found


def test_sizes_are_whole_patches_of_every_arm_and_there_once() -> None:
    scales = (0.1, 0.5, 0.7, 0.75, 1.0, 1.01, 2.0)
    assert image_sizes(scales, [config()]) == {0.1: (2, 2), 0.5: (8, 8), 0.7: (12, 12), 1.0: (16, 16), 2.0: (32, 32)}
    both = [config(image_size=(24, 12)), config(image_size=(24, 12), patch_size=3)]
    assert image_sizes((0.5, 1.0, 1.5), both) == {0.5: (12, 6), 1.0: (24, 12), 1.5: (36, 18)}
    assert list(image_sizes((1.0, 1.6), [config(image_size=(14, 14), patch_size=7)]).values()) == [(14, 14), (21, 21)]


def test_arms_that_are_trained_at_other_sizes_are_refused() -> None:
    arms = {"with": {}, "large": {"image_size": 12}}
    with pytest.raises(UserError, match="trains all arms at one size, not at 8x8 and 12x12"):
        make_plan(tiny_of_sizes(arms=arms), "digits")


def test_an_interpolation_that_there_is_not_is_refused() -> None:
    arms = {"with": {}, "own": {"of": "with", "model.position_interpolation": "bilinaer"}}
    with pytest.raises(UserError, match="arm own at .*bilinaer.*bilinear"):
        make_plan(tiny_of_sizes(arms=arms), "digits")


def test_an_arm_that_reads_as_another_does_is_left_out() -> None:
    arms = {
        "with": {},
        "own": {"of": "with", "model.position_interpolation": "bicubic_antialias"},
        "area": {"of": "with", "model.position_interpolation": "area"},
        "area too": {"of": "with", "model.position_interpolation": "area"},
        "uneven": {"model.patch_size": 3},
        "of uneven": {"of": "uneven", "model.position_interpolation": "area"},
    }
    plan = make_plan(tiny_of_sizes(arms=arms), "digits")
    assert list(plan.study.arms) == ["with", "area"]
    assert {planned.arm for planned in plan.cells} == {"with"}
    text = "\n".join(plan.left_out)
    for words in ("own: the same as with", "area too: the same as area", "of uneven: uneven, whose models it reads"):
        assert words in text


def test_costs_are_those_of_the_sizes() -> None:
    plan = make_plan(tiny_of_sizes(), "digits")
    trained = plan.reference
    for resized in plan.resized:
        cost = Cost(trained.config.with_changes(image_size=resized.image_size))
        if resized.of == "with":
            assert (resized.flops, resized.tokens) == (cost.flops, (resized.image_size[0] // 2) ** 2)
        assert resized.tuning_flops == 3 * resized.flops * 4 * 32  # half of 6 steps is less than the fewest, 4
    runs = sum(3 * cell.size.training_flops for cell in plan.cells)  # two rates, and the second seed
    tuning = sum(2 * r.tuning_flops for r in plan.resized if r.arm != "read bilinear" or r.scale != 1)
    assert plan.training_flops == runs + tuning
    assert (plan.runs, plan.transfers) == (6, 16)


def test_the_fine_tuning_is_the_training_at_one_size_with_fewer_steps() -> None:
    arms = {"with": {}, "several": {"resolution.scales": [0.5, 1, 2]}}
    plan = make_plan(tiny_of_sizes(arms=arms, recipe={**tiny().recipe, "steps": 40}), "digits")
    cells = {cell.arm: cell for cell in plan.cells}
    assert cells["several"].size.training_flops > 1.5 * cells["with"].size.training_flops
    one, other = ([r for r in plan.resized if r.arm == arm] for arm in ("with", "several"))
    for mine, theirs in zip(one, other, strict=True):
        assert mine.recipe == theirs.recipe
        assert (mine.recipe.steps, mine.recipe.image_size) == (20, mine.image_size)
        assert not mine.recipe.resolution.varies
    assert shortened(plan, 0.5).resized[0].steps == 10


def test_models_of_the_chosen_rate_alone_are_brought_to_the_sizes(tmp_path: Path) -> None:
    plan = make_plan(tiny_of_sizes(), "digits")
    schedule = Schedule(plan, tmp_path)
    first = waiting(schedule)
    assert all(isinstance(task, Job) for task in first)
    best = {"with": 1e-2, "without": 1e-3}
    for task in first:
        schedule.done(ended(task, 0.9 if task.cell.lr == best[task.cell.arm] else 0.5))
    second = waiting(schedule)
    for task in second:
        schedule.done(ended(task))
    third = waiting(schedule)
    tasks = [task for task in (*second, *third) if isinstance(task, Transfer)]
    of = {"read bilinear": "with"}
    assert {(t.cell.arm, t.cell.lr, t.cell.seed, t.cell.image_size) for t in tasks} == {
        (arm, best[of.get(arm, arm)], seed, (side, side))
        for arm in ("with", "read bilinear", "without")
        for seed in (0, 1)
        for side in (4, 8, 12)
        if (arm, side) != ("read bilinear", 8)
    }
    assert len(tasks) == plan.transfers
    assert len({task.folder for task in tasks}) == len(tasks)
    for task in tasks:
        assert task.recipe["optimizer"]["lr"] == pytest.approx(0.3 * task.cell.lr)
        assert task.recipe["seed"] == task.cell.seed
        assert task.method == ("bilinear" if task.cell.arm == "read bilinear" else None)
        assert f"{of.get(task.cell.arm, task.cell.arm)}/lr-{task.cell.lr:g}/seed-{task.cell.seed}" in task.run
    for task in third:
        schedule.done(ended(task))
    assert waiting(schedule) == []
    assert schedule.ended == plan.runs + plan.transfers
    assert schedule.flops_done == plan.training_flops


def test_transfers_that_are_done_are_not_started_again(tmp_path: Path) -> None:
    plan = make_plan(tiny_of_sizes(lr=[1e-2]), "digits")
    schedule = Schedule(plan, tmp_path)
    for task in waiting(schedule):
        outcome.write(ended(task), Path(task.folder))
        schedule.done(ended(task))
    tasks = waiting(schedule)
    for task in tasks[:5]:
        outcome.write(ended(task), Path(task.folder))
    again = Schedule(plan, tmp_path)
    assert (len(again.outcomes), len(again.transferred)) == (plan.runs, 5)
    assert {task.folder for task in waiting(again)} == {task.folder for task in tasks[5:]}


def test_tasks_and_outcomes_come_back_as_they_were(tmp_path: Path) -> None:
    import json

    plan = make_plan(tiny_of_sizes(lr=[1e-2]), "digits")
    schedule = Schedule(plan, tmp_path)
    jobs = waiting(schedule)
    for job in jobs:
        schedule.done(ended(job))
    for task in (jobs[0], waiting(schedule)[0]):
        assert task_of(json.loads(json.dumps(as_plain(task)))) == task
        written = ended(task)
        outcome.write(written, Path(task.folder))
        found = task.kept()
        assert found is not None
        assert (found.cell, found.nll, found.seconds) == (written.cell, written.nll, written.seconds)
        assert np.array_equal(found.correct, written.correct)
        (Path(task.folder) / outcome.NAME).write_text("{")
        assert task.kept() is None


def test_a_budget_counts_tests_and_fine_tuning() -> None:
    pace, steps = Pace(of_step=0.1, of_run=1.0), {**tiny().recipe, "steps": 1000}
    arms = {"with": {}, "without": {"model.position": "none"}}
    plain = make_plan(tiny(arms=arms, recipe=steps), "digits")
    plan = make_plan(tiny_of_sizes(arms=arms, recipe=steps), "digits")
    of_flop = 0.1 / (plan.reference.size.flops * 32)
    flops = [resized.flops for resized in plan.resized]
    tuning = 2 * sum(flops) * of_flop * 500 * 32
    tests = 2 * 2 * 359 * sum(flops) * of_flop / 3
    more = pace.seconds(plan, 1) - pace.seconds(plain, 1)
    assert more == pytest.approx(tuning + tests + 2 * len(flops) * 1.0)
    assert pace.seconds(plan, 1, 0.0) == pytest.approx(6 + 2 * len(flops) + tests)


@pytest.mark.parametrize(
    "changes",
    [
        {"sizes": {"scales": [0.5, 1], "tune": 0.5}},
        {"sizes": {"scales": [0.5, 1, 1.5], "tune": 0.9}},
        {"sizes": {"scales": [0.5, 1, 1.5], "tune": 0.5, "tune_lr": 0.5}},
        {"arms": {"with": {}, "read bilinear": {"of": "with", "model.position_interpolation": "area"}, "without": {}}},
    ],
)
def test_what_decides_the_numbers_at_other_sizes_is_part_of_what_the_study_is(changes: dict[str, Any]) -> None:
    steps = {**tiny().recipe, "steps": 100}
    plan, other = (make_plan(tiny_of_sizes(**{"recipe": steps, **more}), "digits") for more in ({}, changes))
    assert plan.identity()["sizes"] != other.identity()["sizes"]
    assert "sizes" not in make_plan(tiny(), "digits").identity()


@pytest.mark.parametrize(("side", "patch"), [(224, 16), (28, 4), (224, 32), (96, 16), (20, 4), (16, 2)])
def test_a_model_is_tested_at_the_sizes_that_a_training_at_the_same_scales_has(side: int, patch: int) -> None:
    scales = (0.5, 0.75, 1.0, 1.5, 2.0)
    config = ViTConfig(image_size=(side, side), patch_size=patch, width=16, heads=2, mlp_width=16, depth=1)
    trained = different_sizes(pairs_of(Resolution(scales=scales), config))
    assert set(image_sizes(scales, [config]).values()) == set(trained)
