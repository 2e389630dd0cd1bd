"""Numbers in words: accuracies, differences in points, costs, lists."""

from collections.abc import Sequence
from typing import Any

from vitrail.studies.findings import Estimate, Point, Setting
from vitrail.studies.study import Study

_LARGE = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


def named(arm: str) -> str:
    """An arm's name in quotation marks, as it may hold commas."""
    return f"“{arm}”"


def percent(share: float) -> str:
    """``97.3 %``."""
    return f"{100 * share:.1f} %"


def accuracy(estimate: Estimate) -> str:
    """``97.3 % (96.5 to 98.1)``."""
    return f"{percent(estimate.mean)} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def amount(estimate: Estimate) -> str:
    """The size of a difference whose interval does not hold 0, whatever its sign: ``2.3 points (1.1 to 3.4)``."""
    low, high = sorted((abs(estimate.low), abs(estimate.high)))
    return f"{points(estimate.mean)} ({100 * low:.1f} to {100 * high:.1f})"


def difference(estimate: Estimate, words: tuple[str, str, str] = ("ahead", "behind", "level")) -> str:
    """``2.3 points behind (1.1 to 3.4)``; where it may be either, ``0.3 points ahead (1.2 behind to 1.8 ahead)``.

    ``words``: for above 0, below, and neither.
    """
    mean = points(estimate.mean)
    direction = words[2] if mean == points(0) else f"{mean} {words[0] if estimate.mean > 0 else words[1]}"
    if sign(estimate) and direction != words[2]:
        return f"{direction} ({amount(estimate).split('(')[1]}"
    ends = [f"{100 * abs(end):.1f} {words[1] if end < 0 else words[0]}" for end in (estimate.low, estimate.high)]
    return f"{direction} ({ends[0]} to {ends[1]})"


def change(estimate: Estimate) -> str:
    """What another size does to an arm: ``2.3 points lost (1.1 to 3.4)``, ``unchanged (0.5 lost to 0.5 gained)``."""
    return difference(estimate, ("gained", "lost", "unchanged"))


def sign(estimate: Estimate) -> int:
    """1 or -1 where the whole interval is on one side of 0, else 0."""
    return (estimate.low > 0) - (estimate.high < 0)


def points(share: float) -> str:
    """The size of a difference of two percentages: ``2.3 points``."""
    return f"{100 * abs(share):.1f} points"


def signed(share: float) -> str:
    """A difference of two percentages with its sign, without the word: ``+1.2``, ``−1.2``, ``0.0``."""
    text = f"{100 * share:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def within_chance(compared: Sequence[Point], which: str) -> str:
    """How large a difference may be chance: half the width of the 95 % intervals, the narrowest to the widest.

    ``which``: on what it depends, such as ``arm``.
    """
    halves = sorted((p.difference.high - p.difference.low) / 2 for p in compared if p.difference)
    low, high = f"{100 * halves[0]:.1f}", f"{100 * halves[-1]:.1f}"
    size = f"{low} points" if low == high else f"{low} to {high} points, depending on the {which},"
    return f"Differences up to {size} are within the chance of these seeds and images."


def opponents(study: Study, tried: Sequence[Point]) -> list[tuple[str, list[Point]]]:
    """Who is compared with whom: an arm, and the points that have a difference to it; the reference comes first."""
    groups: dict[str, list[Point]] = {study.reference: []}
    for point in tried:
        if point.difference is not None:
            groups.setdefault(study.opponent(point.arm), []).append(point)
    return [(opponent, found) for opponent, found in groups.items() if found]


def compared_otherwise(study: Study, tried: Sequence[Point]) -> str:
    """``, but “a” and “b” with “c”``: the arms that are not compared with the reference; nothing where all are."""
    parts = [
        f"{joined(list(dict.fromkeys(named(point.arm) for point in found)))} with {named(opponent)}"
        for opponent, found in opponents(study, tried)
        if opponent != study.reference
    ]
    return f", but {joined(parts)}" if parts else ""


def several(items: Sequence[str]) -> str:
    """``a; b; c``: the items may hold commas."""
    return "; ".join(items)


def joined(items: Sequence[str]) -> str:
    """``a, b and c``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def large(number: float) -> str:
    """Three figures: ``12,300``, ``1.23 million``."""
    for limit, word in _LARGE:
        if float(f"{number:.3g}") >= limit:
            return f"{float(f'{number / limit:.3g}'):,g} {word}"
    return f"{float(f'{number:.3g}'):,g}"


def between(numbers: Sequence[float]) -> str:
    """``3``, or ``3 to 5``."""
    low, high = large(min(numbers)), large(max(numbers))
    return low if low == high else f"{low} to {high}"


def value(study: Study, along: Any) -> str:
    """A value along the axis; a fraction as per cent."""
    key = study.along.key if study.along else ""
    if key.endswith("fraction") and isinstance(along, int | float):
        return f"{100 * along:.4g} %"
    if isinstance(along, list | tuple):
        return " × ".join(str(item) for item in along)
    return f"{along:g}" if isinstance(along, float) else str(along)


def values_tried(study: Study, tried: Sequence[Point]) -> list[Any]:
    """The values along the axis that have points, in the study's order."""
    return [along for along in (study.along.values if study.along else ()) if any(p.along == along for p in tried)]


def images(setting: Setting) -> str:
    """``the 540 test images``."""
    return f"the {setting.reported:,} {'test' if setting.reported_split == 'test' else 'reported'} images"


def sizes_of_images(study: Study, setting: Setting) -> str:
    """``8 × 8 pixels``; or that there are several sizes, where an arm or the axis changes them."""
    height, width = setting.image_size
    text = f"{height} × {width} pixels"
    changed = [changes for arm in study.arms.values() for changes in (arm.changes, *arm.choose)]
    if any("image_size" in changes for changes in changed) or (study.along and study.along.key == "image_size"):
        return "several sizes"
    if started(study):
        return f"{text} (of an arm that starts from a model, the nearest size that its patches divide)"
    return text


def started(study: Study) -> list[str]:
    """The arms that start from a model, and are not trained from scratch."""
    return [
        name for name, arm in study.arms.items() if any(changes.get("init") for changes in (arm.changes, *arm.choose))
    ]
