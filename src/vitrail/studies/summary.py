"""Outcomes to points: the learning rate that each arm is judged at, accuracies, and paired differences.

The learning rate is chosen on the validation images and judged on others, so that the choice flatters no arm.

Shapes: S seeds, n reported images.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitrail.studies.findings import Estimate, Point
from vitrail.studies.outcome import Outcome, Size
from vitrail.studies.statistics import LEVEL, estimate, paired_difference, paired_mean
from vitrail.studies.study import Study

Runs = dict[float, dict[int, Outcome]]
"""The outcomes of one arm at one value along the axis: learning rate -> seed -> outcome."""


@dataclass(frozen=True)
class _Tried:
    """One arm at one value along the axis."""

    runs: Runs
    rate: float
    """The learning rate that was chosen from them."""


@dataclass(frozen=True)
class _Compared:
    """A point with its differences, and the p value of ``difference``; None where there is none, or of one seed."""

    point: Point
    p_value: float | None


def choose_rate(outcomes: Sequence[Outcome]) -> float:
    """The learning rate of one arm, at one value along the axis, with the best mean accuracy on the validation images.

    Only the seeds that have tried every rate are asked, since others would favour the rates that they took; all of them,
    where no seed has. Of equals the lower validation loss decides, then the lower rate.

    Raises:
        ValueError: if there are no outcomes.
    """
    runs = _runs(outcomes)
    if not runs:
        raise ValueError("no outcomes to choose a learning rate from")
    complete = set.intersection(*(set(seeds) for seeds in runs.values()))

    def worth(lr: float) -> tuple[float, float, float]:
        asked = [outcome for seed, outcome in runs[lr].items() if seed in complete or not complete]
        losses = [math.inf if outcome.val_loss is None else outcome.val_loss for outcome in asked]
        return float(np.mean([outcome.val_top1 for outcome in asked])), -float(np.mean(losses)), -lr

    return max(runs, key=worth)


def summarise(study: Study, sizes: Mapping[tuple[str, Any], Size], outcomes: Sequence[Outcome]) -> tuple[Point, ...]:
    """Every arm at every value along the axis and every learning rate that was run, in this order, rates ascending.

    Args:
        study: its ``arms`` hold all that were run, those that were added to it included.
        sizes: (arm, value along the axis) -> cost; the value is None in a study without an axis.
        outcomes: of finished runs; an arm without any has no points.
    """
    tried = _choose(_as_long(outcomes))
    compared: list[_Compared] = []
    for arm in study.arms:
        for value in study.along.values if study.along else (None,):
            own = tried.get((arm, value))
            opponent = study.opponent(arm)
            if own is not None:
                other = tried.get((opponent, value)) if opponent != arm else None
                compared += [
                    _compare(_point(arm, value, lr, own, sizes[arm, value]), own, other) for lr in sorted(own.runs)
                ]
    return _corrected(compared)


def _as_long(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes, all with n answers: a run that diverged knows of no images left out, and is wrong on all n."""
    lengths = {len(outcome.correct) for outcome in outcomes if not outcome.diverged}
    n = max(lengths or {len(outcome.correct) for outcome in outcomes}, default=0)
    return [
        replace(outcome, correct=np.zeros(n, bool)) if outcome.diverged and len(outcome.correct) != n else outcome
        for outcome in outcomes
    ]


def _choose(outcomes: Sequence[Outcome]) -> dict[tuple[str, Any], _Tried]:
    """(arm, value along the axis) -> its runs, and the rate chosen from them."""
    cells: dict[tuple[str, Any], list[Outcome]] = {}
    for outcome in outcomes:
        cells.setdefault((outcome.cell.arm, outcome.cell.along), []).append(outcome)
    return {cell: _Tried(_runs(found), choose_rate(found)) for cell, found in cells.items()}


def _compare(point: Point, own: _Tried, other: _Tried | None) -> _Compared:
    """The point with its differences to its opponent: at both their chosen rates if it is chosen, and at its own rate."""
    if other is None:
        return _Compared(point, None)
    at_rate, p_value = _paired(own.runs[point.lr], other.runs.get(point.lr, {}))
    difference = at_rate
    if point.chosen and other.rate != point.lr:
        difference, p_value = _paired(own.runs[point.lr], other.runs[other.rate])
    return _Compared(replace(point, difference=difference, difference_at_rate=at_rate), p_value)


def _corrected(compared: Sequence[_Compared]) -> tuple[Point, ...]:
    """The points, told apart only where that holds with all the comparisons in mind that the answer makes together.

    Bonferroni: of all of them, not one in twenty may be wrong by chance alone.
    """
    answers = sum(each.point.chosen and each.p_value is not None for each in compared)
    most = (1 - LEVEL) / max(answers, 1)
    return tuple(replace(each.point, told_apart=each.p_value is not None and each.p_value < most) for each in compared)


def _runs(outcomes: Sequence[Outcome]) -> Runs:
    runs: Runs = {}
    for outcome in outcomes:
        runs.setdefault(outcome.cell.lr, {})[outcome.cell.seed] = outcome
    return runs


def _point(arm: str, value: Any, lr: float, own: _Tried, size: Size) -> Point:
    """The numbers of one cell of the study over its seeds, compared with nothing yet."""
    seeds = own.runs[lr]
    outcomes = list(seeds.values())
    nlls = [outcome.nll for outcome in outcomes if outcome.nll is not None]
    return Point(
        arm=arm,
        along=value,
        lr=lr,
        chosen=lr == own.rate,
        seeds=len(outcomes),
        diverged=sum(outcome.diverged for outcome in outcomes),
        val_top1=float(np.mean([outcome.val_top1 for outcome in outcomes])),
        top1=estimate(_answers(seeds, sorted(seeds))),
        difference=None,
        told_apart=False,
        nll=float(np.mean(nlls)) if nlls else None,
        seconds=float(np.mean([outcome.seconds for outcome in outcomes])),
        size=size,
    )


def _paired(own: Mapping[int, Outcome], other: Mapping[int, Outcome]) -> tuple[Estimate | None, float | None]:
    """The difference over the seeds that both have, and its p value: None of one seed, which tells nothing of others."""
    seeds = sorted(own.keys() & other.keys())
    if not seeds:
        return None, None
    a, b = _answers(own, seeds), _answers(other, seeds)
    return paired_difference(a, b), paired_mean(a, b).p_value() if len(seeds) > 1 else None


def _answers(outcomes: Mapping[int, Outcome], seeds: Sequence[int]) -> NDArray[np.bool_]:
    """(S, n), whether each image was got right."""
    return np.stack([outcomes[seed].correct for seed in seeds])
