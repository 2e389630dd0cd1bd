"""What accuracy at another size costs: the fine-tuning and its control, training at several sizes, FLOPs of an image."""

from itertools import pairwise

from vitrail.studies.conclusions.at_sizes import AtSizes, Pixels, text
from vitrail.studies.conclusions.losses import mean
from vitrail.studies.conclusions.words import accuracy, change, named, percent, several
from vitrail.studies.findings import Estimate, SizePoint


def fine_tuning(found: AtSizes) -> list[str]:
    """What the fine-tuning brings the reference at its base size, the control; where it brings most, and the cost."""
    reference = found.study.reference
    control = found.at(reference, found.base, True)
    said = []
    if control and control.change:
        said.append(
            f"The control, {named(reference)} fine-tuned as long at {text(found.base)}: {change(control.change)}."
        )
    stages = [
        (before, after)
        for size in found.others
        if (before := found.at(reference, size, False)) and (after := found.at(reference, size, True))
    ]
    if stages:
        before, after = max(stages, key=lambda pair: pair[1].top1.mean - pair[0].top1.mean)
        shares = [extra(found, reference, point.image_size) for point, _ in stages]
        cost = shares[0] if len(shares) == 1 else f"{shares[0].removesuffix(' %')} to {shares[-1]}"
        reach = f"from {percent(before.top1.mean)} to {accuracy(after.top1)}, in the mean"
        brought = f"Elsewhere the fine-tuning brings most at {text(after.image_size)}: {reach}"
        if len(stages) == 1:
            brought = f"At {text(after.image_size)} the fine-tuning leads {reach}"
        elif after.top1.mean <= before.top1.mean:
            brought = "Elsewhere the fine-tuning brings nothing in the mean"
        said.append(f"{brought}; it takes {cost} more training FLOPs.")
    return [" ".join(said)] if said else []


def extra(found: AtSizes, arm: str, size: Pixels) -> str:
    """The training FLOPs of the fine-tuning at a size as part of the training's: ``12 %``."""
    before, after = found.at(arm, size, False), found.at(arm, size, True)
    assert before is not None and after is not None, "both stages were run"  # noqa: PT018
    share = 100 * (after.training_flops / before.training_flops - 1)
    return f"{share:.0f} %" if share >= 9.5 else f"{share:.1f} %"


def of_several_resolutions(found: AtSizes) -> list[str]:
    """The arms that are trained at several sizes or patch sizes."""
    return [
        arm
        for arm in found.kinds
        if any(
            key.startswith("resolution.")
            for c in (found.study.arms[arm].changes, *found.study.arms[arm].choose)
            for key in c
        )
    ]


def several_resolutions(found: AtSizes) -> list[str]:
    """The accuracy of training at several resolutions, never fine-tuned, beside its opponent as trained and fine-tuned."""
    said = []
    for arm in of_several_resolutions(found):
        opponent = found.study.opponent(arm)
        own = _mean_accuracy(found, arm, tuned=False)
        beside = [
            f"{accuracy(other)} {words}"
            for words, tuned in (("as trained", False), ("fine-tuned at each", True))
            if (other := _mean_accuracy(found, opponent, tuned=tuned))
        ]
        if own is not None and beside and arm != opponent:
            said.append(
                f"{named(arm)}, never fine-tuned, has {accuracy(own)} in the mean over the other sizes; {named(opponent)} has "
                f"{' and '.join(beside)}."
            )
    return said


def _mean_accuracy(found: AtSizes, arm: str, *, tuned: bool) -> Estimate | None:
    """Over all other sizes; None where one of them is missing."""
    points = [found.at(arm, size, tuned) for size in found.others]
    known = [point.top1 for point in points if point]
    return mean(known) if known and len(known) == len(points) else None


def training_ratio(found: AtSizes, arm: str, opponent: str) -> str | None:
    """How much more training FLOPs an arm took than its opponent: ``1.47 times``; None where one was not run."""
    own, other = found.at(arm, found.base, False), found.at(opponent, found.base, False)
    return None if own is None or other is None else f"{own.training_flops / other.training_flops:.2f} times"


def all_fine_tunings(found: AtSizes, arm: str) -> float | None:
    """Training FLOPs of an arm and of its fine-tunings at every other size, per FLOP of its training; None if one is missing."""
    base = found.at(arm, found.base, False)
    tuned = [found.at(arm, size, True) for size in found.others]
    if base is None or any(point is None for point in tuned):
        return None
    return 1 + sum(point.training_flops / base.training_flops - 1 for point in tuned if point)


def bargains(found: AtSizes) -> list[str]:
    """The arms, sizes and stages that are worth their FLOPs, and how sure each step to a dearer one is."""
    best = front(found)
    if len(best) < 2:
        return []
    listed = several([f"{_where(point)}, {percent(point.top1.mean)}" for point in best])
    close = sum(dearer.top1.low <= cheaper.top1.high for cheaper, dearer in pairwise(best))
    overlap = f" {close} of the {len(best) - 1} steps up may be chance: the intervals overlap." if close else ""
    return [f"By FLOPs of an image, the best means, cheapest first: {listed}.{overlap}"]


def front(found: AtSizes) -> list[SizePoint]:
    """The points that none of the same FLOPs of an image or fewer equals in the mean, cheapest first (the Pareto front)."""
    best: list[SizePoint] = []
    sound = [point for point in found.points if point.arm in found.sound]
    for point in sorted(sound, key=lambda p: (p.flops, -p.top1.mean, p.tuned)):
        if not best or point.top1.mean > best[-1].top1.mean:
            best.append(point)
    return best


def _where(point: SizePoint) -> str:
    return f"{named(point.arm)} {'fine-tuned' if point.tuned else 'as trained'} at {text(point.image_size)}"
