"""The arms at other sizes than the training's: what each loses, which are insensitive, which reading of a table is best."""

from collections.abc import Sequence

from vitrail.studies.conclusions import size_costs
from vitrail.studies.conclusions.at_sizes import AtSizes, Pixels, text
from vitrail.studies.conclusions.words import accuracy, amount, change, images, joined, named, percent, points, several
from vitrail.studies.findings import Estimate, Setting, SizePoint


def sentences(found: AtSizes, setting: Setting) -> list[str]:
    """What the numbers say, in order of weight."""
    return [
        headline(found, setting),
        *_least_sensitive(found),
        *(said for arm in found.kinds for said in _losses(found, arm)),
        *_compared(found),
        *_readings(found),
        *size_costs.fine_tuning(found),
        *size_costs.several_resolutions(found),
        *size_costs.bargains(found),
    ]


def headline(found: AtSizes, setting: Setting) -> str:
    """What the reference loses at both ends, what the fine-tuning leaves of it, and which arm loses least."""
    reference = found.study.reference
    base = found.at(reference, found.base, False)
    if base is None:
        return f"{named(reference)} has no run at {text(found.base)}, so that nothing can be compared with it."
    said = [
        f"Trained at {text(found.base)} pixels, {named(reference)} is right on {accuracy(base.top1)} of {images(setting)}."
    ]
    ends = list(dict.fromkeys(found.others[:1] + found.others[-1:]))
    for size in ends:
        before, after = found.at(reference, size, False), found.at(reference, size, True)
        if before and before.change:
            tuned = f"; after a brief fine-tuning there: {verdict(after)}" if after and after.change else ""
            said.append(f"At {text(size)}, as it is: {verdict(before)}{tuned}.")
    worst = worst_losses(found)
    if len(worst) > 1 and reference in worst:
        least = max(worst, key=lambda arm: worst[arm].mean)
        if least == reference:
            said.append("In the mean, no other arm loses less at the size where it loses most.")
        else:
            chance = ", which may be chance" if worst[least].low <= worst[reference].high else ""
            said.append(
                f"Least sensitive is {named(least)}: at the size where it loses most, {change(worst[least])}, beside "
                f"{change(worst[reference])}{chance}."
            )
    return " ".join(said)


def verdict(point: SizePoint) -> str:
    """A change against the size of the training, with what can be said of it."""
    assert point.change is not None, "the point is not that of the training"
    return change(point.change) if point.change_told_apart else f"no change could be shown ({_bare(point.change)})"


def _bare(estimate: Estimate) -> str:
    """A change as ``0.3 points lost, 1.2 lost to 0.6 gained``: for use in brackets."""
    return change(estimate).replace(" (", ", ").rstrip(")")


def worst_losses(found: AtSizes) -> dict[str, Estimate]:
    """Sound arm that is trained -> its change, as trained, at the size where it loses most in the mean."""
    worst = {}
    for arm in found.kinds:
        changes = [p.change for p in found.row(arm, False) if p.change and p.image_size != found.base]
        if arm in found.sound and changes:
            worst[arm] = min(changes, key=lambda estimate: estimate.mean)
    return worst


def insensitive(found: AtSizes) -> list[str]:
    """The sound arms of which, as trained, no loss is told apart at any other size."""
    return [
        arm
        for arm in worst_losses(found)
        if not any(p.change_told_apart and p.change and p.change.mean < 0 for p in found.row(arm, False))
    ]


def _least_sensitive(found: AtSizes) -> list[str]:
    worst = worst_losses(found)
    if len(worst) < 2:
        return []
    calm = insensitive(found)
    if calm:
        said = f"Of {joined([named(arm) for arm in calm])}, as trained, no loss could be shown at any size tried."
    else:
        said = "As trained, every arm loses at some size by more than chance."
    ranked = sorted(worst, key=lambda arm: -worst[arm].mean)
    listed = several([f"{named(arm)}, {change(worst[arm])}" for arm in ranked])
    return [f"{said} The greatest loss at any size, least first: {listed}."]


