"""What has changed between two states of the same data: added, removed, renamed, relabelled, edited, reordered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vitrail.data.identity import Identity, SplitIdentity
from vitrail.data.samples import UNKNOWN

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_NAMES = 3


@dataclass(frozen=True)
class Change:
    """Samples that have changed in one way."""

    what: str
    """'added', 'removed', 'renamed', 'relabelled', 'edited', 'touched' (their files are of another time, and nothing else
    is known of them), 'reordered', or 'classes'."""
    split: str
    """Empty for the classes."""
    count: int
    examples: tuple[str, ...]
    """The first few, in words."""


def changes(old: Identity, new: Identity) -> list[Change]:
    """How ``new`` differs from ``old``; nothing, if a run goes on with the same images in the same order.

    An image that was looked at in both is compared by its digest alone, so a copy of the data elsewhere is the same;
    another one by its size and its file's time of change.
    """
    found = _classes(old.labels, new.labels)
    for split in dict.fromkeys([*old.splits, *new.splits]):
        first, second = (identity.splits.get(split) or _nothing() for identity in (old, new))
        found.extend(_compare(split, first, second, old.labels, new.labels))
    return found


def describe(found: Sequence[Change]) -> str:
    """Changes in one line, such as '2 images of train added (a.jpg, b.jpg), 1 relabelled (c.png: cat, was dog)'."""
    told = []
    before = None
    for change in found:
        more = ", ..." if change.count > len(change.examples) else ""
        examples = f"({', '.join(change.examples)}{more})"
        if change.what == "classes":
            told.append(f"the classes have changed {examples}")
            continue
        images = "" if change.split == before else f"{'image' if change.count == 1 else 'images'} of {change.split} "
        before = change.split
        what = "with another time of change, and not looked at" if change.what == "touched" else change.what
        told.append(f"{change.count:,} {images}{what} {examples}")
    return ", ".join(told)


def _compare(
    split: str, old: SplitIdentity, new: SplitIdentity, old_labels: tuple[str, ...], new_labels: tuple[str, ...]
) -> list[Change]:
    before, after = _matched(old.names, new.names)
    gone, come = _others(before, len(old)), _others(after, len(new))
    was, now = _same_content(old.digests, gone, new.digests, come)
    removed, added = np.setdiff1d(gone, was), np.setdiff1d(come, now)
    pairs_before, pairs_after = np.concatenate([before, was]), np.concatenate([after, now])

    def some(what: str, which: np.ndarray, tell: Callable[[int], str]) -> list[Change]:
        return (
            [Change(what, split, len(which), tuple(tell(i) for i in which[:_MOST_NAMES].tolist()))]
            if len(which)
            else []
        )

    def label(labels: tuple[str, ...], target: int) -> str:
        return labels[target] if 0 <= target < len(labels) else "no label"

    def relabelled(i: int) -> str:
        own = label(new_labels, new.targets[pairs_after[i]])
        return f"{new.names[pairs_after[i]]}: {own}, was {label(old_labels, old.targets[pairs_before[i]])}"

    place = {name: i for i, name in enumerate(new_labels)}
    translated = np.array([*(place.get(name, UNKNOWN - 1) for name in old_labels), UNKNOWN])  # the last is no label
    other_label = np.flatnonzero(translated[old.targets[pairs_before]] != new.targets[pairs_after])
    edited, touched = _edited(old, before, new, after)
    in_order = after[np.argsort(before, kind="stable")]
    moved = np.flatnonzero(in_order != np.sort(after))
    return [
        *some("added", added, lambda i: str(new.names[i])),
        *some("removed", removed, lambda i: str(old.names[i])),
        *some("renamed", np.arange(len(was)), lambda i: f"{new.names[now[i]]}, was {old.names[was[i]]}"),
        *some("relabelled", other_label, relabelled),
        *some("edited", edited, lambda i: str(new.names[after[i]])),
        *some("touched", touched, lambda i: str(new.names[after[i]])),
        *some("reordered", moved, lambda i: str(new.names[in_order[i]])),
    ]


def _classes(old: tuple[str, ...], new: tuple[str, ...]) -> list[Change]:
    if old == new:
        return []
    told = [f"{name} is new" for name in new if name not in set(old)]
    told += [f"{name} is gone" for name in old if name not in set(new)]
    told = told or [f"{name} is number {new.index(name)}, was {i}" for i, name in enumerate(old) if name != new[i]]
    return [Change("classes", "", len(told), tuple(told[:_MOST_NAMES]))]


def _matched(old: "pa.Array", new: "pa.Array") -> tuple[np.ndarray, np.ndarray]:
    """Places in ``old`` and in ``new`` of the names that both have; the second of a name goes with the second."""
    import pyarrow as pa

    if old.equals(new):
        return np.arange(len(old)), np.arange(len(new))
    codes = pa.concat_arrays([old, new]).dictionary_encode().indices.to_numpy()
    return _paired(codes[: len(old)], codes[len(old) :])


def _paired(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of equal keys in two arrays, each used once: the k-th of a key goes with its k-th. In the second's order."""
    order_first, order_second = np.argsort(first, kind="stable"), np.argsort(second, kind="stable")
    sorted_first, sorted_second = first[order_first], second[order_second]
    rank = np.arange(len(second)) - np.searchsorted(sorted_second, sorted_second)
    place = np.searchsorted(sorted_first, sorted_second) + rank
    there = place < np.searchsorted(sorted_first, sorted_second, side="right")
    second_places, first_places = order_second[there], order_first[place[there]]
    order = np.argsort(second_places, kind="stable")
    return first_places[order], second_places[order]


def _others(places: np.ndarray, n: int) -> np.ndarray:
    there = np.zeros(n, dtype=bool)
    there[places] = True
    return np.flatnonzero(~there)


def _same_content(
    old: np.ndarray, gone: np.ndarray, new: np.ndarray, come: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Places in ``old`` and ``new`` of images that have gone under one name and come under another."""
    gone, come = gone[old[gone] != 0], come[new[come] != 0]
    first, second = _paired(old[gone], new[come])
    return gone[first], come[second]


def _edited(
    old: SplitIdentity, before: np.ndarray, new: SplitIdentity, after: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which pairs have another content, and of which only the file's time is another."""
    looked = (old.digests[before] != 0) & (new.digests[after] != 0)
    digest = old.digests[before] != new.digests[after]
    size = _differ(old.sizes[before], new.sizes[after])
    time = _differ(old.modified[before], new.modified[after])
    return np.flatnonzero(np.where(looked, digest, size)), np.flatnonzero(~looked & ~size & time)


def _differ(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Where both are known, and differ."""
    return (first != second) & (first != UNKNOWN) & (second != UNKNOWN)


def _nothing() -> SplitIdentity:
    import pyarrow as pa

    none = np.zeros(0, dtype=np.int64)
    return SplitIdentity(pa.array([], pa.large_string()), none, none, none, none.astype(np.uint64))
