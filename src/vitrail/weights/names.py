"""Names of tensors, both ways: an origin's table of entries, applied to read its weights or to write them.

Every tensor is matched, or excused by name with a reason; what is left over on either side is an error that lists it.
"""

import difflib
import fnmatch
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from vitrail.errors import UserError
from vitrail.weights.files.untrusted import shown

if TYPE_CHECKING:
    from torch import Tensor

_SHOWN = 4  # names listed in an error; the count says how many there are
_COMPARED = 2000  # names with which a missing one is compared at most: more take too long

Shape = tuple[int, ...]
Tensors = dict[str, "Tensor"]


@dataclass(frozen=True)
class Layout:
    """How tensors of another origin lie in one of ours: two inverse functions."""

    to_ours: Callable[[Sequence["Tensor"], Shape], "Tensor"]
    """Their tensors, and the shape wanted -> ours."""
    to_theirs: Callable[["Tensor"], Sequence["Tensor"]]


def _only(tensors: Sequence["Tensor"], shape: Shape) -> "Tensor":
    return tensors[0]


SAME = Layout(_only, lambda tensor: [tensor])


@dataclass(frozen=True)
class Entry:
    """One tensor of ours, by the name or names that hold it elsewhere (query, key and value, say)."""

    ours: str
    theirs: tuple[str, ...]
    layout: Layout = SAME


def entry(ours: str, *theirs: str, layout: Layout = SAME) -> Entry:
    """An Entry, written short."""
    return Entry(ours, theirs, layout)


def module(ours: str, theirs: str, layout: Layout = SAME) -> list[Entry]:
    """The weight and the bias of a dense layer, a convolution or a norm; the layout is the weight's."""
    return [entry(f"{ours}.weight", f"{theirs}.weight", layout=layout), entry(f"{ours}.bias", f"{theirs}.bias")]


def joined(ours: str, *theirs: str) -> list[Entry]:
    """The weight and the bias of one dense layer that lies elsewhere as several, one above the other."""
    return [
        entry(f"{ours}.{part}", *(f"{name}.{part}" for name in theirs), layout=stacked(len(theirs)))
        for part in ("weight", "bias")
    ]


def stacked(parts: int) -> Layout:
    """Several tensors of equal size, one above the other in ours (query, key and value in ``qkv``)."""

    def to_ours(tensors: Sequence["Tensor"], shape: Shape) -> "Tensor":
        import torch

        return torch.cat(list(tensors))

    return Layout(to_ours, lambda tensor: [part.contiguous() for part in tensor.chunk(parts)])


def zeros(what: str) -> Layout:
    """A tensor that the origin has not got: zero in ours, and it must be zero to be written."""

    def to_ours(tensors: Sequence["Tensor"], shape: Shape) -> "Tensor":
        import torch

        return torch.zeros(shape)

    def to_theirs(tensor: "Tensor") -> Sequence["Tensor"]:
        if tensor.any():
            raise UserError(f"the model has {what}, which has no place in that format: choose another")
        return []

    return Layout(to_ours, to_theirs)


def reshaped(to_ours: Callable[["Tensor"], "Tensor"], to_theirs: Callable[["Tensor"], "Tensor"]) -> Layout:
    """One tensor, turned by a pair of inverse functions."""
    return Layout(lambda tensors, shape: to_ours(tensors[0]), lambda tensor: [to_theirs(tensor).contiguous()])


# A leading axis of length one that ours has and theirs has not: (N, D) and (1, N, D).
UNBATCHED = reshaped(lambda tensor: tensor[None], lambda tensor: tensor[0])
TRANSPOSED = reshaped(lambda tensor: tensor.T.contiguous(), lambda tensor: tensor.T)


