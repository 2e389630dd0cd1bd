"""Advice on sizes, each item drawn by rule from the numbers: what to do at a size, how to train if the size will vary."""

from vitrail.studies.conclusions.at_sizes import AtSizes, Pixels, text
from vitrail.studies.conclusions.size_costs import all_fine_tunings, extra, of_several_resolutions
from vitrail.studies.conclusions.words import accuracy, change, difference, joined, named, several
from vitrail.studies.findings import SizePoint

_MOST_SIZES = 4


def advice(found: AtSizes) -> list[str]:
    """Sentences for somebody who has such a model, or is about to train one."""
    if found.study.reference not in found.sound:
        return [
            f"None: runs of {named(found.study.reference)} diverged or are missing, so that nothing can be built on them."
        ]
    return [
        *(said for size in _worth_advice(found) for said in at_size(found, size)),
        *_reading(found),
        *_kinds(found),
        *_several_resolutions(found),
        *_cheaper(found),
        *_larger(found),
    ]


def _worth_advice(found: AtSizes) -> list[Pixels]:
    """The sizes to speak of: all, or the ends and the neighbours of the base size where they are many."""
    if len(found.others) <= _MOST_SIZES:
        return found.others
    place = found.sizes.index(found.base)
    near = [found.sizes[i] for i in (place - 1, place + 1) if 0 <= i < len(found.sizes)]
    return [size for size in found.others if size in (found.others[0], *near, found.others[-1])]


def at_size(found: AtSizes, size: Pixels) -> list[str]:
    """What to do with a model like the reference at this size: as it is, fine-tuned, or another arm."""
    reference = found.study.reference
    before, after = found.at(reference, size, False), found.at(reference, size, True)
    if before is None or before.change is None:
        return []
    to = f"To use a model like {named(reference)}, trained at {text(found.base)}, at {text(size)}"
    if not (before.change_told_apart and before.change.mean < 0):
        shown = "it gains" if before.change_told_apart else "no loss could be shown"
        return [f"{to}, take it as it is: {shown} ({_bare(before)})."]
    if after is None or after.change is None:
        do = f"expect a loss: {change(before.change)}"
    elif after.change.low > before.change.high:
        rest = "" if after.change_told_apart and after.change.mean < 0 else ", no loss that could be shown"
        do = (
            f"fine-tune it there: as it is, {change(before.change)}; fine-tuned, {change(after.change)}{rest}, for "
            f"{extra(found, reference, size)} more training FLOPs"
        )
    else:
        do = (
            f"expect a loss: as it is, {change(before.change)}; that a brief fine-tuning there helps could not be shown "
            f"({_bare(after)})"
        )
    return [f"{to}, {do}.{_better(found, size, after or before)}"]


def _bare(point: SizePoint) -> str:
    """A change without brackets of its own."""
    return change(point.change).replace(" (", ", ").rstrip(")") if point.change else ""


def _better(found: AtSizes, size: Pixels, own: SizePoint) -> str:
    """The arm that is best there without fine-tuning, if it is ahead of the reference by more than chance."""
    ahead = [
        point
        for arm in found.kinds
        if arm in found.sound and found.study.opponent(arm) == found.study.reference != arm
        if (point := found.at(arm, size, False)) and point.told_apart and point.difference and point.difference.mean > 0
    ]
    if not ahead:
        return ""
    best = max(ahead, key=lambda point: point.top1.mean)
    if not own.tuned:
        return f" As trained, {named(best.arm)} does better there: {accuracy(best.top1)}."
    if best.top1.low > own.top1.high:
        verdict = "more than that fine-tuned model"
    elif best.top1.high < own.top1.low:
        verdict = "less than that fine-tuned model"
    else:
        verdict = "not clearly more or less than that fine-tuned model"
    return (
        f" {named(best.arm)} is the best there without a fine-tuning: {accuracy(best.top1)}, {verdict}, which has "
        f"{accuracy(own.top1)}."
    )


