"""What another size costs an arm, and how sure that is: at one size, in the mean over sizes, and beside another arm."""

from collections.abc import Sequence

from vitrail.studies.conclusions.at_sizes import AtSizes
from vitrail.studies.conclusions.words import change
from vitrail.studies.findings import Estimate, SizePoint

SMALL = 3.0
"""Points that may be lost at another size before "take the model as it is" is no longer advised."""


def loses(estimate: Estimate) -> bool:
    """Whether the whole interval of a change is a loss."""
    return estimate.high < 0


def most_lost(estimate: Estimate) -> float:
    """The points that may be lost at most: the lower end of the interval, rounded as it is shown; 0 where all is a gain."""
    return max(0.0, round(-100 * estimate.low, 1))


def small(estimate: Estimate) -> bool:
    """Whether no more than ``SMALL`` points may be lost; an interval that may hold more is never called harmless."""
    return most_lost(estimate) <= SMALL


def bare(estimate: Estimate) -> str:
    """A change as ``0.3 points lost, 1.2 lost to 0.6 gained``: for use in brackets."""
    return change(estimate).replace(" (", ", ").rstrip(")")


def in_mean(estimate: Estimate) -> str:
    """A change over sizes: ``0.3 points lost in the mean (1.2 lost to 0.6 gained)``."""
    return change(estimate).replace(" (", " in the mean (", 1)


def span(estimate: Estimate) -> str:
    """An interval that holds 0, in full: ``from 1.2 points lost to 0.6 gained``."""
    return f"from {100 * abs(estimate.low):.1f} points lost to {100 * abs(estimate.high):.1f} gained"


def mean(estimates: Sequence[Estimate]) -> Estimate:
    """The mean over sizes, with the mean of the intervals: at least as wide as its own would be.

    The same seeds and images stand behind all sizes, so that their chances may agree; the spread of a mean is at most
    the mean of the spreads.
    """
    n = len(estimates)
    return Estimate(*(sum(getattr(each, end) for each in estimates) / n for end in ("mean", "low", "high")))


def mean_change(found: AtSizes, arm: str) -> Estimate | None:
    """The change of an arm as trained, in the mean over all other sizes; None where one of them is missing."""
    points = [found.at(arm, size, False) for size in found.others]
    changes = [point.change for point in points if point and point.change]
    return mean(changes) if changes and len(changes) == len(points) else None


def mean_difference(found: AtSizes, arm: str) -> Estimate | None:
    """How far an arm is ahead of its opponent, both as trained, in the mean over all other sizes."""
    points = [found.at(arm, size, False) for size in found.others]
    differences = [point.difference for point in points if point and point.difference]
    return mean(differences) if differences and len(differences) == len(points) else None


def ranked(found: AtSizes, arms: Sequence[str]) -> dict[str, Estimate]:
    """Sound arm -> its mean change over the other sizes, the least loss first."""
    changes = {arm: estimate for arm in arms if arm in found.sound and (estimate := mean_change(found, arm))}
    return dict(sorted(changes.items(), key=lambda item: -item[1].mean))


def as_little(losses: dict[str, Estimate], arm: str) -> list[str]:
    """The other arms whose loss may be as small as that of ``arm``, as their intervals overlap."""
    own = losses[arm]
    return [other for other, each in losses.items() if other != arm and each.high >= own.low and own.high >= each.low]


def told_sizes(found: AtSizes, arm: str, *, tuned: bool) -> tuple[list[SizePoint], list[SizePoint]]:
    """The sizes at which an arm is ahead of its opponent by more than chance, and those at which it is behind."""
    row = [point for point in found.row(arm, tuned) if point.told_apart and point.difference]
    ahead = [point for point in row if point.difference and point.difference.mean > 0]
    return ahead, [point for point in row if point not in ahead]
