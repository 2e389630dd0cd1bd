"""Transfers to size points: every arm at every size, as trained and fine-tuned, compared in pairs.

Shapes: S seeds, n reported images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vitrail.studies.findings import Estimate, Point, SizePoint
from vitrail.studies.outcome import Outcome, SizeOutcome
from vitrail.studies.sizes import Resized
from vitrail.studies.statistics import LEVEL, estimate, paired_difference, paired_mean
from vitrail.studies.study import Study

_Place = tuple[str, tuple[int, int]]
"""An arm and a size."""


@dataclass(frozen=True)
class _Seed:
    """One trained model at one size, at one stage."""

    correct: NDArray[np.bool_]
    nll: float | None
    seconds: float
    """Of training, the fine-tuning included if it is one."""


_Seeds = Mapping[int, _Seed]


@dataclass(frozen=True)
class _Compared:
    """A size point, and the p value of its difference; None where there is nothing that could differ."""

    point: SizePoint
    repeated: bool
    """Whether it is another arm's over again, so that it is not one comparison more."""
    difference: float | None


def size_points(
    study: Study,
    resized: Sequence[Resized],
    points: Sequence[Point],
    outcomes: Sequence[Outcome],
    transferred: Sequence[SizeOutcome],
) -> tuple[SizePoint, ...]:
    """Every arm at every size, in the study's order, sizes rising, as trained before fine-tuned.

    Args:
        study: its ``arms`` hold all that were run.
        resized: every arm at every size, with what that costs; see ``sizes.resized_arms``.
        points: the study's other points; of these the chosen ones say at which rate each arm is read.
        outcomes: of finished runs.
        transferred: of finished transfers; others than those at the chosen rates are not looked at.
    """
    chosen = {point.arm: point for point in points if point.chosen}
    seconds = {
        (outcome.cell.arm, outcome.cell.seed): outcome.seconds
        for outcome in outcomes
        if outcome.cell.arm in chosen and outcome.cell.lr == chosen[outcome.cell.arm].lr
    }
    of = {(each.arm, each.image_size): each for each in resized}
    found: dict[_Place, dict[int, SizeOutcome]] = {}
    for each in _as_long(transferred):
        place = each.cell.arm, each.cell.image_size
        if place in of and of[place].of in chosen and each.cell.lr == chosen[of[place].of].lr:
            found.setdefault(place, {})[each.cell.seed] = each
    for place, arm in of.items():
        if arm.repeated and (arm.of, arm.image_size) in found:
            found[place] = found[arm.of, arm.image_size]

    stages: dict[tuple[_Place, bool], _Seeds] = {
        (place, tuned): {
            seed: _Seed(
                kept.correct[int(tuned)], kept.nll[tuned], seconds[of[place].of, seed] + (kept.seconds if tuned else 0)
            )
            for seed, kept in seeds.items()
        }
        for place, seeds in found.items()
        for tuned in (False, True)
    }
    compared = [
        _compared(study, each, tuned, stages, of, chosen[each.of])
        for each in resized
        for tuned in (False, True)
        if ((each.arm, each.image_size), tuned) in stages
    ]
    return _corrected(compared)


def _as_long(transferred: Sequence[SizeOutcome]) -> list[SizeOutcome]:
    """All with n answers: where the training diverged no images were read, so that none that are left out are known."""
    n = min((kept.correct.shape[1] for kept in transferred), default=0)
    wrong = np.zeros((2, n), bool)
    return [kept if kept.correct.shape[1] == n else replace(kept, correct=wrong) for kept in transferred]


def _compared(
    study: Study,
    each: Resized,
    tuned: bool,
    stages: Mapping[tuple[_Place, bool], _Seeds],
    of: Mapping[_Place, Resized],
    trained: Point,
) -> _Compared:
    own = stages[(each.arm, each.image_size), tuned]
    opponent = study.opponent(each.arm)
    difference, p_difference = None, None
    if opponent != each.arm:
        difference, p_difference = _paired(own, stages.get(((opponent, each.image_size), tuned), {}))
        if _same(each, of.get((opponent, each.image_size))):
            p_difference = None
    change = None
    base = next(other.image_size for other in of.values() if other.arm == each.arm and other.scale == 1)
    if tuned or each.image_size != base:
        change, _ = _paired(own, stages.get(((each.arm, base), False), {}))
    nlls = [seed.nll for seed in own.values() if seed.nll is not None]
    point = SizePoint(
        arm=each.arm,
        image_size=each.image_size,
        scale=each.scale,
        tuned=tuned,
        top1=estimate(np.stack([own[seed].correct for seed in sorted(own)])),
        difference=difference,
        told_apart=False,
        change=change,
        change_told_apart=change is not None and (change.low > 0 or change.high < 0),
        nll=float(np.mean(nlls)) if nlls else None,
        seeds=len(own),
        flops=each.flops,
        tokens=each.tokens,
        training_flops=trained.size.training_flops + (each.tuning_flops if tuned else 0),
        seconds=float(np.mean([seed.seconds for seed in own.values()])),
    )
    return _Compared(point, each.repeated, p_difference)


def _same(one: Resized, other: Resized | None) -> bool:
    """Whether two arms have the same numbers at a size, as nothing tells them apart there."""
    return other is not None and one.of == other.of and one.scale == 1


def _paired(own: _Seeds, other: _Seeds) -> tuple[Estimate | None, float | None]:
    """The difference over the seeds that both have, and its p value: None of one seed, which tells nothing of others."""
    seeds = sorted(own.keys() & other.keys())
    if not seeds:
        return None, None
    a, b = (np.stack([these[seed].correct for seed in seeds]) for these in (own, other))
    return paired_difference(a, b), paired_mean(a, b).p_value() if len(seeds) > 1 else None


def _corrected(compared: Sequence[_Compared]) -> tuple[SizePoint, ...]:
    """The points; arms are told apart only where that holds with all such comparisons in mind (Bonferroni).

    Not so a change. That another size does nothing to a model is not what anybody takes for granted until it is refuted:
    with few seeds the correction would hide losses of any size, and a loss that is hidden is taken for none.
    """
    counted = [each.difference for each in compared if not each.repeated]
    enough = (1 - LEVEL) / max(1, sum(p is not None for p in counted))
    return tuple(
        replace(each.point, told_apart=each.difference is not None and each.difference < enough) for each in compared
    )