def _reading(found: AtSizes) -> list[str]:
    """Which way of bringing a table to another size to take, and which to avoid."""
    said = []
    for opponent in dict.fromkeys(found.study.opponent(arm) for arm in found.readings):
        if opponent not in found.sound:
            continue
        ways = [arm for arm in found.readings if found.study.opponent(arm) == opponent]
        verdicts = {arm: _told_sizes(found, arm, tuned=False) for arm in ways}
        better = {arm: ahead for arm, (ahead, behind) in verdicts.items() if ahead and not behind}
        mixed = {arm: both for arm, both in verdicts.items() if all(both)}
        worse = {arm: behind for arm, (ahead, behind) in verdicts.items() if behind and not ahead}
        parts = []
        if better:
            parts.append(f"prefer {several([f'{named(arm)} ({_places(sizes)})' for arm, sizes in better.items()])}")
        if mixed:
            listed = [f"{named(a)} (ahead {_places(up)}, behind {_places(down)})" for a, (up, down) in mixed.items()]
            parts.append(f"let the size decide about {several(listed)}")
        if worse:
            parts.append(f"avoid {several([f'{named(arm)} ({_places(sizes)})' for arm, sizes in worse.items()])}")
        if not parts:
            said.append(
                f"To bring a model like {named(opponent)} to another size without fine-tuning, keep its own interpolation: of "
                f"{len(ways)} other ways none was better or worse by more than chance."
            )
            continue
        tuned = any(any(_told_sizes(found, arm, tuned=True)) for arm in ways)
        ran = any(found.row(arm, True) for arm in ways)
        after = (
            ""
            if not ran
            else f" After the fine-tuning {'some of it still matters' if tuned else 'no difference could be shown'}."
        )
        said.append(
            f"To bring a model like {named(opponent)} to another size without fine-tuning, {'; '.join(parts)}. "
            f"Each stands beside {named(opponent)} itself.{after}"
        )
    return said


def _told_sizes(found: AtSizes, arm: str, *, tuned: bool) -> tuple[list[SizePoint], list[SizePoint]]:
    """The other sizes at which an arm is ahead of its opponent by more than chance, and those at which it is behind."""
    row = [p for p in found.row(arm, tuned) if p.told_apart and p.difference and p.image_size != found.base]
    ahead = [point for point in row if point.difference and point.difference.mean > 0]
    return ahead, [point for point in row if point not in ahead]


def _places(row: list[SizePoint]) -> str:
    """By how much an arm is ahead or behind, in the mean, and where: ``by 1.0 to 2.0 points at 8 × 8 and 16 × 16``."""
    means = sorted(abs(point.difference.mean) for point in row if point.difference)
    low, high = (f"{100 * mean:.1f}" for mean in (means[0], means[-1]))
    return f"by {low if low == high else f'{low} to {high}'} points at {joined([text(p.image_size) for p in row])}"


def _kinds(found: AtSizes) -> list[str]:
    """Which of the arms that are trained at one size to train if another size may come."""
    reference = found.study.reference
    rivals = [
        arm
        for arm in found.kinds
        if arm in found.sound
        and arm not in of_several_resolutions(found)
        and found.study.opponent(arm) == reference != arm
    ]
    if not rivals:
        return []
    verdicts = {arm: _told_sizes(found, arm, tuned=False) for arm in rivals}
    at_base = {arm: found.at(arm, found.base, False) for arm in rivals}
    behind_at_base = [a for a, p in at_base.items() if p and p.told_apart and p.difference and p.difference.mean < 0]
    good = [arm for arm, (ahead, behind) in verdicts.items() if ahead and not behind and arm not in behind_at_base]
    bad = [arm for arm, (ahead, behind) in verdicts.items() if behind and not ahead]
    said = []
    if good:
        best = sorted(good, key=lambda arm: -_mean_gap(found, arm))
        listed = several([f"{named(arm)} ({_places(verdicts[arm][0])})" for arm in best])
        said.append(
            f"To train at {text(found.base)} alone for use at other sizes without fine-tuning, consider {listed}: ahead of "
            f"{named(reference)} there, and behind it at no size by more than chance."
        )
    else:
        said.append(
            f"To train at {text(found.base)} alone for use at other sizes without fine-tuning, there is no reason here to leave "
            f"{named(reference)}: no such arm was ahead of it at another size by more than chance without being behind elsewhere."
        )
    if bad:
        listed = several([f"{named(arm)} ({_places(verdicts[arm][1])})" for arm in bad])
        said.append(f"For that use, avoid what is behind {named(reference)} by more than chance: {listed}.")
    return said


