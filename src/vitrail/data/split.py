"""The split into training and validation: a function of each sample's class and name alone.

A sample's side is decided by a hash of its own name, so adding, removing or reordering other files moves none.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vitrail.data.samples import Samples

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


def split_of(name: str) -> str | None:
    """'train', 'val' or 'test' where a folder, file or column value is named after a split, else None."""
    return SPLIT_NAMES.get(name.strip().lower())


def split_of_file(file: Path, root: Path) -> str:
    """The split that a file of many samples belongs to, told by its folder below ``root`` or by how its own name begins
    ('train-00000-of-00002.parquet', 'val_03.tar'); 'train' where nothing tells."""
    below = file.relative_to(root) if file.is_relative_to(root) else Path(file.name)
    for part in (*below.parts[:-1], re.split(r"[-_.\d]", file.name)[0]):
        if (split := split_of(part)) is not None:
            return split
    return "train"


def places(names: Sequence[str], targets: np.ndarray, labels: Sequence[str], purpose: str) -> np.ndarray:
    """Where each sample stands on the unit interval (n,) float64: a hash of its class and its name.

    The folders of the split and of the class count as the class, so 'train/cat/p01/1.jpg' and 'cat/p01/1.jpg' of class
    cat have the same place, and a folder is split like a table or an archive of it that names files so.

    Args:
        purpose: splits with different purposes are independent ('val', 'test').
    """
    found = np.empty(len(names))
    for i, (name, target) in enumerate(zip(names, targets, strict=True)):
        key = f"{purpose}:{labels[target]}/{_below_class(name.replace(chr(92), '/'), labels[target])}"
        found[i] = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=7).digest(), "big") / 2**56
    return found


def _below_class(name: str, label: str) -> str:
    """What of a name lies below the folder of its class; the whole name where no such folder stands first in it.

    A folder of that name further down is no class folder: in 'p01/cat/scan.png' the patient tells files apart.
    """
    first, _, rest = name.partition("/")
    if first != label and split_of(first) is not None:
        first, _, rest = rest.partition("/")
    return rest if first == label and rest else name


def held_out(
    names: Sequence[str], targets: np.ndarray, labels: Sequence[str], fraction: float, purpose: str = "val"
) -> np.ndarray:
    """Which samples go to validation, or another ``purpose``, (n,) bool: those whose place is below ``fraction``, class
    by class.

    Two corners, in which a class's membership can change when files of that class are added: where none of a class
    falls to validation, the one with the smallest place goes there; where all do, the one with the largest place
    stays in training. A class with one single sample keeps it in training.
    """
    place = places(names, targets, labels, purpose)
    out = place < fraction
    if fraction <= 0:
        return out
    for target in np.unique(targets):
        members = np.flatnonzero(targets == target)
        if len(members) == 1:
            out[members] = False
        elif not out[members].any():
            out[members[place[members].argmin()]] = True
        elif out[members].all():
            out[members[place[members].argmax()]] = False
    return out


def share_of(samples: Samples, fraction: float, seed: int) -> Samples:
    """A share of labelled samples, in their own order: with every class that there is, in proportion.

    The samples are ranked, and the first ones taken, so a smaller share is part of a larger one: first one of each class,
    then the others, evenly by class; within a class by a hash of seed and name. There are ``fraction * len(samples)``,
    rounded, but no fewer than classes.

    Args:
        samples: those to choose from; they know their targets.
        fraction: above 0, at most 1, which is all of them.
        seed: another one gives another share.
    """
    names, targets, labels = samples.names, samples.targets, samples.labels
    if targets is None or fraction >= 1:
        return samples
    place = places(names, targets, labels, f"fraction {seed}")
    # a start of its own for each class, lest the second samples of equal classes all come at once
    start = places(labels, np.arange(len(labels)), labels, f"fraction {seed}")
    reached = np.empty(len(names))  # how far through its class a sample stands
    first = np.zeros(len(names), dtype=bool)
    for target in np.unique(targets):
        members = np.flatnonzero(targets == target)
        members = members[np.argsort(place[members], kind="stable")]
        reached[members] = (np.arange(len(members)) + start[target]) / len(members)
        first[members[0]] = True
    count = max(int(first.sum()), round(fraction * len(names)))
    return samples.subset(np.sort(np.lexsort((reached, ~first))[:count]))


def fixed_share(names: Sequence[str], targets: np.ndarray, labels: Sequence[str], fraction: float) -> np.ndarray:
    """An exact share of every class, (n,) bool, for data that never change: the smallest places."""
    place = places(names, targets, labels, "test")
    out = np.zeros(len(names), dtype=bool)
    for target in np.unique(targets):
        members = np.flatnonzero(targets == target)
        out[members[np.argsort(place[members], kind="stable")[: round(fraction * len(members))]]] = True
    return out
