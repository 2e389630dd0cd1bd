"""The arms across learning rates: each at its own best, and what one rate for all would have made a reader believe."""

from collections.abc import Sequence
from dataclasses import dataclass

from vitrail.studies.conclusions import arms
from vitrail.studies.conclusions.words import accuracy, difference, images, named, several, sign
from vitrail.studies.findings import Estimate, Point, Setting
from vitrail.studies.study import Study


@dataclass(frozen=True)
class Single:
    """An arm against its opponent, both at one learning rate, beside the two at their own best rates."""

    arm: str
    opponent: str
    lr: float
    at_rate: Estimate
    """With the 95 % interval of this one comparison."""
    own: Estimate
    told_apart: bool
    """Whether ``own`` is not 0 with all the study's comparisons in mind."""
    seeds: int

    @property
    def differs(self) -> bool:
        """Whether a reader of this rate alone would have another verdict: ahead, behind, or not told apart."""
        return sign(self.at_rate) != ((self.own.mean > 0) - (self.own.mean < 0) if self.told_apart else 0)

    @property
    def misleads(self) -> bool:
        """Whether the verdict is another by more than chance: the two intervals do not overlap either."""
        return self.differs and (self.at_rate.low > self.own.high or self.at_rate.high < self.own.low)

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
        said += _belief(singles)
    return said


def at_single_rates(study: Study, tried: Sequence[Point]) -> list[Single]:
    """Every pair of an arm and a rate at which its opponent was trained too."""
    at = {(point.arm, point.lr): point for point in tried}
    answer = {point.arm: point for point in tried if point.chosen}
    singles = []
    for point in tried:
        opponent, own = study.opponent(point.arm), answer.get(point.arm)
        other = at.get((opponent, point.lr))
        if point.difference_at_rate and other and own and own.difference:
            seeds = min(point.seeds, other.seeds)
            singles.append(
                Single(point.arm, opponent, point.lr, point.difference_at_rate, own.difference, own.told_apart, seeds)
            )
    return singles


def _belief(singles: Sequence[Single]) -> list[str]:
    misleading = [single for single in singles if single.misleads]
    said = [f"{_misled(singles, len(misleading))} {_by_chance(singles)}"]
    for choose, wanted, word in ((max, 1, "flattering"), (min, -1, "unfair")):
        found = choose(misleading, key=lambda single: single.flatters, default=None)
        if found is not None and found.flatters * wanted > 0:
            said.append(
                f"The most {word} to an arm: at {found.lr:g} for both, {named(found.arm)} is "
                f"{_verdict(found.at_rate, bool(sign(found.at_rate)), found.opponent)}. Each at its own best rate, it is "
                f"{_verdict(found.own, found.told_apart, found.opponent)}."
            )
    for lr, opponent in sorted(
        dict.fromkeys((single.lr, single.opponent) for single in singles), key=lambda key: key[0]
    ):
        here = [single for single in singles if (single.lr, single.opponent) == (lr, opponent)]
        runs = " and with one seed" if min(single.seeds for single in here) == 1 else ""
        listed = several([f"{named(single.arm)}, {difference(single.at_rate)}" for single in here])
        said.append(f"At {lr:g} alone{runs}, against {named(opponent)}: {listed}.")
    return said


def _misled(singles: Sequence[Single], misleading: int) -> str:
    """In how many comparisons one rate for all would have misled, and in how many the verdict is another by chance."""
    unsure = sum(single.differs for single in singles) - misleading
    verdict = "verdict (ahead, behind, or not told apart) than at the own best rates"
    if misleading:
        text = (
            f"One learning rate for all would have misled in {misleading} of {len(singles)} comparisons (one for each arm "
            f"and rate): another {verdict}, and an interval that does not overlap the one there."
        )
        return text + (f" In {unsure} more the verdict is another, but the intervals overlap." if unsure else "")
    text = "No single learning rate of those tried would have misled: "
    if unsure:
        return (
            text + f"in {unsure} of {len(singles)} comparisons it gives another {verdict}, but the intervals overlap."
        )
    return text + f"at none has an arm another {verdict}."


def _by_chance(singles: Sequence[Single]) -> str:
    """How many of the verdicts at single rates chance would turn: their intervals are of one comparison each."""
    expected = len(singles) / 20
    count = "fewer than 1" if expected < 1 else f"about {expected:.0f}"
    return f"Chance alone turns about 1 in 20 verdicts at a single rate, of these {len(singles)} {count}."


def _verdict(estimate: Estimate, told_apart: bool, opponent: str) -> str:
    if not told_apart:
        return f"not to be told apart from {named(opponent)}: {difference(estimate)}"
    return difference(estimate).replace(" (", f"{' of' if estimate.mean > 0 else ''} {named(opponent)} (", 1)