@dataclass
class Report:
    """Where every tensor of a file went, and what was missing."""

    placed: list[tuple[tuple[str, ...], str]] = field(default_factory=list)
    """Their names -> our name."""
    excused: dict[str, str] = field(default_factory=dict)
    """Their name -> why it is not needed."""
    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Our name -> the names looked for in the file, none where it has no place there at all."""
    leftover: list[str] = field(default_factory=list)
    """Their names that are neither placed nor excused."""
    reshaped: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    """Our name -> the shape found, and the shape wanted."""

    def nearest(self, name: str) -> str | None:
        """The leftover name of the file that is most like a missing one."""
        return nearest(name, self.leftover)

    @property
    def problem(self) -> str | None:
        """What does not fit, in a sentence with the first few names of both sides; None where all fits."""
        parts = []
        if self.missing:
            parts.append(f"{len(self.missing)} missing ({_first(self._missing_names())})")
        if self.leftover:
            parts.append(f"{len(self.leftover)} left over ({_first(self.leftover)})")
        if self.reshaped:
            shapes = (
                f"{name} {shape_text(got)} instead of {shape_text(want)}" for name, (got, want) in self.reshaped.items()
            )
            parts.append(f"{len(self.reshaped)} of another shape ({_first(shapes)})")
        return "; ".join(parts) or None

    def _missing_names(self) -> Iterable[str]:
        for ours, looked_for in self.missing.items():
            name = looked_for[0] if looked_for else ours
            near = self.nearest(name)
            yield f"{shown(name, 100)}, nearest is {shown(near, 100)}" if near else name


def plan(
    entries: Iterable[Entry], shapes: Mapping[str, Shape], wanted: Mapping[str, Shape], excuses: Mapping[str, str]
) -> tuple[list[Entry], Report]:
    """Which entries to use for a file with these tensors, and what becomes of each.

    Args:
        entries: the origin's table; of several entries for one tensor of ours, the first that the file has is taken.
        shapes: the file's tensors.
        wanted: the model's tensors.
        excuses: pattern (as of ``fnmatch``) -> why tensors of that name are not needed.
    """
    report, chosen, looked_for = Report(), dict[str, Entry](), dict[str, tuple[str, ...]]()
    for one in entries:
        if one.ours not in wanted or one.ours in chosen:
            continue
        looked_for.setdefault(one.ours, one.theirs)
        if all(name in shapes for name in one.theirs):
            chosen[one.ours] = one
    report.placed = [(one.theirs, one.ours) for one in chosen.values()]
    report.missing = {name: looked_for.get(name, ()) for name in wanted if name not in chosen}
    used = {name for one in chosen.values() for name in one.theirs}
    for name in shapes:
        if name not in used:
            reason = next((why for pattern, why in excuses.items() if fnmatch.fnmatchcase(name, pattern)), None)
            if reason is None:
                report.leftover.append(name)
            else:
                report.excused[name] = reason
    return list(chosen.values()), report


def to_ours(
    chosen: Iterable[Entry], report: Report, tensors: Tensors, wanted: Mapping[str, Shape], source: object
) -> Tensors:
    """The tensors of a file under our names, taken out of ``tensors`` one by one so that none is held twice.

    Raises:
        UserError: parameters missing, left over or of another shape.
    """
    state: Tensors = {}
    if not (report.missing or report.leftover):
        chosen = list(chosen)
        uses = Counter(name for one in chosen for name in one.theirs)
        for one in chosen:
            parts = [tensors[name] for name in one.theirs]
            uses.subtract(one.theirs)
            for name in one.theirs:
                if not uses[name]:
                    del tensors[name]
            try:
                state[one.ours] = one.layout.to_ours(parts, wanted[one.ours])
            except (RuntimeError, ValueError, IndexError):  # their shapes cannot be put together at all
                report.reshaped[one.ours] = (tuple(parts[0].shape), wanted[one.ours])
                continue
            found = tuple(state[one.ours].shape)
            if found != wanted[one.ours]:
                report.reshaped[one.ours] = (found, wanted[one.ours])
    if report.problem:
        raise UserError(f"{source}: its weights do not fit the model wanted: {report.problem}")
    return state


def to_theirs(entries: Iterable[Entry], state: Mapping[str, "Tensor"]) -> Tensors:
    """A model's tensors under an origin's names.

    Raises:
        UserError: a tensor that has no place there.
    """
    tensors: Tensors = {}
    done: set[str] = set()
    for one in entries:
        if one.ours in state and one.ours not in done:
            done.add(one.ours)
            tensors |= zip(one.theirs, one.layout.to_theirs(state[one.ours]), strict=True)
    homeless = [name for name in state if name not in done]
    if homeless:
        raise UserError(f"{len(homeless)} tensors have no place in that format ({_first(homeless)})")
    return tensors


def nearest(name: str, names: Collection[str]) -> str | None:
    """The one of some names that is most like another; None where none is, or where they are too many to compare."""
    if len(names) > _COMPARED:
        return None
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    return near[0] if near else None


def shape_text(shape: Shape) -> str:
    """As a person writes it."""
    return shown("x".join(str(side) for side in shape), 100) or "scalar"


def _first(names: Iterable[str]) -> str:
    first = [shown(name) for name in islice(names, _SHOWN + 1)]
    return ", ".join(first[:_SHOWN]) + (", ..." if len(first) > _SHOWN else "")
