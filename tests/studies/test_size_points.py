"""Size points: what is compared with what, over the same seeds and images, and how many comparisons stand together."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from tiny_study import tiny_of_sizes
from vitrail.studies.findings import SizePoint
from vitrail.studies.outcome import Cell, Outcome, SizeCell, SizeOutcome
from vitrail.studies.plan import StudyPlan, make_plan
from vitrail.studies.size_points import size_points
from vitrail.studies.summary import summarise

RATES = {"with": 1e-2, "without": 1e-3}
N = 359


@pytest.fixture(scope="module")
def plan() -> StudyPlan:
    return make_plan(tiny_of_sizes(seeds=3), "digits")


def runs(answers: Mapping[Any, Any] | None = None) -> tuple[list[Outcome], list[SizeOutcome]]:
    """Outcomes at all rates and sizes; ``answers``: (arm, side, tuned) -> how probable a right answer is, else 0.8."""
    generator = np.random.default_rng(0)
    hard = generator.random((3, N))
    outcomes, transferred = [], []
    for arm, best in RATES.items():
        for lr in (1e-3, 1e-2):
            for seed in range(3 if lr == best else 1):
                right = hard[seed] < 0.8
                outcomes.append(Outcome(Cell(arm, None, lr, seed), float(lr == best), 1.0, right, 0.5, 6, 10.0 + seed))
    for arm, side in [("with", 4), ("with", 8), ("with", 12), ("read bilinear", 4), ("read bilinear", 12)] + [
        ("without", side) for side in (4, 8, 12)
    ]:
        for seed in range(3):
            both = [hard[seed] < (answers or {}).get((arm, side, tuned), 0.8) for tuned in (False, True)]
            cell = SizeCell(arm, RATES.get(arm, 1e-2), seed, (side, side))
            transferred.append(SizeOutcome(cell, np.stack(both), (0.5, 0.25 + seed), 2.0))
    return outcomes, transferred


def points_of(plan: StudyPlan, outcomes: Sequence[Outcome], transferred: Sequence[SizeOutcome]) -> dict[Any, SizePoint]:
    sizes = {(cell.arm, cell.along): cell.size for cell in plan.cells}
    points = summarise(plan.study, sizes, outcomes)
    found = size_points(plan.study, plan.resized, points, outcomes, transferred)
    keyed = {(point.arm, point.image_size[0], point.tuned): point for point in found}
    assert list(keyed) == [
        (arm, side, tuned)
        for arm in ("with", "read bilinear", "without")
        for side in (4, 8, 12)
        for tuned in (False, True)
    ]
    return keyed


def test_every_point_has_its_numbers(plan: StudyPlan) -> None:
    found = points_of(plan, *runs({("without", 12, True): 0.5}))
    point = found["without", 12, True]
    assert point.top1.mean == pytest.approx(0.5, abs=0.05)
    assert (point.scale, point.seeds, point.tokens, point.nll) == (1.5, 3, 36, 1.25)
    assert point.seconds == pytest.approx(11 + 2)
    trained = next(cell for cell in plan.cells if cell.arm == "without").size.training_flops
    assert point.training_flops == trained + 3 * point.flops * 4 * 32
    before = found["without", 12, False]
    assert (before.training_flops, before.seconds, before.nll) == (trained, 11, 0.5)
    assert found["with", 8, False].flops < found["with", 12, False].flops


def test_a_difference_is_to_the_opponent_at_the_same_size_and_stage(plan: StudyPlan) -> None:
    found = points_of(plan, *runs({("without", 4, False): 0.5, ("with", 12, True): 0.9}))
    assert all(found["with", side, tuned].difference is None for side in (4, 8, 12) for tuned in (False, True))
    assert found["without", 4, False].difference.mean == pytest.approx(-0.3, abs=0.05)
    assert found["without", 4, False].told_apart
    assert found["without", 12, True].difference.mean == pytest.approx(-0.1, abs=0.05)
    assert found["read bilinear", 12, True].told_apart
    assert found["without", 4, True].difference.mean == 0
    assert not found["without", 4, True].told_apart


def test_a_change_is_from_the_same_arm_as_it_was_trained(plan: StudyPlan) -> None:
    found = points_of(plan, *runs({("without", 4, False): 0.5, ("without", 8, True): 0.9, ("without", 8, False): 0.7}))
    assert found["without", 8, False].change is None
    assert found["without", 8, True].change.mean == pytest.approx(0.2, abs=0.05)
    assert found["without", 4, False].change.mean == pytest.approx(-0.2, abs=0.05)
    assert found["without", 4, False].change_told_apart
    assert found["without", 12, True].change.mean == pytest.approx(0.1, abs=0.05)
    assert found["with", 4, False].change.mean == 0


def test_at_the_base_size_an_arm_that_reads_anothers_models_has_its_numbers(plan: StudyPlan) -> None:
    found = points_of(plan, *runs({("with", 8, True): 0.95}))
    for tuned in (False, True):
        own, other = found["read bilinear", 8, tuned], found["with", 8, tuned]
        assert own.top1 == other.top1
        assert own.change == other.change
        assert own.change_told_apart == other.change_told_apart == tuned
        assert own.difference.mean == 0
        assert not own.told_apart


def test_the_more_comparisons_the_surer_each_difference_must_be(
    plan: StudyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 6 differences of the one arm and 4 of the other: what is nobody's own is not counted."""
    from vitrail.studies.statistics import Mean

    answers = {(arm, side, tuned): 0.5 for arm in RATES for side in (4, 8, 12) for tuned in (False, True)}
    for p, apart in ((0.05 / 10.5, True), (0.05 / 9.5, False)):
        monkeypatch.setattr(Mean, "p_value", lambda mean, p=p: p)
        assert points_of(plan, *runs(answers))["without", 4, False].told_apart == apart


