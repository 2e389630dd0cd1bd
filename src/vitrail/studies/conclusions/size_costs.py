"""What accuracy at another size costs: the fine-tuning and its control, training at several sizes, FLOPs of an image."""

from itertools import pairwise

from vitrail.studies.conclusions.at_sizes import AtSizes, Pixels, text
from vitrail.studies.conclusions.words import accuracy, change, difference, large, named, percent, points, several
from vitrail.studies.findings import SizePoint


def fine_tuning(found: AtSizes) -> list[str]:
    """What the reference regains at each size beside the control, the same fine-tuning at the base size, and the cost."""
    reference = found.study.reference
    control, start = found.at(reference, found.base, True), found.at(reference, found.base, False)
    said = []
    if control and control.change and start:
        more = "more than chance" if control.change_told_apart else "which may be chance"
        said.append(
            f"The control: fine-tuned as long at {text(found.base)} itself, {named(reference)} has "
            f"{change(control.change)}, {more}. What it brings at other sizes is to be seen beside that."
        )
    regained = []
    for size in found.others:
        before, after = found.at(reference, size, False), found.at(reference, size, True)
        if before and after:
            beyond = ""
            if control:
                left = control.top1.mean - after.top1.mean
                place = "below" if left > 0 else "above"
                beyond = f", {points(left)} {place} the control"
            regained.append(
                f"at {text(size)} from {percent(before.top1.mean)} to {accuracy(after.top1)}{beyond}, for "
                f"{extra(found, reference, size)} more training FLOPs"
            )
    if regained:
        said.append(f"The fine-tuning takes {named(reference)} {several(regained)}. Gaps to the control are of means.")
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
    """What training at several resolutions costs beside its opponent's at one, and what it gains without fine-tuning."""
    said = []
    for arm in of_several_resolutions(found):
        opponent = found.study.opponent(arm)
        own, other = found.at(arm, found.base, False), found.at(opponent, found.base, False)
        if own is None or other is None or arm == opponent:
            continue
        ratio = own.training_flops / other.training_flops
        texts = [
            f"Training at several resolutions, {named(arm)}, took {ratio:.2f} times the training FLOPs of {named(opponent)}."
        ]
        texts += [f"At {text(found.base)} it is {_told(own)}."] if own.difference else []
        beside = [
            f"at {text(size)} {accuracy(mine.top1)}, beside {accuracy(tuned.top1)}"
            for size in found.others
            if (mine := found.at(arm, size, False)) and (tuned := found.at(opponent, size, True))
        ]
        total = all_fine_tunings(found, opponent)
        if beside and total is not None:
            texts.append(
                f"Without any fine-tuning, beside {named(opponent)} fine-tuned at each size: {several(beside)}. "
                f"Training and all these fine-tunings of {named(opponent)} together take {total / other.training_flops:.2f} "
                f"times its training, and leave a model for each size; {named(arm)} is one model, and took {ratio:.2f} times."
            )
        said.append(" ".join(texts))
    return said


def all_fine_tunings(found: AtSizes, arm: str) -> float | None:
    """Training FLOPs of an arm and of its fine-tunings at every other size; None where one was not run."""
    base = found.at(arm, found.base, False)
    tuned = [found.at(arm, size, True) for size in found.others]
    if base is None or any(point is None for point in tuned):
        return None
    return base.training_flops + sum(point.training_flops - base.training_flops for point in tuned if point)


def _told(point: SizePoint) -> str:
    """A difference to the opponent with its verdict."""
    assert point.difference is not None, "the point has an opponent"
    return f"{difference(point.difference)}, {'more than chance' if point.told_apart else 'not told apart'}"


def bargains(found: AtSizes) -> list[str]:
    """What the FLOPs of another size buy the reference, and the arms, sizes and stages that are worth their FLOPs."""
    reference = found.study.reference
    base = found.at(reference, found.base, False)
    said = []
    if base:
        bought = []
        for size in found.others:
            stages = [
                (word, found.at(reference, size, tuned))
                for word, tuned in (("as trained", False), ("fine-tuned", True))
            ]
            changes = [f"{word} {change(point.change)}" for word, point in stages if point and point.change]
            point = stages[0][1] or stages[1][1]
            if point and changes:
                bought.append(f"{point.flops / base.flops:.2f} times the FLOPs at {text(size)}: {', '.join(changes)}")
        if bought:
            said.append(
                f"Accuracy for the FLOPs of one image, {named(reference)} beside itself at {text(found.base)}: {several(bought)}."
            )
    best = front(found)
    if len(best) > 1:
        listed = several([f"{large(p.flops)} FLOPs, {_where(p)}, {accuracy(p.top1)}" for p in best])
        close = sum(dearer.top1.low <= cheaper.top1.high for cheaper, dearer in pairwise(best))
        steps = f"{close} of {len(best) - 1} steps from one to the next dearer {'is' if close == 1 else 'are'}"
        overlap = f" {steps} between intervals that overlap, so that the dearer may be no better." if close else ""
        said.append(f"Cheapest first, what nothing of as few FLOPs for an image equals in the mean: {listed}.{overlap}")
    return said


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
