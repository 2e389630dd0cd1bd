"""The arms at other sizes than the training's: what is lost, by which arm least, and which reading of a table is best."""

from collections.abc import Mapping, Sequence

from vitrail.studies.conclusions import size_costs
from vitrail.studies.conclusions.at_sizes import AtSizes, Pixels, text
from vitrail.studies.conclusions.losses import as_little, ranked, told_sizes
from vitrail.studies.conclusions.words import change, images, joined, named, percent, points, several
from vitrail.studies.findings import Setting, SizePoint

_LISTED = 3


def sentences(found: AtSizes, setting: Setting) -> list[str]:
    """What the numbers say, in order of weight; the numbers of every arm at every size stand in the tables."""
    return [
        headline(found, setting),
        *_sensitive(found),
        *_compared(found),
        *_readings(found),
        *size_costs.fine_tuning(found),
        *size_costs.several_resolutions(found),
        *size_costs.bargains(found),
    ]


def headline(found: AtSizes, setting: Setting) -> str:
    """What the reference loses at both ends, as it is and fine-tuned, and which arm loses least."""
    reference = found.study.reference
    base = found.at(reference, found.base, False)
    if base is None:
        return f"{named(reference)} has no run at {text(found.base)}, so that nothing can be compared with it."
    said = [
        f"Trained at {text(found.base)}, {named(reference)} is right on {percent(base.top1.mean)} of {images(setting)}."
    ]
    ends = dict.fromkeys(found.others[:1] + found.others[-1:])
    for words, tuned in (("As it is", False), ("Briefly fine-tuned", True)):
        row = [
            f"at {text(size)} {change(point.change)}"
            for size in ends
            if (point := found.at(reference, size, tuned)) and point.change
        ]
        said += [f"{words}, {several(row)}."] if row else []
    losses = ranked(found, found.kinds)
    if len(losses) > 1:
        least = next(iter(losses))
        chance = ", which may be chance" if as_little(losses, least) else ""
        said.append(f"Of the arms as trained, {named(least)} keeps most in the mean over the other sizes{chance}.")
    return " ".join(said)


def _sensitive(found: AtSizes) -> list[str]:
    """The arms that lose least and most, beside the reference, and those that may lose as little as the least."""
    losses = ranked(found, found.kinds)
    if len(losses) < 2:
        return []
    least, most = next(iter(losses)), list(losses)[-1]
    shown = [arm for arm in losses if arm in (least, found.study.reference, most)]
    listed = several([f"{named(arm)} {change(losses[arm])}" for arm in shown])
    said = f"Over the other sizes, as trained, in the mean, from the least lost to the most: {listed}."
    close = as_little(losses, least)
    apart = [arm for arm in losses if arm != least and arm not in close]
    if not apart:
        return [f"{said} But the intervals of all arms overlap that of {named(least)}: the order may be chance."]
    if not close:
        return [f"{said} All lose clearly more than {named(least)}."]
    if len(close) <= len(apart):
        return [f"{said} {joined([named(arm) for arm in close])} may keep as much as {named(least)}; the rest do not."]
    lose = "loses" if len(apart) == 1 else "lose"
    return [f"{said} Only {joined([named(arm) for arm in apart])} clearly {lose} more than {named(least)}."]


def _compared(found: AtSizes) -> list[str]:
    """The arms that are trained beside their opponents, over all sizes."""
    said = []
    for opponent in dict.fromkeys(found.study.opponent(arm) for arm in found.kinds):
        rivals = [arm for arm in found.kinds if found.study.opponent(arm) == opponent != arm]
        told = _told(found, rivals, found.sizes)
        said += [f"Beside {named(opponent)} at the same size, {told}"] if told else []
    return said


def _readings(found: AtSizes) -> list[str]:
    """The ways of bringing the same trained models to a size: whether they differ, and at which size most."""
    said = []
    for opponent in dict.fromkeys(found.study.opponent(arm) for arm in found.readings):
        ways = [arm for arm in found.readings if found.study.opponent(arm) == opponent]
        told = _told(found, ways, found.others)
        if told:
            said.append(
                f"{named(opponent)} brought to a size in {len(ways)} other {'way' if len(ways) == 1 else 'ways'}, "
                f"{told}{_spread(found, [opponent, *ways])}"
            )
    return said


def _spread(found: AtSizes, ways: Sequence[str]) -> str:
    """Where, as trained, the means of the ways lie furthest apart."""
    rows = {size: [point for arm in ways if (point := found.at(arm, size, False))] for size in found.others}
    spreads = {
        size: (max(row, key=lambda point: point.top1.mean), min(row, key=lambda point: point.top1.mean))
        for size, row in rows.items()
        if len(row) > 1
    }
    if all(best.top1.mean == worst.top1.mean for best, worst in spreads.values()):
        return ""
    size = max(spreads, key=lambda size: spreads[size][0].top1.mean - spreads[size][1].top1.mean)
    best, worst = spreads[size]
    return (
        f" The means lie furthest apart at {text(size)}: {points(best.top1.mean - worst.top1.mean)} from {named(best.arm)} "
        f"down to {named(worst.arm)}."
    )


def _told(found: AtSizes, arms: Sequence[str], sizes: Sequence[Pixels]) -> str:
    """Stage by stage: which arms differ from their opponent by more than chance, and how large a difference may be chance."""
    stages = [said for tuned in (False, True) if (said := _told_stage(found, arms, sizes, tuned=tuned))]
    return " ".join([*stages[:1], *(said[0].upper() + said[1:] for said in stages[1:])])


def _told_stage(found: AtSizes, arms: Sequence[str], sizes: Sequence[Pixels], *, tuned: bool) -> str:
    row = [
        (p, p.difference)
        for arm in arms
        for size in sizes
        if (p := found.at(arm, size, tuned)) is not None and p.difference is not None
    ]
    if not row:
        return ""
    parts = []
    for place, word in enumerate(("ahead", "behind")):
        apart = {arm: told for arm in arms if (told := told_sizes(found, arm, tuned=tuned)[place])}
        if apart:
            parts.append(f"{word} at some size {_listed(apart)}")
    halves = [(estimate.high - estimate.low) / 2 for point, estimate in row if not point.told_apart]
    if halves:
        count = f"{len(halves)} of {len(row)} comparisons" if parts else f"all {len(row)} comparisons"
        count = "the comparison" if len(row) == 1 else count
        parts.append(f"{count} undecided (up to {points(max(halves))} may be chance)")
    return f"{'fine-tuned' if tuned else 'as trained'}: {several(parts)}."


def _listed(apart: Mapping[str, Sequence[SizePoint]]) -> str:
    """Arms, and of a few also by how much they differ; of many, the tables tell."""
    if len(apart) > _LISTED:
        return joined([named(arm) for arm in apart])
    furthest = {arm: max(abs(p.difference.mean) for p in row if p.difference) for arm, row in apart.items()}
    return joined([f"{named(arm)} (by up to {points(most)})" for arm, most in furthest.items()])