def test_a_change_is_told_by_its_own_interval_however_many_there_are(plan: StudyPlan) -> None:
    """With 3 seeds a correction for all changes would hide a loss of 50 points, which then reads as if there were none."""
    told = 0
    for right in (0.3, 0.74, 0.77, 0.8):
        for point in points_of(plan, *runs({("without", 4, False): right})).values():
            if point.change:
                assert point.change_told_apart == (point.change.low > 0 or point.change.high < 0)
                told += point.change_told_apart
    assert told >= 2


def test_a_model_whose_training_diverged_is_wrong_everywhere(plan: StudyPlan) -> None:
    outcomes, transferred = runs()
    lost = [kept for kept in transferred if kept.cell.arm == "without" and kept.cell.seed == 1]
    kept = [kept for kept in transferred if kept not in lost]
    # images that could not be read were left out elsewhere, and are not known here
    lost = [SizeOutcome(kept.cell, np.zeros((2, N + 3), bool), (None, None), 0.0) for kept in lost]
    point = points_of(plan, outcomes, [*kept, *lost])["without", 12, True]
    assert point.top1.mean == pytest.approx(0.8 * 2 / 3, abs=0.05)
    assert point.nll == pytest.approx((0.25 + 2.25) / 2)


def test_transfers_at_a_rate_that_is_not_chosen_are_not_looked_at(plan: StudyPlan) -> None:
    outcomes, transferred = runs()
    stray = SizeOutcome(SizeCell("with", 1e-3, 0, (4, 4)), np.zeros((2, N), bool), (9.0, 9.0), 1.0)
    assert points_of(plan, outcomes, [*transferred, stray]) == points_of(plan, outcomes, transferred)


def test_the_rows_of_the_sizes_hold_every_number(plan: StudyPlan) -> None:
    from made_up import setting

    from vitrail.studies.findings import Findings
    from vitrail.studies.table import size_rows

    points = points_of(plan, *runs({("without", 4, False): 0.5}))
    rows = size_rows(Findings("t", plan.study, setting(), (), sizes=tuple(points.values())))
    assert [(r["arm"], r["height"], r["tuned"]) for r in rows] == list(points)
    assert all(list(row) == list(rows[0]) for row in rows)
    row, point = rows[-6], points["without", 4, False]
    assert (row["top1"], row["top1_low"], row["top1_high"]) == (point.top1.mean, point.top1.low, point.top1.high)
    assert (row["difference"], row["change_high"]) == (point.difference.mean, point.change.high)
    assert (row["against"], row["told_apart"], row["change_told_apart"]) == ("with", True, True)
    assert (row["flops"], row["training_flops"]) == (point.flops, point.training_flops)
    assert (rows[2]["change"], rows[2]["change_told_apart"], rows[2]["against"]) == (None, None, None)
