"""The arms along a quantity: where each is ahead of its opponent, where they cross, what the same accuracy costs."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from vitrail.studies.conclusions.words import (
    accuracy,
    amount,
    difference,
    images,
    joined,
    large,
    named,
    percent,
    several,
    sign,
    value,
    values_tried,
    within_chance,
)
from vitrail.studies.findings import Estimate, Point, Setting
from vitrail.studies.study import Study

_Pair = tuple[Point, Estimate]


def sentences(study: Study, setting: Setting, tried: Sequence[Point]) -> list[str]:
    """What the chosen points among ``tried``, in the order of the values, say: a paragraph an arm."""
    answer = [point for point in tried if point.chosen]
    said = [_best(study, setting, answer)]
    for arm in dict.fromkeys(point.arm for point in answer):
        pairs = [(point, point.difference) for point in answer if point.arm == arm and point.difference]
        if pairs:
            said.append(" ".join([*_verdicts(study, pairs), *crossings(study, pairs), *_change(study, pairs)]))
    for arm in dict.fromkeys(point.arm for point in answer):
        if arm != study.opponent(arm):
            said += _equal_accuracy(answer, arm, study.opponent(arm))
    return said


def _best(study: Study, setting: Setting, answer: Sequence[Point]) -> str:
    """The best arm, in the mean, at both ends of the axis."""
    texts = []
    values = values_tried(study, answer)
    for along in (values[0], values[-1]):
        best = max((point for point in answer if point.along == along), key=lambda point: point.top1.mean)
        texts.append(f"at {value(study, along)} {named(best.arm)}, right on {accuracy(best.top1)}")
    label = (study.along.label or study.along.key) if study.along else ""
    return f"Best in the mean, by {label}: {texts[0]} of {images(setting)}; {texts[1]}."


def _verdicts(study: Study, pairs: Sequence[_Pair]) -> list[str]:
    """Where the arm is ahead, where behind, and where it cannot be told apart."""
    said = []
    arm = pairs[0][0].arm
    opponent = study.opponent(arm)
    for word, direction in (("ahead of", 1), ("behind", -1)):
        apart = [
            f"at {value(study, point.along)} by {amount(estimate)}"
            for point, estimate in pairs
            if point.told_apart and estimate.mean * direction > 0
        ]
        if apart:
            said.append(f"{named(arm)} is {word} {named(opponent)} {joined(apart)}.")
    alike = [(point, estimate) for point, estimate in pairs if not point.told_apart]
    if alike:
        listed = several([f"at {value(study, point.along)}, {difference(estimate)}" for point, estimate in alike])
        who = f"{named(arm)} and {named(opponent)}" if not said else "They"
        said.append(f"{who} cannot be told apart {listed}. {within_chance([point for point, _ in alike], 'place')}")
        if any(sign(estimate) for _, estimate in alike):
            said.append("Where such an interval leaves out 0, it does so for one comparison, not for all of them.")
    return said


def crossings(study: Study, pairs: Sequence[_Pair]) -> list[str]:
    """Where the differences change sign: between which values, about where, and whether by more than chance."""
    said = []
    for index, ((before, first), (after, second)) in enumerate(pairwise(pairs)):
        if (first.mean > 0) == (second.mean > 0):
            continue
        where = _interpolated(before.along, after.along, first.mean / (first.mean - second.mean))
        near = f", near {value(study, where)}" if where is not None else ""
        if before.told_apart and after.told_apart:
            verdict = "on both sides the gap is more than chance"
        elif _sure(pairs[: index + 1], first.mean > 0) and _sure(pairs[index + 1 :], second.mean > 0):
            verdict = "that they cross is more than chance, but just where is uncertain"
        else:
            verdict = "the crossing is within chance"
        ends = f"{value(study, before.along)} and {value(study, after.along)}"
        said.append(f"The curves cross between {ends}{near}: {verdict}.")
    return said or ["The curves do not cross between the values tried."]


def _sure(pairs: Sequence[_Pair], ahead: bool) -> bool:
    """Whether the arm is told apart on this side of its opponent at one of the values."""
    return any(point.told_apart and (estimate.mean > 0) == ahead for point, estimate in pairs)


def _interpolated(low: Any, high: Any, part: float) -> float | None:
    """The place a part of the way, on a logarithmic axis where both ends are positive; None where they are no numbers."""
    if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high)):
        return None
    place = low * (high / low) ** part if min(low, high) > 0 else low + part * (high - low)
    return float(f"{place:.2g}")


def _change(study: Study, pairs: Sequence[_Pair]) -> list[str]:
    """How the difference at the last value compares with the one at the first."""
    (first, start), (last, end) = pairs[0], pairs[-1]
    if len(pairs) < 2:
        return []
    moved = start.high < end.low or end.high < start.low
    verdict = "the two intervals do not overlap" if moved else "the two intervals overlap, so this may be chance"
    texts = [f"{difference(e).split(' (')[0]} at {value(study, p.along)}" for p, e in ((first, start), (last, end))]
    return [f"The gap goes from {texts[0]} to {texts[1]}: {verdict}."]


def _equal_accuracy(answer: Sequence[Point], arm: str, opponent: str) -> list[str]:
    """Training FLOPs of the arm and of its opponent at the highest accuracy that both reach, where both can be read."""
    own, other = ([p for p in answer if p.arm == name] for name in (arm, opponent))
    if not own or not other:
        return []
    target = min(max(point.top1.mean for point in curve) for curve in (own, other))
    spent = [(flops, curve[0].arm) for curve in (own, other) if (flops := training_flops_at(target, curve)) is not None]
    if len(spent) < 2:
        return []
    (low, less), (high, more) = sorted(spent)
    return [
        f"To be right on {percent(target)}, the most that both {named(arm)} and {named(opponent)} reach, "
        f"{named(less)} takes about {large(low)} training FLOPs and {named(more)} {large(high)}, "
        f"{high / low:.1f} times as many (interpolated, in the mean)."
    ]


def training_flops_at(target: float, curve: Sequence[Point]) -> float | None:
    """Training FLOPs at which a curve first reaches an accuracy, between two values on a logarithmic axis.

    None where it cannot be read: the curve begins above the target, or more along the axis is not more training.
    """
    flops = [point.size.training_flops for point in curve]
    means = [point.top1.mean for point in curve]
    if means[0] > target or any(a >= b for a, b in pairwise(flops)):
        return None
    first = next(i for i, mean in enumerate(means) if mean >= target)
    if first == 0:
        return flops[0]
    part = (target - means[first - 1]) / (means[first] - means[first - 1])
    return float(flops[first - 1] * (flops[first] / flops[first - 1]) ** part)