def _losses(found: AtSizes, arm: str) -> list[str]:
    """What one arm loses at every other size: as trained, and after the fine-tuning."""
    base = found.at(arm, found.base, False)
    if base is None or not found.others:
        return []
    diverged, runs = found.diverged(arm)
    said = [f"{named(arm)}, {percent(base.top1.mean)} at {text(found.base)}."]
    said += [f"{diverged} of its {runs} runs diverged and count as 0 %."] if diverged else []
    before, after = (
        [(p, p.change) for p in found.row(arm, tuned) if p.image_size != found.base and p.change]
        for tuned in (False, True)
    )
    sure = several([f"at {text(p.image_size)} {change(e)}" for p, e in before if p.change_told_apart])
    unsure = several([f"at {text(p.image_size)} ({_bare(e)})" for p, e in before if not p.change_told_apart])
    parts = ([sure] if sure else []) + ([f"no change shown {unsure}"] if unsure else [])
    said += [f"As trained: {'; '.join(parts)}."] if parts else []
    if after:
        left = several([f"at {text(p.image_size)} {change(e)}" for p, e in after if p.change_told_apart and e.mean < 0])
        said.append(f"Still lost after the fine-tuning: {left or 'nothing that could be shown'}.")
    return [" ".join(said)]


def _compared(found: AtSizes) -> list[str]:
    """The arms that are trained beside their opponents, a stage at a time."""
    said = []
    for opponent in dict.fromkeys(found.study.opponent(arm) for arm in found.kinds):
        rivals = [arm for arm in found.kinds if found.study.opponent(arm) == opponent != arm]
        said += [_told(found, opponent, rivals, found.sizes, tuned=tuned) for tuned in (False, True)]
    return [text_ for text_ in said if text_]


def _capital(part: str, place: int) -> str:
    return part if place == 0 else part[0].upper() + part[1:]


def _readings(found: AtSizes) -> list[str]:
    """The ways of bringing the same trained models to a size: the best of each size, and whether it is more than chance."""
    said = []
    for opponent in dict.fromkeys(found.study.opponent(arm) for arm in found.readings):
        ways = [arm for arm in found.readings if found.study.opponent(arm) == opponent]
        texts = [text_ for size in found.others if (text_ := _best_reading(found, opponent, ways, size))]
        if texts:
            said.append(
                f"The models of {named(opponent)} were brought to a size in {len(ways) + 1} ways, its own among them. As "
                f"trained, in the mean, the best of them is {several(texts)}."
            )
            stages = [_told(found, opponent, ways, found.others, tuned=tuned) for tuned in (False, True)]
            said.append(" ".join(stage for stage in stages if stage))
    return said


def _best_reading(found: AtSizes, opponent: str, ways: Sequence[str], size: Pixels) -> str:
    row = [point for arm in (opponent, *ways) if (point := found.at(arm, size, False))]
    if len(row) < 2:
        return ""
    best, worst = (choose(row, key=lambda point: point.top1.mean) for choose in (max, min))
    if best.top1.mean == worst.top1.mean:
        return f"at {text(size)} none: all {percent(best.top1.mean)}"
    spread = points(best.top1.mean - worst.top1.mean)
    return f"at {text(size)} {named(best.arm)}, {accuracy(best.top1)}, {spread} above the worst, {named(worst.arm)}"


def _told(found: AtSizes, opponent: str, arms: Sequence[str], sizes: Sequence[Pixels], *, tuned: bool) -> str:
    """Of one stage: which arms differ from their opponent by more than chance, or how large a difference may be chance."""
    row = [
        (p, p.difference)
        for arm in arms
        for size in sizes
        if (p := found.at(arm, size, tuned)) is not None and p.difference is not None
    ]
    if not row:
        return ""
    stage = "After the fine-tuning" if tuned else "As trained"
    parts = []
    for word, direction in (("ahead of", 1), ("behind", -1)):
        apart: dict[str, list[str]] = {}
        for point, estimate in row:
            if point.told_apart and estimate.mean * direction > 0:
                apart.setdefault(point.arm, []).append(f"at {text(point.image_size)} by {amount(estimate)}")
        if apart:
            listed = several([f"{named(arm)} {joined(places)}" for arm, places in apart.items()])
            parts.append(f"more than chance {word} {named(opponent)}: {listed}")
    halves = [(estimate.high - estimate.low) / 2 for point, estimate in row if not point.told_apart]
    if halves:
        low, high = f"{100 * min(halves):.1f}", f"{100 * max(halves):.1f}"
        size = f"{low} points" if low == high else f"{low} to {high} points, depending on the arm and the size,"
        parts.append(
            f"{len(halves)} of {len(row)} comparisons show no difference; one of up to {size} would be within chance"
        )
    return f"{stage}, {'. '.join(_capital(part, i) for i, part in enumerate(parts))}."
