"""Whether the classes of data are those of a model's head, by number and by name; and whether data are even."""

import re
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np

from vitrail.data.open import Dataset
from vitrail.data.samples import Samples
from vitrail.doctor.finding import Finding, ok, problem, warning

_UNEVEN = 10  # times as many images in the largest class as in the smallest
_FEW = 5  # images of a class in train, below which it can hardly be learnt
_SHOWN = 3

_NEW_HEAD = "vitrail train starts a new head of {n} classes at zero"


def class_findings(classes: int, labels: Sequence[str], names: Sequence[str]) -> list[Finding]:
    """The data's classes against the model's outputs.

    Args:
        classes: outputs of the head; 0 where there is none.
        labels: the model's names for them; empty where unknown.
        names: the data's classes, in their order.
    """
    n = len(names)
    if not names:
        return [warning("classes", "the data have no labels", "they can be predicted, not evaluated or trained on")]
    if not classes:
        return [ok("classes", f"the model has no head, it gives features; {_NEW_HEAD.format(n=n)}")]
    if not labels:
        return _without_names(classes, names)
    known, own = set(labels), set(names)
    if twice := sorted(name for name, count in Counter(labels).items() if count > 1 and name in own):
        return [
            problem(
                "classes",
                f"several of the model's outputs have the same name: {_some(twice)}",
                "give them names of their own: images of these classes cannot be matched by name",
            )
        ]
    if tuple(labels) == tuple(names):
        return [ok("classes", f"the data's {n} classes are the model's, in the same order")]
    if known == own:
        return [ok("classes", f"the data's {n} classes are the model's in another order: they are matched by name")]
    if own < known:
        return [
            ok(
                "classes",
                f"the data's {n} classes are among the model's {classes}, matched by name; in an evaluation the other "
                "outputs can be wrong answers",
            )
        ]
    if known & own:
        lacking = sorted(own - known)
        return [
            problem(
                "classes",
                f"the model knows {len(known & own)} of the data's {n} classes by name, and not {_some(lacking)}",
                _spelling(lacking, sorted(known - own))
                or f"to evaluate, leave these classes out or rename them; {_NEW_HEAD.format(n=n)}",
            )
        ]
    return [_nothing_in_common(classes, labels, names)]


def balance_findings(data: Dataset) -> list[Finding]:
    """Classes with few images, or with far more than others; parts that are missing."""
    found = []
    train = data.train
    if train is not None and train.targets is not None:
        counts = np.bincount(train.targets, minlength=len(data.labels))
        few = [f"{data.labels[i]} ({counts[i]})" for i in np.flatnonzero(counts < _FEW)]
        smallest, largest = int(counts.argmin()), int(counts.argmax())
        if few:
            found.append(
                warning(
                    "balance",
                    f"{len(few)} of {len(counts)} classes have fewer than {_FEW} training images: {_some(few, quote=False)}",
                    "add images of them, or leave them out",
                )
            )
        elif counts[largest] > _UNEVEN * counts[smallest]:
            found.append(
                warning(
                    "balance",
                    f"{data.labels[largest]} has {counts[largest]:,} training images and {data.labels[smallest]} "
                    f"{counts[smallest]:,}",
                    "look at the recall of each class, not at accuracy alone",
                )
            )
        else:
            found.append(ok("balance", f"{counts.min():,} to {counts.max():,} training images a class"))
    sizes = {name: len(part) for name in ("train", "val", "test") if (part := getattr(data, name)) is not None}
    found.append(ok("parts", ", ".join(f"{name} {count:,}" for name, count in sizes.items()) + " images"))
    return found


def outputs_of(samples: Samples, labels: Sequence[str], classes: int) -> np.ndarray | None:
    """The model's output for each sample's class (n,), -1 where it has none; None where that cannot be told."""
    if samples.targets is None or not classes:
        return None
    if labels:
        place = {name: index for index, name in enumerate(labels)}
        found = np.array([place.get(name, -1) for name in samples.labels])
        return None if (found < 0).all() else found[samples.targets]
    return samples.targets if len(samples.labels) == classes else None


def _without_names(classes: int, names: Sequence[str]) -> list[Finding]:
    if classes != len(names):
        return [
            warning(
                "classes",
                f"the model has {classes} outputs without names, the data {len(names)} classes: they cannot be matched",
                f"it cannot be evaluated on these data; {_NEW_HEAD.format(n=len(names))}",
            )
        ]
    if list(names) == [str(number) for number in range(classes)]:
        return [ok("classes", f"the data's {classes} classes are numbered as the model's outputs, which have no names")]
    by_text = sorted(names) != list(names)
    return [
        warning(
            "classes",
            f"the model's {classes} outputs have no names: they are taken for the data's classes in their order "
            f"({_some(names)})" + ("; sorted as text, as torchvision does, it would be another" if by_text else ""),
            "make sure that the model was trained with this order",
        )
    ]


def _nothing_in_common(classes: int, labels: Sequence[str], names: Sequence[str]) -> Finding:
    """No name is shared: a spelling, numbers for names, or a model to be trained."""
    advice = _NEW_HEAD.format(n=len(names))
    if hint := _spelling(names, labels):
        return problem("classes", f"no class of the data is the model's by name, but by sense: {hint}", "rename them")
    numbers = all(name.isdecimal() for name in names)
    if numbers != all(label.isdecimal() for label in labels):
        whose, theirs = ("data's", labels) if numbers else ("model's", names)
        return warning(
            "classes",
            f"the {whose} classes are numbers and the others' are names ({_some(theirs)}): they cannot be matched",
            f"rename the classes if they are the same; else {advice}",
        )
    return warning(
        "classes",
        f"the data's {len(names)} classes ({_some(names)}) are none of the model's {classes} ({_some(labels)})",
        f"the model has to be trained on them: {advice}",
    )


def _spelling(wanted: Sequence[str], there: Sequence[str]) -> str:
    """Names that differ by case, spaces and signs alone, or by a letter or two; empty where there are none."""
    plain = {_plain(name): name for name in there}
    pairs = [(name, plain[_plain(name)]) for name in wanted if _plain(name) in plain]
    if not pairs:
        near = ((name, get_close_matches(name, there, n=1, cutoff=0.85)) for name in wanted[:100])
        pairs = [(name, close[0]) for name, close in near if close]
    if not pairs:
        return ""
    return ", ".join(f"{ours!r} may be {theirs!r}" for ours, theirs in pairs[:_SHOWN]) + (
        f" ... ({len(pairs)} such)" if len(pairs) > _SHOWN else ""
    )


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def _some(names: Sequence[str], *, quote: bool = True) -> str:
    shown = [repr(name) if quote else name for name in names[:_SHOWN]]
    return ", ".join(shown) + (f" ... ({len(names)})" if len(names) > _SHOWN else "")
