"""What a study's numbers say and what they do not, in sentences for a reader who has not seen the code.

Accuracy is in per cent, a difference in points: 97.0 % is 2.0 points ahead of 95.0 %. In brackets is the 95 % interval.
"""

from collections.abc import Callable, Mapping, Sequence

from vitrail.studies.conclusions import along, arms, cost, rates, sizes
from vitrail.studies.conclusions.advice import advice
from vitrail.studies.conclusions.at_sizes import AtSizes
from vitrail.studies.conclusions.cautions import cautions, costs
from vitrail.studies.conclusions.words import value, values_tried
from vitrail.studies.findings import Point, Setting, SizePoint
from vitrail.studies.study import Study

_VIEWS: Mapping[str, Callable[[Study, Setting, Sequence[Point]], list[str]]] = {
    "arms": arms.sentences,
    "rates": rates.sentences,
    "along": along.sentences,
    "cost": cost.sentences,
}


def conclude(
    study: Study, setting: Setting, points: Sequence[Point], at_sizes: Sequence[SizePoint] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Conclusions in order of weight, and cautions; each an item of one sentence or a few.

    A study with values along an axis that is viewed otherwise is told at the last of them, as its figure shows it.
    ``at_sizes``: of a study of sizes, what was found at each. Without any points there is nothing to say.
    """
    if not points:
        return (), ()
    said: list[str] = []
    told = list(points)
    if study.along and study.view != "along":
        last = values_tried(study, points)[-1]
        told = [point for point in points if point.along == last]
        label = study.along.label or study.along.key
        said.append(f"What follows is for {label} {value(study, last)}. The other values are in the table.")
    if at_sizes:
        said += sizes.sentences(AtSizes(study, points, at_sizes), setting)
    else:  # of a study of sizes, before any was tried: the arms as they were trained
        said += _VIEWS.get(study.view, arms.sentences)(study, setting, told)
    if study.match or study.view != "cost":
        said += costs(study, told)
    return tuple(said), tuple(cautions(study, setting, points, at_sizes))


def advise(study: Study, points: Sequence[Point], at_sizes: Sequence[SizePoint]) -> tuple[str, ...]:
    """What to do, by the numbers of a study of sizes; nothing where none was tried."""
    return tuple(advice(AtSizes(study, points, at_sizes))) if points and at_sizes else ()
