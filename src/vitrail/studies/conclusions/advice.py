"""Advice on sizes, by rule from the numbers: what to do at a size, how to train if the size will vary, what FLOPs buy.

Each rule asks how much may be lost, never whether a loss was proved: see ``losses.small``.
"""

from collections.abc import Sequence

from vitrail.studies.conclusions.at_sizes import AtSizes, Pixels, text
from vitrail.studies.conclusions.losses import (
    SMALL,
    as_little,
    bare,
    in_mean,
    loses,
    mean_difference,
    most_lost,
    ranked,
    small,
    span,
    told_sizes,
)
from vitrail.studies.conclusions.size_costs import all_fine_tunings, of_several_resolutions, training_ratio
from vitrail.studies.conclusions.words import accuracy, difference, joined, named, points, several
from vitrail.studies.findings import Estimate, SizePoint

_MOST_SIZES = 4


def advice(found: AtSizes) -> list[str]:
    """Sentences for somebody who has such a model, or is about to train one."""
    if found.study.reference not in found.sound:
        return [
            f"None: runs of {named(found.study.reference)} diverged or are missing, so that nothing can be built on them."
        ]
    return [
        *_at_sizes(found),
        *_reading(found),
        *_for_other_sizes(found),
        *_priced(found),
    ]


def _worth_advice(found: AtSizes) -> list[Pixels]:
    """The sizes to speak of: all, or the ends and the neighbours of the base size where they are many."""
    if len(found.others) <= _MOST_SIZES:
        return found.others
    place = found.sizes.index(found.base)
    near = [found.sizes[i] for i in (place - 1, place + 1) if 0 <= i < len(found.sizes)]
    return [size for size in found.others if size in (found.others[0], *near, found.others[-1])]


def _at_sizes(found: AtSizes) -> list[str]:
    """What to do with a model like the reference at each size: take it as it is, fine-tune it, or know that it loses."""
    reference = found.study.reference
    keep: dict[str, float] = {}
    tune, lost, open_ = [], [], []
    for size in _worth_advice(found):
        before, after = found.at(reference, size, False), found.at(reference, size, True)
        if before is None or before.change is None:
            continue
        tuned = after.change if after else None
        if small(before.change):
            keep[text(size)] = most_lost(before.change)
        elif not loses(before.change):
            safe = f"; fine-tuned, {_may_be(tuned)}" if tuned and small(tuned) else ""
            open_.append(f"at {text(size)} ({span(before.change)}{safe})")
        elif tuned and tuned.low > before.change.high:
            tune.append(f"at {text(size)} ({bare(tuned)}, instead of {points(before.change.mean)})")
        else:
            perhaps = f"; fine-tuned, perhaps no better, {bare(tuned)}" if tuned else ""
            lost.append(f"at {text(size)} ({bare(before.change)}{perhaps})")
    do = []
    if keep:
        most = max(keep.values())
        why = f"at most {most:.1f} points lost" if most else "nothing lost"
        do.append(f"take it as it is at {joined(list(keep))} ({why})")
    do += [f"fine-tune it {joined(tune)}"] if tune else []
    do += [f"expect a loss {joined(lost)}"] if lost else []
    said = [f"With a model like {named(reference)}, {several(do)}."] if do else []
    if open_:
        what = "it" if do else f"a model like {named(reference)}"
        said.append(f"What {what} loses as it is stays undecided {several(open_)}: more seeds or images would tell.")
    return said


def _may_be(estimate: Estimate) -> str:
    """A harmless change: what is lost or gained, or at most lost."""
    if loses(estimate) or estimate.low > 0:
        return bare(estimate)
    return f"at most {most_lost(estimate):.1f} points lost"


def _reading(found: AtSizes) -> list[str]:
    """Which way of bringing a table to another size to take, and which to avoid."""
    said = []
    for opponent in dict.fromkeys(found.study.opponent(arm) for arm in found.readings):
        if opponent not in found.sound:
            continue
        ways = [arm for arm in found.readings if found.study.opponent(arm) == opponent]
        verdicts = {arm: _told_elsewhere(found, arm) for arm in ways}
        better = [f"{named(arm)} {_places(up)}" for arm, (up, down) in verdicts.items() if up and not down]
        mixed = [
            f"{named(a)} {_places(up)} but not {_places(down)}" for a, (up, down) in verdicts.items() if up and down
        ]
        worse = [named(arm) for arm, (up, down) in verdicts.items() if down and not up]
        do = [f"prefer {several([*better, *mixed])}"] if better or mixed else []
        do = do or [_own_way(found, ways)]
        do += [f"avoid {joined(worse)}"] if worse else []
        said.append(f"To bring {named(opponent)} to another size without fine-tuning, {'; '.join(do)}.")
    return said


def _own_way(found: AtSizes, ways: Sequence[str]) -> str:
    """That no other way was shown to be better, with what might be gained by another."""
    others = [(p, p.difference) for arm in ways for p in _elsewhere(found, arm) if p.difference]
    if not others:
        return "keep its own way"
    point, estimate = max(others, key=lambda pair: pair[1].high)
    if estimate.high <= 0:
        return "keep its own way: no other gains anything"
    if round(100 * estimate.high, 1) <= SMALL:
        return f"keep its own way: another gains {points(estimate.high)} at most"
    return (
        f"keep its own way for now; whether another is better is undecided ({named(point.arm)} at {text(point.image_size)}: "
        f"{difference(estimate).replace(' (', ', ').rstrip(')')})"
    )