def _mean_gap(found: AtSizes, arm: str) -> float:
    row = [p.difference.mean for p in found.row(arm, False) if p.difference and p.image_size != found.base]
    return sum(row) / len(row)


def _several_resolutions(found: AtSizes) -> list[str]:
    """Whether training at several resolutions was worth its cost."""
    said = []
    for arm in of_several_resolutions(found):
        opponent = found.study.opponent(arm)
        own, other = found.at(arm, found.base, False), found.at(opponent, found.base, False)
        if (
            arm not in found.sound
            or opponent not in found.sound
            or own is None
            or other is None
            or own.difference is None
        ):
            continue
        ahead, behind = _told_sizes(found, arm, tuned=False)
        price = f"It took {own.training_flops / other.training_flops:.2f} times the training FLOPs"
        at_base = (
            f"at {text(found.base)} it is {difference(own.difference)}{'' if own.told_apart else ', not told apart'}"
        )
        gains = [f"ahead {_places(ahead)}"] if ahead else []
        gains += [f"behind {_places(behind)}"] if behind else []
        if ahead and not behind:
            do = f"If one model must serve several sizes, train as {named(arm)}"
        elif ahead:
            do = f"If one model must serve several sizes, {named(arm)} helps at some and harms at others"
        else:
            do = f"Training as {named(arm)} is not worth its cost here"
            gains = gains or ["ahead nowhere by more than chance"]
        total = all_fine_tunings(found, opponent)
        instead = ""
        if total is not None:
            instead = (
                f" A fine-tuned {named(opponent)} for each size takes {total / other.training_flops:.2f} times in all."
            )
        said.append(
            f"{do}: beside {named(opponent)}, without fine-tuning, {', '.join(gains)}. {price}; {at_base}.{instead}"
        )
    return said


def _cheaper(found: AtSizes) -> list[str]:
    """Whether a smaller size saves FLOPs without a loss, fine-tuned there."""
    return _priced(found, [size for size in found.others if _area(size) < _area(found.base)], "To save FLOPs")


def _larger(found: AtSizes) -> list[str]:
    """Whether a larger size buys accuracy, beside the same fine-tuning at the base size."""
    reference = found.study.reference
    control = found.at(reference, found.base, True)
    rows = [
        point for size in found.others if _area(size) > _area(found.base) and (point := found.at(reference, size, True))
    ]
    if control is None or not rows:
        return []
    best = max(rows, key=lambda point: point.top1.mean)
    price = f"{best.flops / control.flops:.1f} times the FLOPs"
    larger = f"{accuracy(best.top1)} fine-tuned at {text(best.image_size)}"
    beside = f"{larger}, beside {accuracy(control.top1)} fine-tuned at {text(found.base)}"
    if best.top1.low > control.top1.high:
        return [f"For more accuracy, a larger size pays: {beside}, for {price} of an image."]
    verdict = (
        "a larger size does not pay here, in the mean"
        if best.top1.mean <= control.top1.mean
        else "that a larger size pays could not be shown"
    )
    return [f"For more accuracy, {verdict}: {beside}; it takes {price} of an image."]


def _priced(found: AtSizes, sizes: list[Pixels], purpose: str) -> list[str]:
    base = found.at(found.study.reference, found.base, False)
    rows = [point for size in sizes if (point := found.at(found.study.reference, size, True)) and point.change]
    if base is None or not rows:
        return []
    free = [p for p in rows if not (p.change_told_apart and p.change and p.change.mean < 0)]
    if free:
        best = min(free, key=lambda point: point.flops)
        return [
            f"{purpose}, consider {text(best.image_size)}: {best.flops / base.flops:.2f} times the FLOPs of an image and, "
            f"fine-tuned there, no loss that could be shown ({_bare(best)})."
        ]
    listed = several(
        [f"at {text(p.image_size)} {p.flops / base.flops:.2f} times the FLOPs of an image, {_bare(p)}" for p in rows]
    )
    return [f"{purpose}, a smaller size has its price even fine-tuned there: {listed}."]


def _area(size: Pixels) -> int:
    return size[0] * size[1]
