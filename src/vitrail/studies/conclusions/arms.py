"""The arms side by side: which is best, which differ from the reference and by how much, and which cannot be told apart."""

from collections.abc import Sequence

from vitrail.studies.conclusions.words import (
    accuracy,
    amount,
    difference,
    images,
    joined,
    named,
    opponents,
    percent,
    points,
    several,
    sign,
    within_chance,
)
from vitrail.studies.findings import Point, Setting
from vitrail.studies.study import Study


def sentences(study: Study, setting: Setting, tried: Sequence[Point]) -> list[str]:
    """What the chosen points among ``tried``, all at one value along the axis, say."""
    answer = [point for point in tried if point.chosen]
    return [*verdict(study, answer), extremes(setting, answer), *comparisons(study, answer)]


def verdict(study: Study, answer: Sequence[Point]) -> list[str]:
    """How many arms are ahead of the one they are compared with, behind it, or neither; nothing where none is."""
    said = []
    for opponent, compared in opponents(study, answer):
        other = next((point for point in answer if point.arm == opponent), None)
        if other is None:
            continue
        gaps = [(point, point.difference.mean) for point in compared if point.difference]
        ahead = sum(point.told_apart and mean > 0 for point, mean in gaps)
        behind = sum(point.told_apart and mean < 0 for point, mean in gaps)
        alike = len(gaps) - ahead - behind
        arms = "the one arm" if len(gaps) == 1 else f"{len(gaps)} arms"
        beside = "beside" if opponent == study.reference else "compared with"
        parts = [f"{_are(ahead)} better by more than chance", f"{_are(behind)} worse"]
        parts += [f"{alike} cannot be told apart from it"] if alike else []
        said.append(f"Of {arms} {beside} {named(opponent)} ({percent(other.top1.mean)}), {joined(parts)}.")
    return said


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
    """Every arm against its opponent: ahead, behind, or not to be told apart; and how close the last are."""
    groups = opponents(study, answer)
    if not groups:
        return [f"No arm has a run to compare with one of {named(study.reference)}."]
    together = sum(len(compared) for _, compared in groups)
    said = []
    for opponent, found in groups:
        compared = sorted(found, key=lambda point: -point.difference.mean if point.difference else 0)
        for word, direction in (("ahead of", 1), ("behind", -1)):
            apart = [
                f"{named(p.arm)}, by {amount(p.difference)}"
                for p in compared
                if p.told_apart and p.difference and p.difference.mean * direction > 0
            ]
            if apart:
                said.append(f"More than chance {word} {named(opponent)}: {several(apart)}.")
        alike = [point for point in compared if not point.told_apart]
        if alike:
            said += _alike(opponent, alike, together)
            said += _spread(opponent, answer, alike)
    return said


def _alike(opponent: str, alike: Sequence[Point], comparisons: int) -> list[str]:
    """The arms that cannot be told apart from their opponent, and how large a difference may be chance."""
    listed = several([f"{named(p.arm)}, {difference(p.difference)}" for p in alike if p.difference])
    said = [f"Cannot be told apart from {named(opponent)} here: {listed}. {within_chance(alike, 'arm')}"]
    alone = [named(p.arm) for p in alike if p.difference and sign(p.difference)]
    if alone and comparisons > 1:
        said.append(
            f"Of these, {several(alone)} would count if it were the only comparison. "
            f"Among {comparisons} comparisons it may be chance."
        )
    return said


def _spread(opponent: str, answer: Sequence[Point], alike: Sequence[Point]) -> list[str]:
    names = {opponent, *(point.arm for point in alike)}
    means = [point.top1.mean for point in answer if point.arm in names]
    others = "the arm" if len(alike) == 1 else f"the {len(alike)} arms"
    return [
        f"{named(opponent)} and {others} not told apart from it lie within {points(max(means) - min(means))} "
        f"of each other, from {percent(min(means))} to {percent(max(means))}."
    ]
