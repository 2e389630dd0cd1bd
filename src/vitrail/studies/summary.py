"""Outcomes to points: the learning rate that each arm is judged at, accuracies, and paired differences.

The learning rate is chosen on the validation images and judged on others, so that the choice flatters no arm.

Shapes: S seeds, n reported images.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitrail.studies.findings import Estimate, Point
from vitrail.studies.outcome import Outcome, Size
from vitrail.studies.statistics import LEVEL, estimate, paired_difference, paired_mean
from vitrail.studies.study import Study

Runs = dict[float, dict[int, Outcome]]
"""The outcomes of one arm at one value along the axis: learning rate -> seed -> outcome."""


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
    points: list[Point] = []
    p_values: dict[int, float] = {}  # index of a chosen point with a difference -> of that difference
    others: dict[int, float] = {}  # the same of points that are not chosen
    values = study.along.values if study.along else (None,)
    for arm in study.arms:
        for value in values:
            own, reference = (
                _runs([o for o in outcomes if o.cell.arm == name and o.cell.along == value])
                for name in (arm, study.reference)
            )
            if not own:
                continue
            chosen, reference_chosen = _choice(own), _choice(reference)
            for lr in sorted(own):
                point = _point(arm, value, lr, own[lr], sizes[arm, value])
                if arm != study.reference:
                    beside = reference_chosen if lr == chosen else lr
                    difference, p_value = _compare(own[lr], {} if beside is None else reference.get(beside, {}))
                    at_rate, _ = _compare(own[lr], reference.get(lr, {}) if beside != lr else {})
                    point = replace(point, difference=difference, difference_at_rate=at_rate)
                    if p_value is not None:
                        (p_values if lr == chosen else others)[len(points)] = p_value
                points.append(replace(point, chosen=lr == chosen))
    # Bonferroni: of all comparisons that the answer makes together, not one in twenty may be wrong by chance alone.
    most = (1 - LEVEL) / max(len(p_values), 1)
    return tuple(
        replace(point, told_apart=(p_values | others).get(index, 1.0) < most) for index, point in enumerate(points)
    )


def _runs(outcomes: Sequence[Outcome]) -> Runs:
    runs: Runs = {}
    for outcome in outcomes:
        runs.setdefault(outcome.cell.lr, {})[outcome.cell.seed] = outcome
    return runs


def _choice(runs: Runs) -> float | None:
    return choose_rate([outcome for seeds in runs.values() for outcome in seeds.values()]) if runs else None


def _point(arm: str, value: Any, lr: float, seeds: Mapping[int, Outcome], size: Size) -> Point:
    """The numbers of one cell of the study over its seeds, compared with nothing yet."""
    outcomes = list(seeds.values())
    nlls = [outcome.nll for outcome in outcomes if outcome.nll is not None]
    return Point(
        arm=arm,
        along=value,
        lr=lr,
        chosen=False,
        seeds=len(outcomes),
        diverged=sum(outcome.diverged for outcome in outcomes),
        val_top1=float(np.mean([outcome.val_top1 for outcome in outcomes])),
        top1=estimate(_correct(seeds, sorted(seeds))),
        difference=None,
        told_apart=False,
        nll=float(np.mean(nlls)) if nlls else None,
        seconds=float(np.mean([outcome.seconds for outcome in outcomes])),
        size=size,
    )


def _compare(own: Mapping[int, Outcome], reference: Mapping[int, Outcome]) -> tuple[Estimate | None, float | None]:
    """The difference over the seeds that both have, and its p value: None of one seed, which tells nothing of others."""
    seeds = sorted(own.keys() & reference.keys())
    if not seeds:
        return None, None
    a, b = _correct(own, seeds), _correct(reference, seeds)
    return paired_difference(a, b), paired_mean(a, b).p_value() if len(seeds) > 1 else None


def _correct(outcomes: Mapping[int, Outcome], seeds: Sequence[int]) -> NDArray[np.bool_]:
    """(S, n), whether each image was got right."""
    return np.stack([outcomes[seed].correct for seed in seeds])
