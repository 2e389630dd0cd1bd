"""The arms side by side: which is best, which differ from the reference and by how much, and which cannot be told apart."""

from collections.abc import Sequence

from vitrail.studies.conclusions.words import (
    accuracy,
    amount,
    difference,
    images,
    joined,
    named,
    percent,
    points,
    several,
    sign,
    unseen,
)
from vitrail.studies.findings import Point, Setting
from vitrail.studies.study import Study


def sentences(study: Study, setting: Setting, tried: Sequence[Point]) -> list[str]:
    """What the chosen points among ``tried``, all at one value along the axis, say."""
    answer = [point for point in tried if point.chosen]
    return [*verdict(study, answer), extremes(setting, answer), *comparisons(study, answer)]


def verdict(study: Study, answer: Sequence[Point]) -> list[str]:
    """How many arms are ahead of the reference, behind it, or neither; nothing where none is compared."""
    compared = [(point, point.difference.mean) for point in answer if point.difference]
    reference = next((point for point in answer if point.arm == study.reference), None)
    if not compared or reference is None:
        return []
    ahead = sum(point.told_apart and mean > 0 for point, mean in compared)
    behind = sum(point.told_apart and mean < 0 for point, mean in compared)
    alike = len(compared) - ahead - behind
    arms = "the one arm" if len(compared) == 1 else f"{len(compared)} arms"
    parts = [f"{_are(ahead)} better by more than chance", f"{_are(behind)} worse"]
    parts += [f"{alike} cannot be told apart from it"] if alike else []
    return [f"Of {arms} beside {named(study.reference)} ({percent(reference.top1.mean)}), {joined(parts)}."]


def _are(count: int) -> str:
    return f"{count} are" if count > 1 else "1 is" if count else "none is"


def extremes(setting: Setting, answer: Sequence[Point]) -> str:
    """The best and the worst arm, in the mean."""
    best, worst = (choose(answer, key=lambda point: point.top1.mean) for choose in (max, min))
    return (
        f"Best in the mean is {named(best.arm)}, right on {accuracy(best.top1)} of {images(setting)}. "
        f"Worst is {named(worst.arm)}, with {accuracy(worst.top1)}."
    )


def comparisons(study: Study, answer: Sequence[Point]) -> list[str]:
    """Every arm against the reference: ahead, behind, or not to be told apart; and how close the last are."""
    reference = named(study.reference)
    compared = sorted(
        (point for point in answer if point.difference), key=lambda p: -p.difference.mean if p.difference else 0
    )
    if not compared:
        return [f"No arm has a run to compare with one of {reference}."]
    said = []
    for word, direction in (("ahead of", 1), ("behind", -1)):
        apart = [
            f"{named(p.arm)}, by {amount(p.difference)}"
            for p in compared
            if p.told_apart and p.difference and p.difference.mean * direction > 0
        ]
        if apart:
            said.append(f"More than chance {word} {reference}: {several(apart)}.")
    alike = [point for point in compared if not point.told_apart]
    if alike:
        said += _alike(study, alike, len(compared))
        said += _spread(study, answer, alike)
    return said


def _alike(study: Study, alike: Sequence[Point], comparisons: int) -> list[str]:
    """The arms that cannot be told apart from the reference, and what would have had to be true to see a difference."""
    listed = several([f"{named(p.arm)}, {difference(p.difference)}" for p in alike if p.difference])
    said = [
        f"Cannot be told apart from {named(study.reference)} here: {listed}. "
        f"A difference of less than {unseen(alike)} would not have been seen."
    ]
    alone = [named(p.arm) for p in alike if p.difference and sign(p.difference)]
    if alone and comparisons > 1:
        said.append(
            f"Of these, {several(alone)} would count if it were the only comparison. "
            f"Among {comparisons} comparisons it may be chance."
        )
    return said


def _spread(study: Study, answer: Sequence[Point], alike: Sequence[Point]) -> list[str]:
    names = {study.reference, *(point.arm for point in alike)}
    means = [point.top1.mean for point in answer if point.arm in names]
    others = "the arm" if len(alike) == 1 else f"the {len(alike)} arms"
    return [
        f"{named(study.reference)} and {others} not told apart from it lie within {points(max(means) - min(means))} "
        f"of each other, from {percent(min(means))} to {percent(max(means))}."
    ]
