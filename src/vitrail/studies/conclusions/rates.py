"""The arms across learning rates: each at its own best, and what one rate for all would have made a reader believe."""

from collections.abc import Sequence
from dataclasses import dataclass

from vitrail.studies.conclusions import arms
from vitrail.studies.conclusions.words import accuracy, difference, images, named, several, sign
from vitrail.studies.findings import Estimate, Point, Setting
from vitrail.studies.study import Study


@dataclass(frozen=True)
class Single:
    """An arm against the reference, both at one learning rate, beside the two at their own best rates."""

    arm: str
    lr: float
    at_rate: Estimate
    own: Estimate
    seeds: int

    @property
    def misleads(self) -> bool:
        """Whether a reader of this rate alone would have another verdict: ahead, behind, or not told apart."""
        return sign(self.at_rate) != sign(self.own)

    @property
    def flatters(self) -> float:
        """By how much this rate shows the arm better than it is, as a fraction."""
        return self.at_rate.mean - self.own.mean


def sentences(study: Study, setting: Setting, tried: Sequence[Point]) -> list[str]:
    """What the points of every rate, all at one value along the axis, say."""
    answer = [point for point in tried if point.chosen]
    own = several([f"{named(point.arm)}, {accuracy(point.top1)} at {point.lr:g}" for point in answer])
    said = [
        f"Each arm at its own best learning rate, and what part of {images(setting)} it got right: {own}.",
        *arms.comparisons(study, answer),
    ]
    singles = at_single_rates(study, tried)
    if len({single.lr for single in singles}) > 1:
        said += _belief(study, singles)
    return said


def at_single_rates(study: Study, tried: Sequence[Point]) -> list[Single]:
    """Every pair of an arm and a rate at which the reference was trained too."""
    reference = {point.lr: point for point in tried if point.arm == study.reference}
    best = next((lr for lr, point in reference.items() if point.chosen), None)
    own = {point.arm: point.difference for point in tried if point.chosen}
    singles = []
    for point in tried:
        # The difference of a chosen point is at this rate only if it is the reference's choice too.
        at_rate = point.difference if not point.chosen or point.lr == best else point.difference_at_rate
        verdict = own.get(point.arm)
        if at_rate is not None and verdict is not None and point.lr in reference:
            seeds = min(point.seeds, reference[point.lr].seeds)
            singles.append(Single(point.arm, point.lr, at_rate, verdict, seeds))
    return singles


def _belief(study: Study, singles: Sequence[Single]) -> list[str]:
    reference = named(study.reference)
    misleading = [single for single in singles if single.misleads]
    if not misleading:
        said = [
            "No single learning rate of those tried would have misled: at each, every arm's verdict against "
            f"{reference} (ahead, behind, or not told apart) is the one at their own best rates."
        ]
    else:
        said = [
            f"One learning rate for all would have given another verdict in {len(misleading)} of {len(singles)} "
            "comparisons (one for each arm and rate)."
        ]
        for choose, wanted, word in ((max, 1, "flattering"), (min, -1, "unfair")):
            found = choose(misleading, key=lambda single: single.flatters)
            if found.flatters * wanted > 0:
                said.append(
                    f"The most {word} to an arm: at {found.lr:g} for both, {named(found.arm)} is "
                    f"{_verdict(found.at_rate, reference)}. Each at its own best rate, it is "
                    f"{_verdict(found.own, reference)}."
                )
    for lr in sorted({single.lr for single in singles}):
        here = [single for single in singles if single.lr == lr]
        runs = " and with one seed" if min(single.seeds for single in here) == 1 else ""
        listed = several([f"{named(single.arm)}, {difference(single.at_rate)}" for single in here])
        said.append(f"At {lr:g} alone{runs}, against {reference}: {listed}.")
    return said


def _verdict(estimate: Estimate, reference: str) -> str:
    if not sign(estimate):
        return f"not to be told apart from {reference}: {difference(estimate)}"
    return difference(estimate).replace(" (", f"{' of' if estimate.mean > 0 else ''} {reference} (", 1)