def _elsewhere(found: AtSizes, arm: str) -> list[SizePoint]:
    """The points of an arm as trained, but for that at the size of the training."""
    return [point for point in found.row(arm, False) if point.image_size != found.base]


def _told_elsewhere(found: AtSizes, arm: str) -> tuple[list[SizePoint], list[SizePoint]]:
    """As trained: the other sizes at which an arm is ahead of its opponent by more than chance, and behind."""
    ahead, behind = (
        [point for point in row if point.image_size != found.base] for row in told_sizes(found, arm, tuned=False)
    )
    return ahead, behind


def _places(row: Sequence[SizePoint]) -> str:
    return f"at {joined([text(point.image_size) for point in row])}"


def _for_other_sizes(found: AtSizes) -> list[str]:
    """How to train if other sizes will come: which arm at one size, and whether at several."""
    return [*_at_one_size(found), *(said for arm in of_several_resolutions(found) for said in _at_several(found, arm))]


def _at_one_size(found: AtSizes) -> list[str]:
    """The arm trained at one size that loses least over the others, of those that are not behind the reference there.

    A weak arm has little to lose: what its own interval puts behind at the size of the training is not recommended.
    """
    reference = found.study.reference
    rivals = []
    for arm in found.kinds:
        point = found.at(arm, found.base, False)
        against = found.study.opponent(arm) == reference and arm not in of_several_resolutions(found)
        behind = point is None or (point.difference is not None and point.difference.high < 0)
        if arm == reference or (against and not behind):
            rivals.append(arm)
    losses = ranked(found, rivals)
    if len(losses) < 2 or reference not in losses:
        return []
    best = next(iter(losses))
    train = f"To train at {text(found.base)} alone for other sizes"
    if best == reference:
        return [f"{train}, stay with {named(reference)}: no arm that is as good there loses less in the mean."]
    close = as_little(losses, best)
    may = f"{joined([named(arm) for arm in close])} may do as well" if close else ""
    if reference not in close:
        clearly = f"{in_mean(losses[best])}, clearly less than {named(reference)}"
        return [f"{train}, take {named(best)}: {clearly}{'; ' * bool(may)}{may}."]
    return [f"{train}, {named(best)} keeps most, {in_mean(losses[best])}, but {may}: the intervals overlap."]


def _at_several(found: AtSizes, arm: str) -> list[str]:
    """Whether to train at several resolutions: what it gains over the other sizes, what it costs."""
    opponent = found.study.opponent(arm)
    own = found.at(arm, found.base, False)
    gain, ratio = mean_difference(found, arm), training_ratio(found, arm, opponent)
    if arm not in found.sound or opponent not in found.sound or own is None or ratio is None:
        return []
    if gain is None or own.difference is None:
        return []
    ahead, behind = _told_elsewhere(found, arm)
    total = all_fine_tunings(found, opponent)
    price = f"{ratio} the training FLOPs"
    price += f" (with a fine-tuning for each size instead, {total:.2f} times)" if total is not None else ""
    gained = f"over the others, {difference(gain).replace(' (', ' in the mean (', 1)}"
    at_base = f"at {text(found.base)}, {difference(own.difference)}"
    if ahead and not behind and gain.low > 0:
        return [
            f"If one model must serve several sizes, train as {named(arm)}: beside {named(opponent)} {gained}; {at_base}. "
            f"It takes {price}."
        ]
    if gain.high < 0 or (behind and not ahead):
        return [f"Do not train as {named(arm)} for other sizes: beside {named(opponent)} {gained}, for {price}."]
    return [
        f"Whether to train as {named(arm)} for several sizes is undecided: beside {named(opponent)} {gained}; {at_base}. "
        f"It takes {price}."
    ]


def _priced(found: AtSizes) -> list[str]:
    """What a smaller size saves and costs the reference, and whether a larger one pays, both fine-tuned there."""
    said = " ".join([*_smaller(found), *_larger(found)])
    return [said] if said else []


def _smaller(found: AtSizes) -> list[str]:
    """The smallest size at which little may be lost; without one, the price of the next smaller size."""
    reference = found.study.reference
    base = found.at(reference, found.base, False)
    rows = [
        (point, point.change)
        for size in found.others
        if _area(size) < _area(found.base) and (point := found.at(reference, size, True)) and point.change
    ]
    if base is None or not rows:
        return []
    free = [pair for pair in rows if small(pair[1])]
    point, change = min(free, key=lambda pair: pair[0].flops) if free else rows[-1]
    size, share = text(point.image_size), f"{point.flops / base.flops:.2f} times the FLOPs of an image"
    if free:
        return [f"To save FLOPs, fine-tune at {size}: {share}, {_may_be(change)}."]
    if loses(change):
        return [f"Fewer FLOPs cost accuracy: at {size} {share}; fine-tuned there, {bare(change)}."]
    return [f"Whether {size} saves FLOPs without a loss is undecided: {share}, fine-tuned there {span(change)}."]


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
    price = f"{best.flops / control.flops:.1f} times"
    size, fewer = text(best.image_size), text(found.base)
    numbers = f"{accuracy(best.top1)} fine-tuned there, {accuracy(control.top1)} at {fewer}, for {price} the FLOPs"
    if best.top1.low > control.top1.high:
        return [f"For more accuracy, use {size}: {numbers}."]
    if best.top1.mean <= control.top1.mean:
        return [f"A larger size does not pay in the mean: at best {numbers.replace(' fine', f' at {size}, fine', 1)}."]
    return [f"Whether the larger {size} pays is undecided: {numbers}."]


def _area(size: Pixels) -> int:
    return size[0] * size[1]
